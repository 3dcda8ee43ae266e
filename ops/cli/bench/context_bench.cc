#include "ops/cli/bench/context_bench.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <memory>
#include <optional>

#include <fmt/format.h>

#include "coordinator/text_model.h"
#include "proto/base/clock.h"
#include "proto/base/file.h"
#include "proto/base/log.h"
#include "worker/model_config.h"

#include "ops/cli/bench/context_document.h"
#include "ops/cli/bench/context_rows.h"
#include "ops/cli/bench/roofs.h"
#include "ops/cli/bench/step_cost.h"
#include "ops/cli/eval/embedded.h"
#include "ops/cli/eval/lab_progress.h"
#include "ops/cli/exit_code.h"
#include "ops/cli/ingest_session.h"
#include "ops/cli/interrupt.h"
#include "ops/cli/local_server.h"
#include "ops/cli/progress.h"
#include "ops/cli/temporary_directory.h"

namespace varve::cli {
namespace {

const char* const kContextName = "bench";
// Of all tokens: what selective attention may read of them where no option says otherwise, and
// below 3 % with what it always reads.
constexpr int64_t kBudgetShare = 40;

Error Invalid(std::string message) {
  return Error{ErrorCode::kInvalidArgument, std::move(message)};
}

Result<void> Check(const ContextBenchOptions& options) {
  for (const std::string& attention : options.attention) {
    if (attention != "exact" && attention != "select") {
      return Invalid(fmt::format("--attention '{}'; there are exact and select", attention));
    }
  }
  if (options.attention.empty()) {
    return Invalid("--attention: name exact, select or both");
  }
  const auto is_share = [](double share) { return std::isfinite(share) && share >= 0; };
  if (!is_share(options.device_share) || !is_share(options.host_share) || options.host_share == 0) {
    return Invalid(
        fmt::format("--device-share {} --host-share {}: shares are not negative, and "
                    "the host tier has one above 0",
                    options.device_share,
                    options.host_share));
  }
  return {};
}

Result<FactDocument> MakeDocument(const ContextBenchOptions& options) {
  VARVE_TRY(const auto text_model, LoadTextModel(options.model_dir, &SystemClock()));
  std::string text(EmbeddedText());
  if (!options.text_file.empty()) {
    VARVE_TRY(text, ReadFile(options.text_file));
  }
  return MakeContextDocument(
      text,
      {.tokens = options.tokens, .questions = options.questions, .seed = options.seed},
      [&](std::string_view part) -> Result<int64_t> {
        VARVE_TRY(const std::vector<int32_t> tokens, text_model->EncodeDocument(part, false));
        return std::ssize(tokens);
      });
}

Result<double> WeightFileBytes(const std::string& model_dir) {
  double bytes = 0;
  std::error_code failure;
  for (const auto& entry : std::filesystem::directory_iterator(model_dir, failure)) {
    if (entry.path().extension() == ".safetensors" &&
        entry.path().filename().string().starts_with("model")) {
      bytes += static_cast<double>(entry.file_size(failure));
    }
  }
  return failure ? Result<double>(Error{ErrorCode::kIoError,
                                        fmt::format("{}: {}", model_dir, failure.message())})
                 : Result<double>(bytes);
}

class Bench {
 public:
  Bench(const ContextBenchOptions& options, ModelConfig model, FactDocument document)
      : options_(options), model_(std::move(model)), document_(std::move(document)) {}

  Result<void> Run(const std::string& data_dir) {
    server_options_ = {.model_dir = options_.model_dir,
                       .weights = options_.weights,
                       .tables_file = options_.tables_file,
                       .num_workers = options_.workers,
                       .num_threads = options_.threads > 0 ? options_.threads : NumUsableCores(),
                       .port = 0,
                       .data_dir = data_dir,
                       .quality_share = 0};
    VARVE_TRY(weight_file_bytes_, WeightFileBytes(options_.model_dir));
    roofs_ = MeasureRoofs(server_options_.num_threads);
    VARVE_RETURN_IF_ERROR(Ingest());
    return Ask();
  }

 private:
  Result<void> Start() {
    server_.reset();  // it holds the directory's lock
    VARVE_TRY(server_, LocalServer::Start(server_options_));
    VARVE_TRY(ApiClient client, ApiClient::Create(server_->url()));
    client_.emplace(std::move(client));
    return {};
  }

