// `varve plan`: will it fit, where would it lie, how long would it take. Next: ops/cli/plan/plan.h
#include <filesystem>

#include <fmt/format.h>

#include "proto/base/file.h"
#include "proto/base/log.h"
#include "proto/base/units.h"

#include "ops/cli/bench/step_cost.h"
#include "ops/cli/commands.h"
#include "ops/cli/exit_code.h"
#include "ops/cli/local_server.h"
#include "ops/cli/plan/machine_here.h"
#include "ops/cli/plan/plan.h"
#include "ops/cli/progress.h"
#include "ops/cli/settings.h"
#include "ops/cli/table.h"
#include "ops/cli/temporary_directory.h"
#include "ops/cli/token_count.h"
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

namespace varve::cli {
namespace {

constexpr const char* kFooter =
    "Bytes are those that the store would count. Times are operations and bytes over the rates of "
    "the machine: of h100,\nh200 and files they are floors with assumed efficiencies, as there is "
    "no GPU backend to measure yet; of `here` the\nrates are measured now.";

struct PlanOptions {
  std::string model;
  int64_t context = int64_t{1} << 20;
  int gpus = 8;
  std::string codec = "int8";
  std::string weights = "auto";
  uint64_t device_budget = 0;
  uint64_t host_budget = 0;
  int64_t budget_tokens = 32768;
  std::string machine = "h100";
  int threads = 0;
  bool json = false;
};

Result<Machine> FindMachine(const PlanOptions& options) {
  if (options.machine == "here") {
    VARVE_TRY(const TemporaryDirectory directory, TemporaryDirectory::Make());
    return MeasureMachineHere(options.threads, directory.path());
  }
  if (FileExists(options.machine)) {
    VARVE_TRY(const std::string text, ReadFile(options.machine, kMiB));
    return ParseMachine(text, options.machine);
  }
  return MachinePreset(options.machine);
}

// As the checkpoint says that its weights are stored.
Result<double> StoredBytesPerWeight(const std::string& config_text) {
  const nlohmann::json config = nlohmann::json::parse(config_text, nullptr, false);
  std::string type = "bfloat16";
  for (const char* key : {"torch_dtype", "dtype"}) {
    if (config.is_object() && config.contains(key) && config[key].is_string()) {
      type = config[key].get<std::string>();
    }
  }
  if (type == "float32") {
    return 4.0;
  }
  if (type == "bfloat16" || type == "float16") {
    return 2.0;
  }
  return Error{ErrorCode::kInvalidArgument,
               fmt::format("config.json: \"torch_dtype\" is {}; there are float32, bfloat16 and "
                           "float16",
                           type)};
}

Result<PlanRequest> RequestOf(const PlanOptions& options) {
  const std::string file =
      std::filesystem::is_directory(options.model) ? options.model + "/config.json" : options.model;
  VARVE_TRY(const std::string config_text, ReadFile(file, 16 * kMiB));
  PlanRequest request;
  VARVE_TRY(request.model, ParseModelConfig(config_text));
  VARVE_TRY(request.bytes_per_weight, StoredBytesPerWeight(config_text));
  if (options.weights == "int8") {
    request.bytes_per_weight = Int8BytesPerWeight();
  }
  request.tokens = options.context;
  request.workers = options.gpus;
  const size_t first = options.codec.find(',');
  const size_t second = first == std::string::npos ? first : options.codec.find(',', first + 1);
  request.policy.codec = options.codec.substr(0, first);
  if (first != std::string::npos) {
    request.policy.warm_codec = options.codec.substr(first + 1, second - first - 1);
  }
  if (second != std::string::npos) {
    request.policy.cold_codec = options.codec.substr(second + 1);
  }
  request.device_budget = options.device_budget;
  request.host_budget = options.host_budget;
  request.budget_tokens = options.budget_tokens;
  return request;
}

std::string Milliseconds(double seconds) {
  return fmt::format("{:.3g} ms", seconds * 1000);
}

void PrintStep(const char* name, const PlannedStep& step) {
  fmt::print("{:<22} {:>10} a token: weights {}, attention {}, ranking pages {}, the rest {}\n",
             name,
             Milliseconds(step.total_s()),
             Milliseconds(step.weights_s),
             Milliseconds(step.attention_s),
             Milliseconds(step.sketch_s),
             Milliseconds(step.fixed_s));
}

void PrintPlan(const PlanOptions& options, const Machine& machine, const Plan& plan) {
  fmt::print(
      "{} tokens on {} worker{} of {}: {} of pages and tails ({:.3f} bits per value), {} of "
      "weights.\n",
      FormatCount(options.context),
      options.gpus,
      options.gpus == 1 ? "" : "s",
      machine.name,
      FormatBytes(plan.context_bytes),
      plan.bits_per_value,
      FormatBytes(plan.weight_bytes));
  fmt::print("{}:\n", machine.workers_share ? "All workers together" : "Each worker");
  Table table({"tier", "budget", "beside pages", "pages", "read from here", "codec"});
  for (const PlannedTier& tier : plan.tiers) {
    table.AddRow({tier.name,
                  tier.budget > 0 ? FormatBytes(tier.budget) : "-",
                  FormatBytes(tier.other_bytes),
                  FormatBytes(tier.page_bytes),
                  fmt::format("{:.1f} %", 100 * tier.share),
                  tier.page_bytes > 0 ? tier.codec : "-"});
  }
  fmt::print("{}", table.Format());
  fmt::print("{}\n",
             !plan.fits             ? "It does not fit:"
             : !plan.fits_selective ? "It fits for exact attention only:"
                                    : "It fits.");
  for (const std::string& reason : plan.reasons) {
    fmt::print("  {}\n", reason);
  }
  for (const std::string& advice : plan.advice) {
    fmt::print("  {}\n", advice);
  }
  for (const std::string& warning : plan.warnings) {
    fmt::print("But {}.\n", warning);
  }
  PrintStep("exact attention", plan.exact);
  PrintStep(fmt::format("select, {} tokens", FormatTokenCount(options.budget_tokens)).c_str(),
            plan.selective);
  fmt::print("{:<22} {:>10}\n", "ingest", FormatDuration(plan.ingest_s));
  if (!machine.is_measured) {
    fmt::print("Times are floors: what {} reaches is assumed, not measured.\n", machine.name);
  }
}

void PrintJson(const PlanOptions& options, const Machine& machine, const Plan& plan) {
  using Json = nlohmann::ordered_json;
  Json tiers = Json::array();
  for (const PlannedTier& tier : plan.tiers) {
    tiers.push_back({{"tier", tier.name},
                     {"codec", tier.codec},
                     {"budget_bytes", tier.budget},
                     {"other_bytes", tier.other_bytes},
                     {"page_bytes", tier.page_bytes},
                     {"share", tier.share}});
  }
  const Json row = {{"tokens", options.context},
                    {"workers", options.gpus},
                    {"codec", options.codec},
                    {"machine", machine.name},
                    {"is_measured", machine.is_measured},
                    {"weight_bytes", plan.weight_bytes},
                    {"context_bytes", plan.context_bytes},
                    {"bpe", plan.bits_per_value},
                    {"tiers", std::move(tiers)},
                    {"fits", plan.fits},
                    {"fits_selective", plan.fits_selective},
                    {"reasons", plan.reasons},
                    {"advice", plan.advice},
                    {"warnings", plan.warnings},
                    {"exact_ms", plan.exact.total_s() * 1000},
                    {"select_ms", plan.selective.total_s() * 1000},
                    {"ingest_s", plan.ingest_s}};
  fmt::print("{}\n", row.dump());
}

Result<void> Run(const PlanOptions& options) {
  VARVE_TRY(const PlanRequest request, RequestOf(options));
  VARVE_TRY(const Machine machine, FindMachine(options));
  VARVE_TRY(const Plan plan, MakePlan(request, machine));
  if (options.json) {
    PrintJson(options, machine, plan);
  } else {
    PrintPlan(options, machine, plan);
  }
  return {};
}

int RunPlan(const PlanOptions& options) {
  InitLogging("warn");
  const Result<void> done = Run(options);
  if (!done && done.error().code == ErrorCode::kInvalidArgument) {
    return ReportUsageError("plan", done.error().message);
  }
  return done ? kExitOk : ReportError(done.error());
}

}  // namespace

void AddPlanCommand(CLI::App& root, Invocation& chosen) {
  auto options = std::make_shared<PlanOptions>();
  CLI::App* command = root.add_subcommand(
      "plan", "Will a context fit, in which tier, and how long do steps and ingest take");
  command->add_option("--model", options->model, "Model directory, or a config.json")
      ->required()
      ->type_name("DIR|FILE");
  AddTokenCount(*command, "--context", options->context, "Tokens of the context; 1M = 1,048,576");
  command->add_option("--gpus,--workers", options->gpus, "Workers")
      ->check(CLI::Range(1, 256))
      ->capture_default_str();
  command->add_option("--codec", options->codec, "Codec of the pages, or HOT,WARM,COLD")
      ->capture_default_str();
  command->add_option("--weights", options->weights, kWeightsHelp)
      ->check(IsWeightsSetting())
      ->capture_default_str();
  AddByteSetting(*command,
                 "device-budget",
                 options->device_budget,
                 "Of the device tier of each worker, weights included; 0: what the machine has");
  AddByteSetting(*command, "host-budget", options->host_budget, "The same of the host tier");
  AddTokenCount(*command,
                "--budget-tokens",
                options->budget_tokens,
                "Of selective attention: most tokens that a step reads in a layer");
  command
      ->add_option("--machine",
                   options->machine,
                   "h100, h200, here (measured now), or a file that describes one: "
                   "ops/cli/plan/machine.h")
      ->capture_default_str();
  options->threads = NumUsableCores();
  command->add_option("--threads", options->threads, "Of `here`")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  command->add_flag("--json", options->json, "Print one JSON object");
  command->footer(kFooter);
  command->callback([command, &chosen, options] {
    chosen = {command, [options] { return RunPlan(*options); }};
  });
}

}  // namespace varve::cli
