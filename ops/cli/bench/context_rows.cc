#include "ops/cli/bench/context_rows.h"

#include <cmath>

#include <fmt/format.h>

#include "proto/base/units.h"

#include "ops/cli/progress.h"
#include <nlohmann/json.hpp>

namespace varve::cli {
namespace {

using Json = nlohmann::ordered_json;

Json RowOf(const ContextBenchShape& shape, const std::string& bench) {
  return {{"bench", bench},
          {"shape", shape.model},
          {"codec", shape.codec},
          {"bpe", shape.bpe},
          {"tokens", shape.tokens},
          {"threads", shape.threads},
          {"workers", shape.workers}};
}

std::string Prefix(const ContextBenchShape& shape, const std::string& bench) {
  return fmt::format("{:<15} {} {} {:.3f} bpe {} tokens  {} threads  {} workers ",
                     bench,
                     shape.model,
                     shape.codec,
                     shape.bpe,
                     FormatCount(shape.tokens),
                     shape.threads,
                     shape.workers);
}

}  // namespace

void PrintIngest(const ContextBenchShape& shape, const IngestFigure& figure) {
  const double rate = static_cast<double>(figure.tokens) / figure.seconds;
  const double roof = figure.roof_seconds / figure.seconds;
  if (shape.json) {
    Json row = RowOf(shape, "context_ingest");
    row.update({{"tokens_computed", figure.tokens},
                {"median_ms", figure.seconds * 1000},
                {"tokens_per_s", rate},
                {"roof_fraction", roof}});
    fmt::print("{}\n", row.dump());
    return;
  }
  fmt::print("{} {} computed in {}  {:.1f} tokens/s  roof {:.3f}\n",
             Prefix(shape, "context_ingest"),
             FormatCount(figure.tokens),
             FormatDuration(figure.seconds),
             rate,
             roof);
}

void PrintTiers(const ContextBenchShape& shape,
                const ContextInfo& context,
                uint64_t device_budget_bytes,
                uint64_t host_budget_bytes) {
  const auto per_token = [&](uint64_t bytes) {
    return static_cast<double>(bytes) / static_cast<double>(shape.tokens);
  };
  if (shape.json) {
    Json row = RowOf(shape, "context_tiers");
    row.update({{"device_bytes_per_token", per_token(context.device_bytes)},
                {"host_bytes_per_token", per_token(context.host_bytes)},
                {"disk_bytes_per_token", per_token(context.disk_bytes)},
                {"bf16_bytes_per_token", per_token(context.bf16_bytes)},
                {"device_budget_bytes", device_budget_bytes},
                {"host_budget_bytes", host_budget_bytes}});
    fmt::print("{}\n", row.dump());
    return;
  }
  fmt::print(
      "{} bytes per token: device {:.1f}, host {:.1f}, disk {:.1f}; {:.1f} in bf16. Budgets: "
      "device {}, host {}\n",
      Prefix(shape, "context_tiers"),
      per_token(context.device_bytes),
      per_token(context.host_bytes),
      per_token(context.disk_bytes),
      per_token(context.bf16_bytes),
      FormatBytes(device_budget_bytes),
      FormatBytes(host_budget_bytes));
}

void PrintLookups(const ContextBenchShape& shape,
                  const std::string& attention,
                  const LookupResults& results,
                  double roof_seconds) {
  const double median = Quantile(results.gaps_s, 0.5);
  const double p90 = Quantile(results.gaps_s, 0.9);
  const double first = Quantile(results.first_s, 0.5);
  const bool is_selective = results.pages_total > 0;
  const double share = is_selective ? static_cast<double>(results.pages_read) /
                                          static_cast<double>(results.pages_total)
                                    : 1.0;
  // Of the answers' bounds, each the largest of any step, layer and head.
  const double bound = results.error_bounds.empty() ? 0.0 : Quantile(results.error_bounds, 0.5);
  const double worst = results.error_bounds.empty() ? 0.0 : Quantile(results.error_bounds, 1.0);
  if (shape.json) {
    Json row = RowOf(shape, "context_" + attention);
    const auto finite = [](double value) { return std::isfinite(value) ? Json(value) : Json(); };
    row.update({{"median_ms", median * 1000},
                {"p90_ms", p90 * 1000},
                {"first_token_ms", first * 1000},
                {"tokens_per_s", 1 / median},
                {"roof_fraction", roof_seconds / median},
                {"steps", results.gaps_s.size()},
                {"right", results.right},
                {"asked", results.asked},
                {"read_share", share},
                {"error_bound_median", finite(bound)},
                {"error_bound_max", finite(worst)}});
    fmt::print("{}\n", row.dump());
    return;
  }
  const auto text = [](double value) {
    return std::isfinite(value) ? fmt::format("{:.3f}", value) : std::string("unknown");
  };
  fmt::print(
      "{} {:.2f} ms a token (p90 {:.2f}, {} steps)  first {:.0f} ms  roof {:.3f}  {} of {} "
      "right  {:.2f} % of the pages read{}\n",
      Prefix(shape, "context_" + attention),
      median * 1000,
      p90 * 1000,
      results.gaps_s.size(),
      first * 1000,
      roof_seconds / median,
      results.right,
      results.asked,
      share * 100,
      is_selective ? fmt::format("  error bound {} (worst {})", text(bound), text(worst))
                   : std::string());
}

}  // namespace varve::cli
