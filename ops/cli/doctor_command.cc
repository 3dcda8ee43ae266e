// `varve doctor`: is this machine, this data directory, this model fit to serve?
#include <fmt/format.h>

#include "ops/cli/commands.h"
#include "ops/cli/doctor_checks.h"
#include "ops/cli/exit_code.h"
#include "ops/cli/local_server.h"
#include "ops/cli/settings.h"
#include "ops/cli/table.h"
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

namespace varve::cli {
namespace {

struct Options {
  std::string model;
  std::string data_dir = DefaultDataDir();
  bool json = false;
};

const char* LevelName(CheckLevel level) {
  switch (level) {
    case CheckLevel::kOk:
      return "ok";
    case CheckLevel::kWarn:
      return "warn";
    case CheckLevel::kFail:
      return "fail";
  }
  return "";
}

int RunDoctor(const Options& options) {
  std::vector<Check> checks = {
      CheckCpu(), CheckMemory(), CheckGpu(), CheckOpenFiles(), CheckDataDir(options.data_dir)};
  if (!options.model.empty()) {
    const std::vector<Check> of_model = CheckModel(options.model);
    checks.insert(checks.end(), of_model.begin(), of_model.end());
  }
  bool failed = false;
  nlohmann::json list = nlohmann::json::array();
  Table table({});
  for (const Check& check : checks) {
    failed = failed || check.level == CheckLevel::kFail;
    list.push_back(
        {{"check", check.name}, {"status", LevelName(check.level)}, {"detail", check.detail}});
    table.AddRow({LevelName(check.level), check.name, check.detail});
  }
  if (options.json) {
    fmt::print("{}\n", nlohmann::json({{"ok", !failed}, {"checks", list}}).dump());
  } else {
    fmt::print("{}", table.Format());
  }
  return failed ? kExitFailure : kExitOk;
}

}  // namespace

void AddDoctorCommand(CLI::App& root, Invocation& chosen) {
  auto options = std::make_shared<Options>();
  CLI::App* command =
      root.add_subcommand("doctor", "Check this machine, the data directory and a model");
  command->footer("Exits 1 if a line says fail.");
  AddSetting(*command, "model", options->model, "Also check this model directory")
      ->type_name("DIR");
  AddSetting(*command, "data", options->data_dir, "Data directory to check")->type_name("DIR");
  command->add_flag("--json", options->json, "Print a JSON object");
  AddConfigFlag(*command);
  command->callback([command, &chosen, options] {
    chosen = {command, [options] { return RunDoctor(*options); }};
  });
}

}  // namespace varve::cli
