#include "ops/cli/bench/step_bench.h"

#include <algorithm>
#include <filesystem>
#include <memory>
#include <utility>

#include <fmt/format.h>

#include "kernels/codec/codec.h"
#include "proto/base/clock.h"
#include "proto/base/log.h"
#include "proto/base/rng.h"
#include "worker/local_worker_group.h"

#include "ops/cli/bench/roofs.h"
#include "ops/cli/bench/step_cost.h"
#include "ops/cli/exit_code.h"
#include "ops/cli/local_server.h"
#include <nlohmann/json.hpp>

namespace varve::cli {
namespace {

constexpr uint64_t kHostBytes = uint64_t{8} << 30;  // a budget, not an allocation

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values.at(values.size() / 2);
}

// One number of workers with one form of weights, and what was measured with it.
struct Contestant {
  int workers = 1;
  std::string weights;
  std::unique_ptr<LocalWorkerGroup> group;
  uint64_t step = 0;
  uint64_t sequence = 0;
  std::vector<double> prefill_s;
  std::vector<double> decode_s;  // of one token each
};

Result<void> StepOnce(Contestant& contestant, SequenceWork work) {
  VARVE_TRY(
      StepResult result,
      contestant.group->Step({.epoch = {1}, .step = ++contestant.step, .work = {std::move(work)}}));
  if (result.results[0].error) {
    return *result.results[0].error;
  }
  return {};
}

// What is prefilled in a run, by its length.
Range Prefilled(const StepBenchOptions& options, int64_t tokens) {
  const auto length = static_cast<size_t>(tokens);
  return options.fill ? Range{length, static_cast<size_t>(options.chunk_tokens)} : Range{0, length};
}

// Prefills a made-up document and decodes behind it; keeps the times unless this run is the
// warm-up.
Result<void> RunOnce(const StepBenchOptions& options,
                     int64_t tokens,
                     bool keep,
                     Contestant& contestant) {
  const auto vocab = static_cast<uint64_t>(contestant.group->model().vocab_size);
  Rng rng(1);
  const SequenceId sequence{++contestant.sequence};
  KvPolicy policy;
  policy.codec = options.codec;
  VARVE_RETURN_IF_ERROR(contestant.group->OpenSequence(sequence, {.policy = policy}));
  const Range prefilled = Prefilled(options, tokens);
  const auto begin = static_cast<int64_t>(prefilled.begin);
  const auto end = static_cast<int64_t>(prefilled.end());
  VARVE_RETURN_IF_ERROR(contestant.group->FillSequence(sequence, begin, /*seed=*/2));
  const Clock& clock = SystemClock();
  const int64_t begin_us = clock.NowUs();
  for (int64_t first = begin; first < end; first += options.chunk_tokens) {
    SequenceWork work{.sequence = sequence, .first_position = first, .tokens = {}};
    for (int64_t i = first; i < std::min(end, first + options.chunk_tokens); ++i) {
      work.tokens.push_back(static_cast<int32_t>(rng.Below(vocab)));
    }
    VARVE_RETURN_IF_ERROR(StepOnce(contestant, std::move(work)));
  }
  int64_t at_us = clock.NowUs();
  if (keep) {
    contestant.prefill_s.push_back(static_cast<double>(at_us - begin_us) * 1e-6);
  }
  for (int64_t i = 0; i < options.decode_steps; ++i) {
    SequenceWork work{.sequence = sequence,
                      .first_position = end + i,
                      .tokens = {static_cast<int32_t>(rng.Below(vocab))}};
    work.sample = true;
    VARVE_RETURN_IF_ERROR(StepOnce(contestant, std::move(work)));
    const int64_t now_us = clock.NowUs();
    if (keep) {
      contestant.decode_s.push_back(static_cast<double>(now_us - at_us) * 1e-6);
    }
    at_us = now_us;
  }
  return contestant.group->CloseSequence(sequence);
}

struct Row {
  std::string bench;
  int64_t tokens = 0;
  int workers = 1;
  std::string weights;
  double median_s = 0;
  double tokens_per_s = 0;
  double roof_fraction = 0;
};

class Printer {
 public:
  Printer(const StepBenchOptions& options, int threads, double bits_per_value)
      : options_(options), threads_(threads), bits_per_value_(bits_per_value) {}

  double bits_per_value() const { return bits_per_value_; }

  void Print(const Row& row) const {
    const std::string shape = std::filesystem::path(options_.model_dir).filename().string();
    if (options_.json) {
      const nlohmann::ordered_json line = {{"bench", row.bench},
                                           {"shape", shape},
                                           {"codec", options_.codec},
                                           {"bpe", bits_per_value_},
                                           {"tokens", row.tokens},
                                           {"threads", threads_},
                                           {"workers", row.workers},
                                           {"weights", row.weights},
                                           {"median_ms", row.median_s * 1000},
                                           {"tokens_per_s", row.tokens_per_s},
                                           {"roof_fraction", row.roof_fraction}};
      fmt::print("{}\n", line.dump());
      return;
    }
    fmt::print(
        "{:<13} {:<24} {:<5} {:6.3f} bpe {:>7} tokens  {} threads  {} workers  weights {:<4} "
        "{:>10.2f} ms "
        "{:>9.1f} tokens/s  roof {:.3f}\n",
        row.bench,
        shape,
        options_.codec,
        bits_per_value_,
        row.tokens,
        threads_,
        row.workers,
        row.weights,
        row.median_s * 1000,
        row.tokens_per_s,
        row.roof_fraction);
  }

