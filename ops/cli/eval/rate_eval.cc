#include "ops/cli/eval/rate_eval.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>

#include <fmt/format.h>

#include "ops/cli/eval/normal.h"
#include "ops/cli/eval/round_trip.h"

namespace varve::cli {
namespace {

constexpr int32_t kGaussianHeadDim = 128;
constexpr size_t kGaussianPages = 24;
constexpr size_t kMinMaxGroups = 4096;
// Mean squared error of the best 2^b levels for a unit Gaussian, b = 1 to 5 (Max 1960, table I).
constexpr std::array kLloydMax = {0.3634, 0.1175, 0.03454, 0.009497, 0.002499};

constexpr uint64_t kCalibrationStream = 1;  // of the seed; what is measured is drawn from stream 0

EvalRow RateRow(const std::string& model, double outliers, const std::string& codec, double bpe) {
  return {.part = "rate",
          .model = model,
          .outliers = outliers,
          .codec = codec,
          .policy = "full",
          .bpe = bpe,
          .figures = {}};
}

void AddFigures(double k_mse, double v_mse, EvalRow* row) {
  const double mse = std::sqrt(k_mse * v_mse);
  row->Add("mse", mse);
  row->Add("k_mse", k_mse);
  row->Add("v_mse", v_mse);
  // No code: nothing to compare (f32, and what it keeps exactly).
  row->Add("gap_db", mse > 0 ? 10 * std::log10(mse * std::pow(4.0, row->bpe)) : 0);
}

// The error of `bits` equal steps from the smallest to the largest of each group of a unit
// Gaussian.
double MinMaxError(int bits) {
  Rng rng(12);
  std::vector<float> group(kGaussianHeadDim);
  double error = 0;
  for (size_t i = 0; i < kMinMaxGroups; ++i) {
    FillNormal(&rng, group);
    const auto [low, high] = std::minmax_element(group.begin(), group.end());
    const double first = *low;
    const double step = (*high - first) / ((1 << bits) - 1);
    for (const float x : group) {
      const double level = first + step * std::round((x - first) / step);
      error += (x - level) * (x - level);
    }
  }
  return error / static_cast<double>(kMinMaxGroups * kGaussianHeadDim);
}

// Squared error and squared size of one head of one layer.
struct Energy {
  double error = 0;
  double size = 0;
};

void AddEnergy(const RunShape& page,
               int32_t layer,
               const std::vector<float>& exact,
               const std::vector<float>& coded,
               std::map<std::pair<int32_t, int32_t>, Energy>* energies) {
  const auto head_dim = static_cast<size_t>(page.head_dim);
  for (size_t row = 0; row < exact.size() / head_dim; ++row) {
    const auto head = static_cast<int32_t>(row % static_cast<size_t>(page.num_kv_heads));
    Energy& energy = (*energies)[{layer, head}];
    for (size_t i = row * head_dim; i < (row + 1) * head_dim; ++i) {
      const double error = static_cast<double>(exact[i]) - coded[i];
      energy.error += error * error;
      energy.size += static_cast<double>(exact[i]) * exact[i];
    }
  }
}

// Keys, values and queries of another draw than what is measured.
CalibrationSample GaussianSample(uint64_t seed) {
  constexpr size_t kDim = kGaussianHeadDim;
  const RunShape page = GaussianPage();
  const auto num_tokens = kGaussianPages * static_cast<size_t>(page.token_capacity);
  CalibrationSample sample;
  sample.num_kv_heads = page.num_kv_heads;
  sample.head_dim = page.head_dim;
  sample.num_tokens = static_cast<int64_t>(num_tokens);
  sample.k.resize(num_tokens * kDim);
  sample.v.resize(num_tokens * kDim);
  Rng rng(seed, kCalibrationStream);
  FillNormal(&rng, sample.k);
  FillNormal(&rng, sample.v);
  sample.q_moment.resize(kDim * kDim, 0.0);
  for (size_t i = 0; i < kDim; ++i) {
    sample.q_moment[i * kDim + i] = 1.0 / kDim;  // every direction alike
  }
  return sample;
}

double MeanRelative(const std::map<std::pair<int32_t, int32_t>, Energy>& energies) {
  double sum = 0;
  for (const auto& [head, energy] : energies) {
    sum += energy.size > 0 ? energy.error / energy.size : 0;
  }
  return sum / static_cast<double>(energies.size());
}

}  // namespace

RunShape GaussianPage() {
  return {
      .num_kv_heads = 1, .head_dim = kGaussianHeadDim, .token_capacity = KvPolicy().page_tokens};
}

RecordedKv GaussianKv(uint64_t seed, const std::vector<const Codec*>& codecs) {
  RecordedKv kv{
      .model = "gaussian", .page = GaussianPage(), .pages = {}, .ropes = {}, .tables = {}};
  Rng rng(seed);
  const size_t floats = static_cast<size_t>(kv.page.head_dim * kv.page.token_capacity);
  for (size_t i = 0; i < kGaussianPages; ++i) {
    RecordedPage& page = kv.pages.emplace_back(
        RecordedPage{0, 0, std::vector<float>(floats), std::vector<float>(floats)});
    FillNormal(&rng, page.k);
    FillNormal(&rng, page.v);
  }
  const CalibrationSample sample = GaussianSample(seed);
  for (const Codec* codec : codecs) {
    if (codec->needs_tables()) {
      kv.tables.Add(codec->id(), 0, codec->Calibrate(sample));
    }
  }
  return kv;
}

std::vector<EvalRow> ReferenceLines() {
  std::vector<EvalRow> rows;
  const auto add = [&rows](const std::string& name, double bpe, double mse) {
    EvalRow& row = rows.emplace_back(RateRow("gaussian", 1, name, bpe));
    row.policy = "reference";
    AddFigures(mse, mse, &row);
  };
  for (int bits = 1; bits <= 8; ++bits) {
    add("shannon", bits, std::pow(4.0, -bits));
  }
  for (size_t i = 0; i < kLloydMax.size(); ++i) {
    add("lloyd-max", static_cast<double>(i + 1) + 16.0 / kGaussianHeadDim, kLloydMax[i]);
  }
  for (int bits = 2; bits <= 8; ++bits) {
    add("min-max", bits + 32.0 / kGaussianHeadDim, MinMaxError(bits));
  }
  return rows;
}

std::vector<EvalRow> MeasureRate(const RecordedKv& kv,
                                 const std::vector<Candidate>& candidates,
                                 LabProgress* progress) {
  progress->Begin(fmt::format("rate, {} x{:g}", kv.model, kv.outliers),
                  static_cast<int64_t>(candidates.size()));
  std::vector<EvalRow> rows;
  std::vector<std::byte> scratch;
  for (const Candidate& candidate : candidates) {
    std::map<std::pair<int32_t, int32_t>, Energy> k_energy;
    std::map<std::pair<int32_t, int32_t>, Energy> v_energy;
    double bits = 0;
    for (const RecordedPage& page : kv.pages) {
      const RunContext context = kv.ContextOf(*candidate.codec, page);
      std::vector<float> k(page.k.size());
      std::vector<float> v(page.v.size());
      RoundTrip(*candidate.codec,
                kv.page,
                page.k.data(),
                page.v.data(),
                context,
                &scratch,
                k.data(),
                v.data());
      AddEnergy(kv.page, page.layer, page.k, k, &k_energy);
      AddEnergy(kv.page, page.layer, page.v, v, &v_energy);
      bits += candidate.codec->BitsPerValue(kv.page, context.tables);
    }
    EvalRow& row = rows.emplace_back(RateRow(kv.model,
                                             kv.outliers,
                                             std::string(candidate.codec->name()),
                                             bits / static_cast<double>(kv.pages.size())));
    row.tables = candidate.codec->needs_tables() ? kTablesMade : "";
    AddFigures(MeanRelative(k_energy), MeanRelative(v_energy), &row);
    progress->Advance();
  }
  return rows;
}

}  // namespace varve::cli
