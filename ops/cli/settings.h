// Settings: options that come from a flag, else from an environment variable, else from the
// settings file. The flag
// `--host-budget` is `VARVE_HOST_BUDGET` in the environment and `host_budget:` in the file (YAML,
// one flat table).
#pragma once

#include <cstdint>
#include <string>

#include "proto/base/result.h"

#include <CLI/CLI.hpp>

namespace varve::cli {

// The heading under which `--help` lists settings; an option is a setting if it is in this group.
inline constexpr const char* kSettingsGroup =
    "Settings (flag, else VARVE_*, else the settings file)";

// Adds the setting `--flag`. `value` holds the default and outlives the parse.
template <typename T>
CLI::Option* AddSetting(CLI::App& command,
                        const std::string& flag,
                        T& value,
                        const std::string& help) {
  return command.add_option("--" + flag, value, help)->group(kSettingsGroup)->capture_default_str();
}

// The same for a size such as 4GiB, stored in bytes.
CLI::Option* AddByteSetting(CLI::App& command,
                            const std::string& flag,
                            uint64_t& bytes,
                            const std::string& help);

// `--weights`: how a model's weights are held in memory.
inline constexpr const char* kWeightsHelp =
    "How weights are held in memory: auto (as stored) or int8 (converted when loaded)";
inline CLI::IsMember IsWeightsSetting() {
  return CLI::IsMember({"auto", "int8"});
}

// `--tables`: calibrated tables that do not lie beside the model.
inline constexpr const char* kTablesHelp =
    "Tables from `varve calibrate` (default: varve_tables.safetensors in the model directory, if "
    "it is there)";

// Like CLI11's own check of positive numbers, which answers with the bounds of a double.
inline CLI::Validator IsPositive() {
  return {[](std::string& text) {
            double value = 0.0;
            const bool is_positive = CLI::detail::lexical_cast(text, value) && value > 0.0;
            return is_positive ? std::string() : "'" + text + "' is not a number above 0";
          },
          "POSITIVE"};
}

// Adds `--config FILE`, which ApplySettings reads.
void AddConfigFlag(CLI::App& command);
// Adds the setting `--server URL` of the commands that talk to one, and `--config`.
void AddServerSetting(CLI::App& command, std::string& server);

// Fills every setting of `command`, already parsed, that no flag gave. `root` is the whole command
// line: a key of the file must be a setting of some command, so that one file serves all of them.
// Errors: kInvalidArgument, naming the key, the variable or the file.
Result<void> ApplySettings(const CLI::App& root, CLI::App& command);

}  // namespace varve::cli