  void PrintRatio(const std::string& bench,
                  int64_t tokens,
                  const Row& first,
                  const Row& last) const {
    if (!options_.json && (first.workers != last.workers || first.weights != last.weights)) {
      fmt::print(
          "{:<13} {:>7} tokens: {} workers, weights {} take {:.2f} times as long as {}, {}\n",
          bench,
          tokens,
          last.workers,
          last.weights,
          last.median_s / first.median_s,
          first.workers,
          first.weights);
    }
  }

 private:
  const StepBenchOptions& options_;
  const int threads_;
  const double bits_per_value_;
};

Result<void> BenchLength(const StepBenchOptions& options,
                         const Roofs& roofs,
                         const Printer& printer,
                         int64_t tokens,
                         std::vector<Contestant>& contestants) {
  for (int run = 0; run <= options.runs; ++run) {
    for (Contestant& contestant : contestants) {
      VARVE_RETURN_IF_ERROR(RunOnce(options, tokens, /*keep=*/run > 0, contestant));
    }
  }
  std::vector<Row> prefill;
  std::vector<Row> decode;
  for (Contestant& contestant : contestants) {
    const double prefill_s = Median(std::exchange(contestant.prefill_s, {}));
    const double decode_s = Median(std::exchange(contestant.decode_s, {}));
    const ModelConfig& config = contestant.group->config();
    const ModelDescription& model = contestant.group->model();
    const StepCost cost(
        config,
        BytesPerWeight(config, static_cast<double>(model.weight_bytes), model.weights),
        printer.bits_per_value());
    const Range prefilled = Prefilled(options, tokens);
    const auto num_prefilled = static_cast<int64_t>(prefilled.count);
    const double flops = cost.PrefillFlops(static_cast<int64_t>(prefilled.begin), num_prefilled);
    prefill.push_back({.bench = "step_prefill",
                       .tokens = tokens,
                       .workers = contestant.workers,
                       .weights = contestant.weights,
                       .median_s = prefill_s,
                       .tokens_per_s = static_cast<double>(num_prefilled) / prefill_s,
                       .roof_fraction = flops / roofs.fp32_flops_per_s / prefill_s});
    decode.push_back({.bench = "step_decode",
                      .tokens = tokens,
                      .workers = contestant.workers,
                      .weights = contestant.weights,
                      .median_s = decode_s,
                      .tokens_per_s = 1 / decode_s,
                      .roof_fraction = cost.DecodeBytes(static_cast<int64_t>(prefilled.end())) /
                                       roofs.read_bytes_per_s / decode_s});
    printer.Print(prefill.back());
    printer.Print(decode.back());
  }
  printer.PrintRatio("step_prefill", tokens, prefill.front(), prefill.back());
  printer.PrintRatio("step_decode", tokens, decode.front(), decode.back());
  return {};
}

Result<void> Bench(const StepBenchOptions& options) {
  if (options.tokens.empty() || options.workers.empty() || options.weights.empty() ||
      options.runs < 1 || options.decode_steps < 1 || options.chunk_tokens < 1) {
    return Error{ErrorCode::kInvalidArgument,
                 "there must be a length, a number of workers, a form of weights, a run, a step "
                 "and a chunk"};
  }
  const int threads = options.threads > 0 ? options.threads : NumUsableCores();
  std::vector<Contestant> contestants;
  for (const int workers : options.workers) {
    for (const std::string& weights : options.weights) {
      Contestant& contestant = contestants.emplace_back();
      contestant.workers = workers;
      contestant.weights = weights;
      VARVE_TRY(contestant.group,
                LocalWorkerGroup::Open({.model_dir = options.model_dir,
                                        .weights = weights,
                                        .tables_file = options.tables_file,
                                        .num_workers = workers,
                                        .num_threads = threads,
                                        .host_budget_bytes = kHostBytes,
                                        .max_step_tokens = options.chunk_tokens}));
    }
  }
  const ModelConfig& config = contestants.front().group->config();
  VARVE_TRY(const Codec* codec, FindCodec(options.codec));
  const double bits_per_value = codec->BitsPerValue({.num_kv_heads = config.num_kv_heads,
                                                     .head_dim = config.head_dim,
                                                     .token_capacity = KvPolicy().page_tokens});
  const Printer printer(options, threads, bits_per_value);
  const Roofs roofs = MeasureRoofs(threads);
  for (const int64_t tokens : options.tokens) {
    VARVE_RETURN_IF_ERROR(BenchLength(options, roofs, printer, tokens, contestants));
  }
  return {};
}

}  // namespace

int RunStepBench(const StepBenchOptions& options) {
  InitLogging("warn");
  const Result<void> done = Bench(options);
  return done ? kExitOk : ReportError(done.error());
}

}  // namespace varve::cli
