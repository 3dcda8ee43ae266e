#include "ops/cli/bench/served_bench.h"

#include <algorithm>
#include <filesystem>
#include <optional>
#include <vector>

#include <fmt/format.h>

#include "coordinator/text_model.h"
#include "proto/base/clock.h"
#include "proto/base/file.h"
#include "proto/base/log.h"
#include "proto/base/rng.h"
#include "worker/model_config.h"

#include "ops/cli/api_client.h"
#include "ops/cli/bench/roofs.h"
#include "ops/cli/bench/step_cost.h"
#include "ops/cli/exit_code.h"
#include "ops/cli/ingest_session.h"
#include "ops/cli/local_server.h"
#include "ops/cli/temporary_directory.h"
#include <nlohmann/json.hpp>

namespace varve::cli {
namespace {

const char* const kContextName = "bench";
const char* const kWords[] = {"river",
                              "letter",
                              "morning",
                              "of",
                              "the",
                              "and",
                              "a",
                              "stone",
                              "went",
                              "old",
                              "under",
                              "house"};

struct Figure {
  std::string bench;
  std::vector<double> seconds;
  int64_t tokens = 0;
  double bpe = 0;            // bits per value, everything durable included
  double roof_seconds = -1;  // < 0: there is none

  double Median() const {
    std::vector<double> sorted = seconds;
    std::sort(sorted.begin(), sorted.end());
    return sorted.at(sorted.size() / 2);
  }
};

// Prose of at least `num_tokens` tokens of this model.
Result<std::string> MakeText(const std::string& model_dir, int64_t num_tokens) {
  VARVE_TRY(const auto text_model, LoadTextModel(model_dir, &SystemClock()));
  Rng rng(1);
  std::string text;
  int64_t count = 0;
  while (count < num_tokens) {
    std::string line;
    for (int i = 0; i < 16; ++i) {
      line += fmt::format("{}{}", i > 0 ? " " : "", kWords[rng.Below(std::size(kWords))]);
    }
    line += ".\n";
    VARVE_TRY(const auto tokens, text_model->EncodeDocument(line, !text.empty()));
    count += static_cast<int64_t>(tokens.size());
    text += line;
  }
  return text;
}

// One server after the other on one data directory.
class Bench {
 public:
  Bench(const ServedBenchOptions& options, std::string data_dir) : options_(options) {
    server_options_ = {.model_dir = options.model_dir,
                       .weights = options.weights,
                       .tables_file = options.tables_file,
                       .num_workers = options.workers,
                       .num_threads = options.threads > 0 ? options.threads : NumUsableCores(),
                       .port = 0,
                       .data_dir = std::move(data_dir)};
  }

  Result<void> Start() {
    VARVE_TRY(server_, LocalServer::Start(server_options_));
    VARVE_TRY(ApiClient client, ApiClient::Create(server_->url()));
    client_.emplace(std::move(client));
    return {};
  }
  void Stop() { server_.reset(); }

  Result<ContextInfo> Ingest(const std::string& text) const {
    IngestSession session(
        *client_, {.name = kContextName, .kv = {.codec = options_.codec}}, text, [](const auto&) {
        });
    VARVE_TRY(IngestSummary summary, session.Run());
    return std::move(summary.context);
  }

  const ApiClient& client() const { return *client_; }
  int threads() const { return server_options_.num_threads; }

