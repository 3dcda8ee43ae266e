#include "ops/cli/settings.h"

#include <algorithm>
#include <cstdlib>
#include <map>
#include <set>

#include <fmt/format.h>

#include "proto/base/file.h"
#include "proto/base/units.h"

#include "ops/cli/http_client.h"
#include <yaml-cpp/yaml.h>

namespace varve::cli {
namespace {

constexpr uint64_t kMaxFileBytes = kMiB;
constexpr const char* kConfigVariable = "VARVE_CONFIG";

Error Invalid(std::string message) {
  return Error{ErrorCode::kInvalidArgument, std::move(message)};
}

bool IsSetting(const CLI::Option* option) {
  return option->get_group() == kSettingsGroup;
}

// "host-budget" -> "host_budget".
std::string KeyOf(const CLI::Option& option) {
  std::string key = option.get_lnames().front();
  std::replace(key.begin(), key.end(), '-', '_');
  return key;
}

std::string VariableOf(const CLI::Option& option) {
  std::string name = "VARVE_" + KeyOf(option);
  std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) {
    return static_cast<char>(std::toupper(c));
  });
  return name;
}

void CollectKeys(const CLI::App& command, std::set<std::string>& keys) {
  for (const CLI::Option* option : command.get_options(IsSetting)) {
    keys.insert(KeyOf(*option));
  }
  const std::function<bool(const CLI::App*)> any = [](const CLI::App*) { return true; };
  for (const CLI::App* child : command.get_subcommands(any)) {
    CollectKeys(*child, keys);
  }
}

using Values = std::map<std::string, std::string>;

Result<Values> ParseValues(const std::string& file,
                           const std::string& text,
                           const std::set<std::string>& keys) {
  Values values;
  try {
    const YAML::Node root = YAML::Load(text);
    if (root.IsNull()) {
      return values;
    }
    if (!root.IsMap()) {
      return Invalid(
          fmt::format("{}: the settings file must be a table of `key: value` lines", file));
    }
    for (const auto& entry : root) {
      const auto key = entry.first.as<std::string>();
      const int line = entry.first.Mark().line + 1;
      if (!keys.contains(key)) {
        return Invalid(fmt::format("{}:{}: unknown setting \"{}\"", file, line, key));
      }
      if (!entry.second.IsScalar()) {
        return Invalid(fmt::format(
            "{}:{}: the value of \"{}\" must be plain text or a number", file, line, key));
      }
      if (!values.emplace(key, entry.second.as<std::string>()).second) {
        return Invalid(fmt::format("{}:{}: the setting \"{}\" is given twice", file, line, key));
      }
    }
  } catch (const YAML::Exception& failure) {
    return Invalid(fmt::format("{} is no valid YAML: {}", file, failure.what()));
  }
  return values;
}

Result<Values> LoadValues(const CLI::App& root, const CLI::App& command) {
  std::string file;
  const CLI::Option* flag = command.get_option_no_throw("--config");
  if (flag != nullptr && flag->count() > 0) {
    file = flag->as<std::string>();
  } else if (const char* variable = std::getenv(kConfigVariable);
             flag != nullptr && variable != nullptr) {
    file = variable;
  }
  if (file.empty()) {
    return Values();
  }
  VARVE_TRY(const std::string text, ReadFile(file, kMaxFileBytes));
  std::set<std::string> keys;
  CollectKeys(root, keys);
  return ParseValues(file, text, keys);
}

Result<void> Apply(CLI::Option& option, const std::string& value, const std::string& source) {
  try {
    option.add_result(value);
    option.run_callback();
  } catch (const CLI::Error& failure) {
    return Invalid(fmt::format("{}: {}", source, failure.what()));
  }
  return {};
}

}  // namespace

CLI::Option* AddByteSetting(CLI::App& command,
                            const std::string& flag,
                            uint64_t& bytes,
                            const std::string& help) {
  const auto store = [&bytes, flag](const std::string& text) {
    const Result<uint64_t> parsed = ParseBytes(text);
    if (!parsed) {
      throw CLI::ValidationError("--" + flag, parsed.error().message);
    }
    bytes = *parsed;
  };
  return command.add_option_function<std::string>("--" + flag, store, help)
      ->group(kSettingsGroup)
      ->type_name("SIZE")
      ->default_str(FormatBytes(bytes));
}

void AddConfigFlag(CLI::App& command) {
  command.add_option("--config", "Settings file (YAML); also VARVE_CONFIG")->type_name("FILE");
}

void AddServerSetting(CLI::App& command, std::string& server) {
  const auto is_url = [](const std::string& url) {
    const auto client = HttpClient::Create(url);
    return client ? std::string() : client.error().message;
  };
  AddSetting(command, "server", server, "URL of the server")->type_name("URL")->check(is_url);
  AddConfigFlag(command);
}

Result<void> ApplySettings(const CLI::App& root, CLI::App& command) {
  VARVE_TRY(const Values values, LoadValues(root, command));
  for (CLI::Option* option : command.get_options(IsSetting)) {
    if (option->count() > 0) {
      continue;
    }
    const std::string variable = VariableOf(*option);
    const char* from_environment = std::getenv(variable.c_str());
    const auto from_file = values.find(KeyOf(*option));
    if (from_environment != nullptr && *from_environment != '\0') {
      VARVE_RETURN_IF_ERROR(Apply(*option, from_environment, variable));
    } else if (from_file != values.end()) {
      VARVE_RETURN_IF_ERROR(
          Apply(*option, from_file->second, fmt::format("setting \"{}\"", from_file->first)));
    }
  }
  return {};
}

}  // namespace varve::cli
