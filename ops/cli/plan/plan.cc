#include "ops/cli/plan/plan.h"

#include <algorithm>
#include <array>
#include <cmath>

#include <fmt/format.h>

#include "kvstore/resolved_policy.h"
#include "proto/base/units.h"

#include "ops/cli/bench/step_cost.h"
#include "ops/cli/plan/context_bytes.h"

namespace varve::cli {
namespace {

constexpr uint64_t kContextId = 1;
// What two batches of reads may hold of a tier whose pages do not all fit (MemoryTier).
constexpr double kReadShare = 0.25;
constexpr double kMostReadBytes = static_cast<double>(64 * kMiB);
// Codecs without tables, from the most precise on.
constexpr const char* kCodecs[] = {"int8", "int4", "rot4", "rot3", "rot2"};

// Bytes of a context whose pages are all on one rung.
struct RungBytes {
  double pages = 0;
  double others = 0;  // tails and rows, which are on disk only
  double sketch = 0;
};

// Of the worker that has most, and of all.
struct Bytes {
  RungBytes most;
  RungBytes all;
};

Result<Bytes> BytesOn(const PlanRequest& request, const KvGeometry& geometry, std::string codec) {
  KvPolicy policy = request.policy;
  policy.codec = std::move(codec);
  policy.warm_codec.clear();
  policy.cold_codec.clear();
  Bytes bytes;
  for (int32_t rank = 0; rank < request.workers; ++rank) {
    VARVE_TRY(
        const ContextBytes own,
        BytesOfContext(geometry, policy, request.tokens, {rank, request.workers}, kContextId));
    const RungBytes one{.pages = static_cast<double>(own.page_bytes),
                        .others = static_cast<double>(own.tail_bytes + own.row_bytes),
                        .sketch = static_cast<double>(own.sketch_bytes)};
    bytes.all.pages += one.pages;
    bytes.all.others += one.others;
    bytes.all.sketch += one.sketch;
    if (one.pages + one.others >= bytes.most.pages + bytes.most.others) {
      bytes.most = one;
    }
  }
  return bytes;
}

// What of a tier's budget pages can have.
double Room(double budget, double other_bytes, double page_bytes) {
  const double left = std::max(0.0, budget - other_bytes);
  return page_bytes <= left ? left
                            : std::max(0.0, left - std::min(kReadShare * budget, kMostReadBytes));
}

class Planner {
 public:
  Planner(const PlanRequest& request, const Machine& machine)
      : request_(request), machine_(machine) {}

  Result<Plan> Make() {
    if (request_.tokens > request_.model.max_positions) {
      plan_.warnings.push_back(fmt::format("the model itself takes {} tokens ({})",
                                           request_.model.max_positions,
                                           request_.model.max_positions_because));
    }
    const KvPolicy& policy = request_.policy;
    VARVE_TRY(geometry_, WithStandInTables(request_.model.Geometry(), policy));
    VARVE_RETURN_IF_ERROR(ResolvedPolicy::Resolve(policy, geometry_));
    codecs_[0] = policy.codec;
    codecs_[1] = policy.warm_codec.empty() ? codecs_[0] : policy.warm_codec;
    codecs_[2] = policy.cold_codec.empty() ? codecs_[1] : policy.cold_codec;
    for (size_t rung = 0; rung < codecs_.size(); ++rung) {
      VARVE_TRY(bytes_[rung], BytesOn(request_, geometry_, codecs_[rung]));
    }
    const StepCost cost(request_.model, request_.bytes_per_weight, 0);
    weights_ = request_.bytes_per_weight * StoredParams(request_.model) / Sharers();
    device_budget_ = Budget(request_.device_budget, machine_.device_memory);
    host_budget_ = Budget(request_.host_budget, machine_.host_memory);
    Place();
    Judge();
    Advise();
    Predict();
    return plan_;
  }

