// `varve contexts ls | show | rm`.
#include <algorithm>
#include <iostream>

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <unistd.h>

#include "proto/base/units.h"

#include "ops/cli/api_client.h"
#include "ops/cli/commands.h"
#include "ops/cli/exit_code.h"
#include "ops/cli/interrupt.h"
#include "ops/cli/progress.h"
#include "ops/cli/settings.h"
#include "ops/cli/table.h"
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

namespace varve::cli {
namespace {

struct Options {
  std::string server = kDefaultServer;
  std::vector<std::string> names;
  bool json = false;
  bool yes = false;
};

std::string BytesPerToken(uint64_t bytes, int64_t tokens) {
  return tokens > 0
             ? fmt::format("{:.1f}", static_cast<double>(bytes) / static_cast<double>(tokens))
             : "-";
}

std::string TimeText(int64_t unix_s) {
  return fmt::format("{:%Y-%m-%d %H:%M:%S} UTC", fmt::gmtime(static_cast<std::time_t>(unix_s)));
}

Result<void> List(const Options& options) {
  VARVE_TRY(const ApiClient client, ApiClient::Create(options.server));
  VARVE_TRY(const std::vector<ContextInfo> contexts, client.ListContexts());
  if (options.json) {
    nlohmann::json list = nlohmann::json::array();
    for (const ContextInfo& context : contexts) {
      list.push_back(nlohmann::json::parse(context.json));
    }
    fmt::print("{}\n", list.dump());
    return {};
  }
  if (contexts.empty()) {
    fmt::print("no contexts at {}; `varve ingest` makes one\n", client.url());
    return {};
  }
  Table table({"NAME", "STATUS", "TOKENS", "PAGES", "HOST", "DISK", "BYTES/TOKEN", "CODEC"});
  for (const ContextInfo& context : contexts) {
    table.AddRow({context.name,
                  context.status,
                  FormatCount(context.tokens),
                  FormatCount(context.pages),
                  FormatBytes(context.host_bytes),
                  FormatBytes(context.disk_bytes),
                  BytesPerToken(context.disk_bytes, context.tokens),
                  context.codec});
  }
  fmt::print("{}", table.Format());
  return {};
}

// Which tokens a context keeps, and how many they are by now.
std::string KeptText(const ContextInfo& context) {
  if (context.kv_tokens == "all" || context.kv_tokens.empty()) {
    return "all tokens";
  }
  const double held = context.layer_tokens == 0 ? 1.0
                                                : static_cast<double>(context.kept_layer_tokens) /
                                                      static_cast<double>(context.layer_tokens);
  return fmt::format("{} by {} ({:.1f} % of all tokens and layers)",
                     context.kv_keep,
                     context.kv_tokens,
                     100 * held);
}

bool HasLadder(const ContextInfo& context) {
  return context.codec.find(',') != std::string::npos;
}

void PrintContext(const ContextInfo& context) {
  Table table({});
  table.AddRow({"name", context.name});
  table.AddRow(
      {"status", context.error.empty() ? context.status : context.status + ": " + context.error});
  table.AddRow({"model", context.model});
  table.AddRow({"codec", context.codec});
  table.AddRow({"keeps", KeptText(context)});
  for (size_t rung = 0; HasLadder(context) && rung < kNumRungs; ++rung) {
    table.AddRow({std::string(kRungNames[rung]),
                  fmt::format("{} in {} pages",
                              FormatBytes(context.rungs[rung].bytes),
                              FormatCount(context.rungs[rung].pages))});
  }
  table.AddRow({"tokens",
                context.tokens_pending > 0 ? fmt::format("{} ({} to come)",
                                                         FormatCount(context.tokens),
                                                         FormatCount(context.tokens_pending))
                                           : FormatCount(context.tokens)});
  table.AddRow({"text",
                fmt::format("{} durable, {} received",
                            FormatBytes(context.text_bytes),
                            FormatBytes(context.text_bytes_received))});
  table.AddRow({"pages", FormatCount(context.pages)});
  if (context.device_bytes > 0) {
    table.AddRow({"device", FormatBytes(context.device_bytes)});
  }
  table.AddRow({"host", FormatBytes(context.host_bytes)});
  table.AddRow({"disk", FormatBytes(context.disk_bytes)});
  table.AddRow({"bytes/token",
                fmt::format("{} ({} as bf16)",
                            BytesPerToken(context.disk_bytes, context.tokens),
                            BytesPerToken(context.bf16_bytes, context.tokens))});
  table.AddRow({"created", TimeText(context.created_at)});
  table.AddRow({"updated", TimeText(context.updated_at)});
  fmt::print("{}", table.Format());
}

Result<void> Show(const Options& options) {
  VARVE_TRY(const ApiClient client, ApiClient::Create(options.server));
  for (const std::string& name : options.names) {
    VARVE_TRY(const ContextInfo context, client.GetContext(name));
    if (options.json) {
      fmt::print("{}\n", context.json);
    } else {
      PrintContext(context);
    }
  }
  return {};
}

bool Confirmed(const std::string& name) {
  if (::isatty(STDIN_FILENO) == 0) {
    return true;
  }
  fmt::print(stderr, "Delete the context \"{}\" and its KV for ever? [y/N] ", name);
  std::string answer;
  std::getline(std::cin, answer);
  return answer == "y" || answer == "Y" || answer == "yes";
}

Result<void> Remove(const Options& options) {
  VARVE_TRY(const ApiClient client, ApiClient::Create(options.server));
  for (const std::string& name : options.names) {
    VARVE_TRY(const ContextInfo context, client.GetContext(name));
    if (!options.yes && !Confirmed(name)) {
      return Error{ErrorCode::kInvalidArgument, fmt::format("\"{}\" was kept", name)};
    }
    VARVE_RETURN_IF_ERROR(client.DeleteContext(name));
    if (options.json) {
      fmt::print("{}\n", nlohmann::json({{"name", name}, {"deleted", true}}).dump());
    } else {
      fmt::print("{}: deleted, {} tokens\n", name, FormatCount(context.tokens));
    }
  }
  return {};
}

CLI::App* AddPart(CLI::App& contexts,
                  Invocation& chosen,
                  const std::string& name,
                  const std::string& help,
                  const std::shared_ptr<Options>& options,
                  Result<void> (*run)(const Options&)) {
  CLI::App* command = contexts.add_subcommand(name, help);
  command->add_flag("--json", options->json, "Print JSON");
  AddServerSetting(*command, options->server);
  command->callback([command, &chosen, options, run] {
    chosen = {command, [options, run] {
                CatchInterrupts();
                const auto done = run(*options);
                return done ? kExitOk : ReportError(done.error());
              }};
  });
  return command;
}

}  // namespace

void AddContextsCommand(CLI::App& root, Invocation& chosen) {
  CLI::App* contexts = root.add_subcommand("contexts", "List, show and remove contexts");
  contexts->require_subcommand(1);
  auto options = std::make_shared<Options>();
  AddPart(*contexts, chosen, "ls", "List the contexts", options, List);
  CLI::App* show = AddPart(*contexts, chosen, "show", "Show a context", options, Show);
  show->add_option("NAME", options->names, "Contexts")->required();
  CLI::App* rm = AddPart(*contexts, chosen, "rm", "Delete a context and its KV", options, Remove);
  rm->add_option("NAME", options->names, "Contexts")->required();
  rm->add_flag("--yes,-y", options->yes, "Do not ask");
}

}  // namespace varve::cli