 private:
  const ServedBenchOptions options_;
  LocalServerOptions server_options_;
  std::unique_ptr<LocalServer> server_;
  std::optional<ApiClient> client_;
};

template <typename Body>
Result<double> Seconds(const Body& body) {
  const int64_t begin_us = SystemClock().NowUs();
  VARVE_RETURN_IF_ERROR(body());
  return static_cast<double>(SystemClock().NowUs() - begin_us) * 1e-6;
}

// Durable bits per value that bf16 would keep in 16.
double BitsPerValue(const ContextInfo& context) {
  return context.bf16_bytes > 0 ? 16.0 * static_cast<double>(context.disk_bytes) /
                                      static_cast<double>(context.bf16_bytes)
                                : 0;
}

void Print(const ServedBenchOptions& options, int threads, const Figure& figure) {
  const double median = figure.Median();
  const double roof = figure.roof_seconds < 0 ? -1 : figure.roof_seconds / median;
  const double tokens_per_s = static_cast<double>(figure.tokens) / median;
  const std::string shape = std::filesystem::path(options.model_dir).filename().string();
  if (options.json) {
    const nlohmann::ordered_json row = {{"bench", figure.bench},
                                        {"shape", shape},
                                        {"codec", options.codec},
                                        {"bpe", figure.bpe},
                                        {"tokens", figure.tokens},
                                        {"threads", threads},
                                        {"workers", options.workers},
                                        {"median_ms", median * 1000},
                                        {"tokens_per_s", tokens_per_s},
                                        {"roof_fraction", roof}};
    fmt::print("{}\n", row.dump());
    return;
  }
  fmt::print(
      "{:<15} {:<24} {:<6} {:6.3f} bpe {:>9} tokens  {} threads  {} workers {:>10.1f} ms {:>12.1f} "
      "tokens/s  roof {}\n",
      figure.bench,
      shape,
      options.codec,
      figure.bpe,
      figure.tokens,
      threads,
      options.workers,
      median * 1000,
      tokens_per_s,
      roof < 0 ? "-" : fmt::format("{:.3f}", roof));
}

Result<void> BenchIngest(const ServedBenchOptions& options, const std::string& data_dir) {
  VARVE_TRY(const std::string text, MakeText(options.model_dir, options.tokens));
  VARVE_TRY(const std::string config_text, ReadFile(options.model_dir + "/config.json"));
  VARVE_TRY(const ModelConfig model, ParseModelConfig(config_text));
  Bench bench(options, data_dir);
  VARVE_RETURN_IF_ERROR(bench.Start());
  Figure figure{.bench = "ingest"};
  for (int run = 0; run <= options.runs; ++run) {
    ContextInfo context;
    VARVE_TRY(const double seconds, Seconds([&]() -> Result<void> {
                VARVE_TRY(context, bench.Ingest(text));
                return {};
              }));
    if (run > 0) {  // the first one warms up
      figure.seconds.push_back(seconds);
    }
    figure.tokens = context.tokens;
    figure.bpe = BitsPerValue(context);
    VARVE_RETURN_IF_ERROR(bench.client().DeleteContext(kContextName));
  }
  const StepCost cost(model, /*bytes_per_weight=*/0, /*kv_bits=*/0);
  figure.roof_seconds =
      cost.PrefillFlops(0, figure.tokens) / MeasureRoofs(bench.threads()).fp32_flops_per_s;
  Print(options, bench.threads(), figure);
  return {};
}

Result<void> BenchRestart(const ServedBenchOptions& options, const std::string& data_dir) {
  VARVE_TRY(const std::string text, MakeText(options.model_dir, options.tokens));
  Bench bench(options, data_dir);
  VARVE_RETURN_IF_ERROR(bench.Start());
  VARVE_TRY(const ContextInfo context, bench.Ingest(text));
  Figure reopen{.bench = "restart_reopen", .tokens = context.tokens, .bpe = BitsPerValue(context)};
  Figure answer{.bench = "restart_answer", .tokens = context.tokens, .bpe = BitsPerValue(context)};
  for (int run = 0; run < options.runs; ++run) {
    bench.Stop();
    VARVE_TRY(const double open_s, Seconds([&] { return bench.Start(); }));
    reopen.seconds.push_back(open_s);
    VARVE_TRY(const double answer_s, Seconds([&]() -> Result<void> {
                VARVE_TRY(const ChatAnswer asked,
                          bench.client().Ask(
                              {.context = kContextName, .question = "What?", .max_tokens = 1},
                              [](std::string_view) {}));
                return {};
              }));
    answer.seconds.push_back(answer_s);
  }
  Figure recompute{.bench = "recompute_answer", .tokens = context.tokens};
  for (int run = 0; run < options.runs; ++run) {
    VARVE_TRY(const double seconds, Seconds([&]() -> Result<void> {
                VARVE_TRY(const ChatAnswer asked,
                          bench.client().Ask({.system = text, .question = "What?", .max_tokens = 1},
                                             [](std::string_view) {}));
                return {};
              }));
    recompute.seconds.push_back(seconds);
  }
  const Roofs roofs = MeasureRoofs(bench.threads());
  VARVE_TRY(const std::string config_text, ReadFile(options.model_dir + "/config.json"));
  VARVE_TRY(const ModelConfig model, ParseModelConfig(config_text));
  answer.roof_seconds = static_cast<double>(context.disk_bytes) / roofs.read_bytes_per_s;
  const StepCost cost(model, /*bytes_per_weight=*/0, /*kv_bits=*/0);
  recompute.roof_seconds = cost.PrefillFlops(0, context.tokens) / roofs.fp32_flops_per_s;
  Print(options, bench.threads(), reopen);
  Print(options, bench.threads(), answer);
  Print(options, bench.threads(), recompute);
  return {};
}

int RunInTemporaryDirectory(const ServedBenchOptions& options,
                            Result<void> (*bench)(const ServedBenchOptions&, const std::string&)) {
  InitLogging("warn");
  const auto data = TemporaryDirectory::Make();
  if (!data) {
    return ReportError(data.error());
  }
  const auto done = bench(options, data->path());
  return done ? kExitOk : ReportError(done.error());
}

}  // namespace

int RunIngestBench(const ServedBenchOptions& options) {
  return RunInTemporaryDirectory(options, BenchIngest);
}

int RunRestartBench(const ServedBenchOptions& options) {
  return RunInTemporaryDirectory(options, BenchRestart);
}

}  // namespace varve::cli