 private:
  static double Budget(uint64_t wanted, uint64_t there) {
    return static_cast<double>(wanted > 0 ? wanted : there);
  }
  // By how many the budgets are to be divided: they are of each worker, or of all.
  double Sharers() const { return machine_.workers_share ? 1.0 : request_.workers; }
  const RungBytes& Of(size_t rung) const {
    return machine_.workers_share ? bytes_[rung].all : bytes_[rung].most;
  }

  // All in the hot codec while it fits memory; else what the device has no room for goes down.
  void Place() {
    const bool has_device = device_budget_ > 0;
    const double on_device = has_device && !machine_.workers_share ? weights_ : 0.0;
    const double on_host = Of(0).sketch + (on_device > 0 ? 0.0 : weights_);
    const double hot = Of(0).pages;
    const auto part = [](double room, double pages) {
      return pages > 0 ? std::clamp(room / pages, 0.0, 1.0) : 1.0;
    };
    const double device = has_device ? part(Room(device_budget_, on_device, hot), hot) : 0.0;
    double host = std::min(1 - device, part(Room(host_budget_, on_host, (1 - device) * hot), hot));
    const bool goes_down = device + host < 1;
    const size_t warm = goes_down ? 1 : 0;
    if (goes_down) {
      const double pages = Of(1).pages;
      host = std::min(1 - device, part(Room(host_budget_, on_host, (1 - device) * pages), pages));
    }
    const double disk = std::max(0.0, 1 - device - host);
    const size_t cold = disk > 0 ? 2 : warm;
    shares_ = {device, host, disk};
    rungs_ = {0, warm, cold};
    const double stored = device * hot + host * Of(warm).pages + disk * Of(cold).pages;
    const auto bytes = [](double value) { return static_cast<uint64_t>(std::llround(value)); };
    plan_.tiers = {{.name = "device",
                    .codec = codecs_[0],
                    .budget = bytes(device_budget_),
                    .other_bytes = bytes(on_device),
                    .page_bytes = bytes(device * hot),
                    .share = device},
                   {.name = "host",
                    .codec = codecs_[warm],
                    .budget = bytes(host_budget_),
                    .other_bytes = bytes(on_host),
                    .page_bytes = bytes(host * Of(warm).pages),
                    .share = host},
                   {.name = "disk",
                    .codec = codecs_[cold],
                    .budget = machine_.disk,
                    .other_bytes = bytes(Of(0).others),
                    .page_bytes = bytes(stored),
                    .share = disk}};
    const double all = device * bytes_[0].all.pages + host * bytes_[warm].all.pages +
                       disk * bytes_[cold].all.pages;
    plan_.context_bytes = bytes(all + bytes_[0].all.others);
    plan_.weight_bytes = bytes(weights_ * Sharers());
  }

  void Judge() {
    const PlannedTier& device = plan_.tiers[0];
    const PlannedTier& host = plan_.tiers[1];
    const PlannedTier& disk = plan_.tiers[2];
    const auto text = [](uint64_t bytes) { return FormatBytes(bytes); };
    if (device.budget > 0 && device.other_bytes >= device.budget) {
      plan_.reasons.push_back(fmt::format("a worker's weights take {}, its device tier has {}",
                                          text(device.other_bytes),
                                          text(device.budget)));
    }
    if (machine_.disk > 0 && disk.page_bytes + disk.other_bytes > machine_.disk) {
      plan_.reasons.push_back(fmt::format("the context takes {} on disk, which has {}",
                                          text(disk.page_bytes + disk.other_bytes),
                                          text(machine_.disk)));
    }
    const auto sketch = static_cast<uint64_t>(Of(0).sketch);
    const uint64_t held = host.other_bytes - std::min(host.other_bytes, sketch);
    if (host.budget > 0 && held >= host.budget) {
      plan_.reasons.push_back(
          fmt::format("weights take {}, the host tier has {}", text(held), text(host.budget)));
    }
    plan_.fits = plan_.reasons.empty();
    plan_.fits_selective = plan_.fits && (host.budget == 0 || host.other_bytes < host.budget);
    if (plan_.fits && !plan_.fits_selective) {
      plan_.reasons.push_back(
          fmt::format("selective attention needs {} of host memory for key "
                      "sketches, the host tier has {}",
                      text(host.other_bytes),
                      text(host.budget)));
    }
  }

