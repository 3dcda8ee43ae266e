#include "tests/kernels/attend_cases.h"

#include <algorithm>
#include <cmath>
#include <sstream>
#include <utility>

#include "proto/base/check.h"
#include "tests/kernels/codec_cases.h"

namespace varve {

std::vector<ViewCase> PagesOf(CodecId codec, int32_t kv_len, int32_t page_tokens) {
  std::vector<ViewCase> views;
  for (int32_t begin = 0; begin < kv_len; begin += page_tokens) {
    ViewCase view;
    view.codec = codec;
    view.token_capacity = page_tokens;
    view.num_tokens = std::min(page_tokens, kv_len - begin);
    view.first_position = begin;
    views.push_back(view);
  }
  return views;
}

std::vector<int64_t> LastPositions(int32_t kv_len, int32_t count) {
  std::vector<int64_t> positions;
  for (int32_t i = 0; i < count; ++i) {
    positions.push_back(std::max(0, kv_len - count) + i);
  }
  return positions;
}

AttendProblem::AttendProblem(const AttendCase& attend_case)
    : case_(attend_case), rng_after_views_(case_.seed) {
  encoded_.reserve(case_.views.size());
  indices_.reserve(case_.views.size());
  weights_.reserve(case_.views.size());
  for (const ViewCase& view : case_.views) {
    AddView(view, &rng_after_views_);
  }
  DrawQueries();
}

void AttendProblem::Ask(std::vector<int64_t> positions, int64_t window, float logit_softcap) {
  case_.positions = std::move(positions);
  case_.window = window;
  case_.logit_softcap = logit_softcap;
  DrawQueries();
}

void AttendProblem::DrawQueries() {
  Rng rng = rng_after_views_;
  q_.resize(case_.positions.size() * case_.num_qo_heads() * case_.head_dim);
  for (float& value : q_) {
    value = rng.NextNormal();
  }
}

namespace {

// The context of the whole run: tokens before the view's first one need positions, too.
RunContext EncodingContext(const KvView& view) {
  RunContext context = view.context();
  if (view.first_token > 0) {
    context.token_indices = nullptr;
  }
  return context;
}

}  // namespace

void AttendProblem::AddView(const ViewCase& view, Rng* rng) {
  const Codec* codec = FindCodec(view.codec).value();
  const RunShape shape{case_.num_kv_heads, case_.head_dim, view.token_capacity};
  const int32_t num_tokens = view.first_token + view.num_tokens;
  const size_t token_values = static_cast<size_t>(case_.num_kv_heads) * case_.head_dim;
  std::vector<float> k(num_tokens * token_values);
  std::vector<float> v(k.size());
  for (size_t i = 0; i < k.size(); ++i) {
    k[i] = rng->NextNormal();
    v[i] = rng->NextNormal();
  }
  // Room that no token has been written to holds what would be NaN and huge numbers.
  const RunContext context = ContextFor(*codec, shape);
  encoded_.emplace_back(codec->EncodedBytes(shape, context.tables), std::byte{0xff});
  KvView out{};
  out.tables = context.tables;
  out.rope = context.rope;
  out.codec = view.codec;
  out.encoded = encoded_.back();
  out.token_capacity = view.token_capacity;
  out.first_token = view.first_token;
  out.num_tokens = view.num_tokens;
  out.first_position = view.first_position;
  if (view.pruned) {
    std::vector<int32_t>& indices = indices_.emplace_back();
    std::vector<float>& weights = weights_.emplace_back();
    for (int32_t head = 0; head < case_.num_kv_heads; ++head) {
      int32_t index = 0;
      for (int32_t token = 0; token < view.num_tokens; ++token) {
        index += 1 + static_cast<int32_t>(rng->Below(3));
        indices.push_back(index);
        weights.push_back(static_cast<float>(0.5 + 2.0 * rng->NextDouble()));
      }
    }
    out.token_indices = indices.data();
    out.token_weights = weights.data();
  }
  codec->Encode(shape,
                0,
                num_tokens,
                k.data(),
                v.data(),
                token_values,
                EncodingContext(out),
                encoded_.back());
  views_.push_back(out);
}

AttendParams AttendProblem::Params() {
  const size_t rows = case_.positions.size() * case_.num_qo_heads();
  o_.assign(rows * case_.head_dim, 0.0F);
  lse_.assign(rows, -INFINITY);
  // Not a value that Attend would write.
  lse_per_view_.assign(case_.per_view ? rows * views_.size() : 0, 12345.0F);
  AttendParams params;
  params.num_qo_heads = case_.num_qo_heads();
  params.num_kv_heads = case_.num_kv_heads;
  params.head_dim = case_.head_dim;
  params.sm_scale = 1.0F / std::sqrt(static_cast<float>(case_.head_dim));
  params.logit_softcap = case_.logit_softcap;
  params.window = case_.window;
  params.q = q_.data();
  params.q_stride = static_cast<size_t>(case_.num_qo_heads()) * case_.head_dim;
  params.positions = case_.positions;
  params.views = views_;
  params.o = o_.data();
  params.lse = lse_.data();
  params.lse_per_view = case_.per_view ? lse_per_view_.data() : nullptr;
  return params;
}

void AttendProblem::Run(ThreadTeam& team) {
  Attend(Params(), scratch_, team);
}

std::string CompareArrays(const std::vector<float>& actual,
                          const std::vector<double>& expected,
                          double absolute,
                          double relative) {
  std::ostringstream text;
  if (actual.size() != expected.size()) {
    text << "sizes " << actual.size() << " and " << expected.size();
    return text.str();
  }
  size_t worst = 0;
  double worst_excess = 0.0;
  for (size_t i = 0; i < actual.size(); ++i) {
    const double value = actual[i];
    if (!std::isfinite(value) || !std::isfinite(expected[i])) {
      const bool both_nan = std::isnan(value) && std::isnan(expected[i]);
      if (!both_nan && value != expected[i]) {
        text << "at " << i << ": " << value << " where " << expected[i] << " is expected";
        return text.str();
      }
      continue;
    }
    const double difference = std::fabs(value - expected[i]);
    const double excess =
        difference == 0.0 ? 0.0 : difference / (absolute + relative * std::fabs(expected[i]));
    if (excess > worst_excess) {
      worst_excess = excess;
      worst = i;
    }
  }
  if (worst_excess > 1.0) {
    text << "worst at " << worst << ": " << actual[worst] << " where " << expected[worst]
         << " is expected, " << worst_excess << " times the tolerance";
  }
  return text.str();
}

std::string CheckAgainstReference(const AttendCase& attend_case, ThreadTeam& team) {
  AttendProblem problem(attend_case);
  return CheckAgainstReference(problem, team);
}

std::string CheckAgainstReference(AttendProblem& problem, ThreadTeam& team) {
  const AttendCase& attend_case = problem.attend_case();
  // kernels/README.md, "Tolerances".
  double tolerance = 0.0;
  for (const ViewCase& view : attend_case.views) {
    tolerance = std::max(tolerance, AttendTolerance(view.codec));
  }
  problem.Run(team);
  const std::vector<float> o = problem.o();
  const std::vector<float> lse = problem.lse();
  const std::vector<float> lse_per_view = problem.lse_per_view();
  const ReferenceState expected = ReferenceAttend(problem.Params());
  std::string wrong = CompareArrays(lse, expected.lse, tolerance, tolerance);
  if (!wrong.empty()) {
    return "lse " + wrong + " in " + Describe(attend_case);
  }
  wrong = CompareArrays(o, expected.o, tolerance, tolerance);
  if (!wrong.empty()) {
    return "o " + wrong + " in " + Describe(attend_case);
  }
  if (attend_case.per_view) {
    wrong = CompareArrays(lse_per_view, expected.lse_per_view, tolerance, tolerance);
    if (!wrong.empty()) {
      return "lse_per_view " + wrong + " in " + Describe(attend_case);
    }
  }
  return "";
}

std::string Describe(const AttendCase& attend_case) {
  std::ostringstream text;
  text << "kv heads " << attend_case.num_kv_heads << ", group " << attend_case.group_size
       << ", head_dim " << attend_case.head_dim << ", queries " << attend_case.positions.size();
  if (!attend_case.positions.empty()) {
    text << " at " << attend_case.positions.front() << " .. " << attend_case.positions.back();
  }
  text << ", softcap " << attend_case.logit_softcap << ", window " << attend_case.window
       << ", per view " << attend_case.per_view << ", seed " << attend_case.seed << ", views";
  for (const ViewCase& view : attend_case.views) {
    text << " [codec " << static_cast<int>(view.codec) << " capacity " << view.token_capacity
         << " tokens " << view.first_token << "+" << view.num_tokens << " at "
         << view.first_position << (view.pruned ? " pruned]" : "]");
  }
  return text.str();
}

}  // namespace varve