  Result<void> Ingest() {
    VARVE_RETURN_IF_ERROR(Start());
    ProgressLine line(stderr, "ingest", /*quiet=*/false);
    IngestProgress last;
    IngestSession session(*client_,
                          {.name = kContextName, .kv = {.codec = options_.codec}},
                          document_.text,
                          [&](const IngestProgress& progress) { line.Update(last = progress); });
    VARVE_TRY(const IngestSummary summary, session.Run());
    context_ = summary.context;
    if (summary.already_complete) {
      fmt::print(
          stderr,
          "ingest: the context \"{}\" is in {} already, with this text: not measured again\n",
          kContextName,
          server_options_.data_dir);
      return {};
    }
    line.Finish(last);
    const int64_t computed = context_.tokens - summary.tokens_before;
    PrintIngest(Shape(),
                {.tokens = computed,
                 .seconds = summary.seconds,
                 .roof_seconds = Cost().PrefillFlops(summary.tokens_before, computed) /
                                 roofs_.fp32_flops_per_s});
    return {};
  }

  Result<void> Ask() {
    const auto share_of = [&](double share) {
      return static_cast<uint64_t>(share * static_cast<double>(context_.disk_bytes));
    };
    server_options_.device_budget_bytes = share_of(options_.device_share);
    server_options_.host_budget_bytes = share_of(options_.host_share);
    VARVE_RETURN_IF_ERROR(Start());
    LabProgress progress(stderr, "bench context");
    for (const std::string& attention : options_.attention) {
      ChatRequest how{.context = kContextName, .attention = attention};
      if (attention == "select") {
        how.budget_tokens = BudgetTokens();
      }
      progress.Begin(attention + " lookups", std::ssize(document_.questions));
      int64_t answered = 0;
      VARVE_TRY(const LookupResults results, AskLookups(*client_, document_.questions, how, [&] {
                  progress.AdvanceTo(++answered);
                }));
      if (results.gaps_s.empty()) {
        return Error{ErrorCode::kUnsupported,
                     "no answer was longer than one piece: there is no step to time"};
      }
      PrintLookups(Shape(), attention, results, StepRoofSeconds(results));
      if (attention == options_.attention.front()) {
        VARVE_TRY(const ContextInfo now, client_->GetContext(kContextName));
        PrintTiers(
            Shape(), now, server_options_.device_budget_bytes, server_options_.host_budget_bytes);
      }
    }
    return {};
  }

  int64_t BudgetTokens() const {
    return options_.budget_tokens > 0 ? options_.budget_tokens
                                      : std::max<int64_t>(1, context_.tokens / kBudgetShare);
  }

  StepCost Cost() const {
    return {model_,
            BytesPerWeight(model_, weight_file_bytes_, options_.weights),
            /*kv_bits=*/BitsPerValue()};
  }
  double BitsPerValue() const {
    return context_.bf16_bytes > 0 ? 16.0 * static_cast<double>(context_.disk_bytes) /
                                         static_cast<double>(context_.bf16_bytes)
                                   : 0;
  }
  // Weights and pages once, at the memory's rate.
  double StepRoofSeconds(const LookupResults& results) const {
    const double share = results.pages_total > 0 ? static_cast<double>(results.pages_read) /
                                                       static_cast<double>(results.pages_total)
                                                 : 1.0;
    return (Cost().WeightBytes() + share * Cost().KvBytes(context_.tokens)) /
           roofs_.read_bytes_per_s;
  }

  ContextBenchShape Shape() const {
    return {.model = std::filesystem::path(options_.model_dir).filename().string(),
            .codec = options_.codec,
            .bpe = BitsPerValue(),
            .tokens = context_.tokens,
            .threads = server_options_.num_threads,
            .workers = options_.workers,
            .json = options_.json};
  }

  const ContextBenchOptions& options_;
  const ModelConfig model_;
  const FactDocument document_;
  LocalServerOptions server_options_;
  Roofs roofs_;
  double weight_file_bytes_ = 0;
  std::unique_ptr<LocalServer> server_;
  std::optional<ApiClient> client_;
  ContextInfo context_;
};

Result<void> RunBench(const ContextBenchOptions& options) {
  VARVE_RETURN_IF_ERROR(Check(options));
  VARVE_TRY(const std::string config_text, ReadFile(options.model_dir + "/config.json"));
  VARVE_TRY(ModelConfig model, ParseModelConfig(config_text));
  VARVE_TRY(FactDocument document, MakeDocument(options));
  Bench bench(options, std::move(model), std::move(document));
  if (!options.data_dir.empty()) {
    return bench.Run(options.data_dir);
  }
  VARVE_TRY(const TemporaryDirectory temporary, TemporaryDirectory::Make());
  return bench.Run(temporary.path());
}

}  // namespace

int RunContextBench(const ContextBenchOptions& options) {
  InitLogging("warn");
  CatchInterrupts();
  const Result<void> done = RunBench(options);
  if (!done && done.error().code == ErrorCode::kInvalidArgument) {
    return ReportUsageError("bench context", done.error().message);
  }
  return done ? kExitOk : ReportError(done.error());
}

}  // namespace varve::cli
