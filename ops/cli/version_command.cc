// `varve version`.
#include <fmt/format.h>

#include "ops/cli/commands.h"
#include "ops/cli/exit_code.h"
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

namespace varve::cli {
namespace {

int RunVersion(bool json) {
  if (json) {
    const nlohmann::json object = {
        {"version", VARVE_VERSION}, {"build", VARVE_BUILD_TYPE}, {"compiler", __VERSION__}};
    fmt::print("{}\n", object.dump());
  } else {
    fmt::print("varve {} ({}, gcc-compatible {})\n", VARVE_VERSION, VARVE_BUILD_TYPE, __VERSION__);
  }
  return kExitOk;
}

}  // namespace

void AddVersionCommand(CLI::App& root, Invocation& chosen) {
  CLI::App* command = root.add_subcommand("version", "Print the version");
  auto json = std::make_shared<bool>(false);
  command->add_flag("--json", *json, "Print a JSON object");
  command->callback([command, &chosen, json] {
    chosen = {command, [json] { return RunVersion(*json); }};
  });
}

}  // namespace varve::cli