  // What keeps every page in the highest tier that there is.
  void Advise() {
    const bool has_device = device_budget_ > 0;
    const double budget = has_device ? device_budget_ : host_budget_;
    const PlannedTier& tier = plan_.tiers[has_device ? 0 : 1];
    if (plan_.fits_selective && tier.share >= 1) {
      return;
    }
    const double others = static_cast<double>(tier.other_bytes);
    if (!machine_.workers_share && budget > 0) {
      const double all = weights_ * Sharers() + bytes_[0].all.pages;
      plan_.advice.push_back(fmt::format("--gpus {} keeps every page in the {} tier",
                                         static_cast<int64_t>(std::ceil(all / budget)),
                                         tier.name));
    }
    for (const char* codec : kCodecs) {
      const auto bytes = BytesOn(request_, geometry_, codec);
      const double pages = !bytes                   ? 0.0
                           : machine_.workers_share ? bytes->all.pages
                                                    : bytes->most.pages;
      if (bytes && pages < Of(0).pages && others + pages <= budget) {
        plan_.advice.push_back(fmt::format("--codec {} does so, too", codec));
        break;
      }
    }
    plan_.advice.push_back(fmt::format("a budget of {} in the {} tier does so, too",
                                       FormatBytes(static_cast<uint64_t>(others + Of(0).pages)),
                                       tier.name));
    if (machine_.disk > 0 && !plan_.fits) {
      plan_.advice.push_back(
          fmt::format("{} of disk hold it",
                      FormatBytes(plan_.tiers[2].page_bytes + plan_.tiers[2].other_bytes)));
    }
  }

  void Predict() {
    const Predictor predictor(
        machine_, request_.model, request_.workers, request_.bytes_per_weight);
    const auto reads = [&](double share) {
      return PlannedReads{.codec = codecs_[0],
                          .device_bytes = share * shares_[0] * bytes_[0].all.pages,
                          .host_bytes = share * shares_[1] * bytes_[rungs_[1]].all.pages,
                          .disk_bytes = share * shares_[2] * bytes_[rungs_[2]].all.pages,
                          .sketch_bytes = bytes_[0].all.sketch};
    };
    const double share = std::min(
        1.0, static_cast<double>(request_.budget_tokens) / static_cast<double>(request_.tokens));
    plan_.exact = predictor.Decode(request_.tokens, 1, reads(1));
    plan_.selective = predictor.Decode(request_.tokens, share, reads(share));
    plan_.ingest_s = predictor.Prefill(0, request_.tokens);
    double values = 0;
    for (const LayerConfig& layer : request_.model.layers) {
      const auto tokens = static_cast<double>(request_.tokens);
      values += layer.window > 0 ? std::min(tokens, static_cast<double>(layer.window)) : tokens;
    }
    values *= 2.0 * request_.model.num_kv_heads * request_.model.head_dim;
    plan_.bits_per_value = 8 * static_cast<double>(plan_.context_bytes) / values;
  }

  const PlanRequest& request_;
  const Machine& machine_;
  KvGeometry geometry_;
  std::array<std::string, kNumRungs> codecs_;
  std::array<Bytes, kNumRungs> bytes_;      // if all pages were on the rung
  std::array<double, kNumRungs> shares_{};  // of the pages, by the tier that they are read from
  std::array<size_t, kNumRungs> rungs_{};   // by tier
  double weights_ = 0;                      // of those that share a budget
  double device_budget_ = 0;
  double host_budget_ = 0;
  Plan plan_;
};

}  // namespace

Result<Plan> MakePlan(const PlanRequest& request, const Machine& machine) {
  return Planner(request, machine).Make();
}

}  // namespace varve::cli
