// `varve contexts ls | show | fork | pin | unpin | ttl | export | import | rm`.
#include <algorithm>
#include <iostream>

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <unistd.h>

#include "proto/base/units.h"

#include "ops/cli/api_client.h"
#include "ops/cli/commands.h"
#include "ops/cli/context_files.h"
#include "ops/cli/duration.h"
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
  std::string name;                // of commands that take one context
  std::vector<std::string> names;  // of those that take several
  std::string fork;
  std::string ttl;
  std::string file;
  std::string import_name;
  bool quiet = false;
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
  Table table({"NAME",
               "STATUS",
               "TOKENS",
               "PAGES",
               "HOST",
               "DISK",
               "SHARED",
               "BYTES/TOKEN",
               "CODEC",
               "PINNED",
               "EXPIRES",
               "PARENT"});
  for (const ContextInfo& context : contexts) {
    table.AddRow({context.name,
                  context.status,
                  FormatCount(context.tokens),
                  FormatCount(context.pages),
                  FormatBytes(context.host_bytes),
                  FormatBytes(context.disk_bytes),
                  FormatBytes(context.shared_disk_bytes),
                  BytesPerToken(context.disk_bytes, context.tokens),
                  context.codec,
                  context.pinned ? "yes" : "-",
                  context.expires_at > 0 ? TimeText(context.expires_at) : "-",
                  context.parent.empty() ? "-" : context.parent});
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

std::string TierText(uint64_t bytes, uint64_t shared_bytes) {
  return shared_bytes == 0 ? FormatBytes(bytes)
                           : fmt::format("{}, {} of it counted with other contexts",
                                         FormatBytes(bytes),
                                         FormatBytes(shared_bytes));
}

std::string ExpiryText(const ContextInfo& context) {
  if (context.ttl_s == 0) {
    return "never";
  }
  return context.expires_at == 0
             ? fmt::format("never while it is pinned, else {} after its last use",
                           DurationText(context.ttl_s))
             : fmt::format("{}, {} after its last use",
                           TimeText(context.expires_at),
                           DurationText(context.ttl_s));
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
    table.AddRow({"device", TierText(context.device_bytes, context.shared_device_bytes)});
  }
  table.AddRow({"host", TierText(context.host_bytes, context.shared_host_bytes)});
  table.AddRow({"disk", TierText(context.disk_bytes, context.shared_disk_bytes)});
  table.AddRow({"bytes/token",
                fmt::format("{} ({} as bf16)",
                            BytesPerToken(context.disk_bytes, context.tokens),
                            BytesPerToken(context.bf16_bytes, context.tokens))});
  table.AddRow({"created", TimeText(context.created_at)});
  table.AddRow({"updated", TimeText(context.updated_at)});
  table.AddRow({"forked from", context.parent.empty() ? "-" : context.parent});
  table.AddRow({"pinned", context.pinned ? "yes" : "no"});
  table.AddRow({"expires", ExpiryText(context)});
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

Result<void> Fork(const Options& options) {
  VARVE_TRY(const ApiClient client, ApiClient::Create(options.server));
  VARVE_TRY(const ContextInfo fork, client.ForkContext(options.name, options.fork));
  if (options.json) {
    fmt::print("{}\n", fork.json);
  } else {
    fmt::print("{}: a fork of {}, {} tokens\n", fork.name, options.name, FormatCount(fork.tokens));
  }
  return {};
}

Result<void> Change(const Options& options, const AttributeChange& change) {
  VARVE_TRY(const ApiClient client, ApiClient::Create(options.server));
  for (const std::string& name : options.names) {
    VARVE_TRY(const ContextInfo context, client.ChangeContext(name, change));
    if (options.json) {
      fmt::print("{}\n", context.json);
    } else {
      fmt::print(
          "{}: {}pinned; expires {}\n", name, context.pinned ? "" : "not ", ExpiryText(context));
    }
  }
  return {};
}

Result<void> Pin(const Options& options) {
  return Change(options, {.pinned = true});
}

Result<void> Unpin(const Options& options) {
  return Change(options, {.pinned = false});
}

Result<void> SetTtl(const Options& options) {
  VARVE_TRY(const int64_t ttl_s, ParseDuration(options.ttl));
  Options one = options;
  one.names = {options.name};
  return Change(one, {.ttl_s = ttl_s});
}

Result<void> Export(const Options& options) {
  VARVE_TRY(const ApiClient client, ApiClient::Create(options.server));
  VARVE_TRY(const uint64_t bytes, ExportToFile(client, options.name, options.file, options.quiet));
  if (options.file != "-") {
    fmt::print("{}: {} in {}\n", options.name, FormatBytes(bytes), options.file);
  }
  return {};
}

Result<void> Import(const Options& options) {
  VARVE_TRY(const ApiClient client, ApiClient::Create(options.server));
  VARVE_TRY(const ContextInfo context,
            ImportFromFile(client, options.file, options.import_name, options.quiet));
  if (options.json) {
    fmt::print("{}\n", context.json);
  } else {
    fmt::print("{}: {} tokens ready\n", context.name, FormatCount(context.tokens));
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
  CLI::App* contexts =
      root.add_subcommand("contexts", "List, show, fork, pin, move and remove contexts");
  contexts->require_subcommand(1);
  auto options = std::make_shared<Options>();
  AddPart(*contexts, chosen, "ls", "List the contexts", options, List);
  CLI::App* show = AddPart(*contexts, chosen, "show", "Show a context", options, Show);
  show->add_option("NAME", options->names, "Contexts")->required();
  CLI::App* fork =
      AddPart(*contexts,
              chosen,
              "fork",
              "Make a context that begins with all that another has; nothing is copied",
              options,
              Fork);
  fork->add_option("NAME", options->name, "The context")->required();
  fork->add_option("NEW", options->fork, "Name of the fork")->required();
  CLI::App* pin = AddPart(
      *contexts, chosen, "pin", "Keep contexts from being moved down or expiring", options, Pin);
  pin->add_option("NAME", options->names, "Contexts")->required();
  CLI::App* unpin = AddPart(*contexts, chosen, "unpin", "Undo `pin`", options, Unpin);
  unpin->add_option("NAME", options->names, "Contexts")->required();
  CLI::App* ttl = AddPart(*contexts,
                          chosen,
                          "ttl",
                          "Have a context deleted when it was not used for so long",
                          options,
                          SetTtl);
  ttl->add_option("NAME", options->name, "The context")->required();
  ttl->add_option("TTL", options->ttl, "90s, 15m, 12h, 7d, 2w or none")
      ->required()
      ->check(CheckDuration);
  CLI::App* to_file = AddPart(
      *contexts, chosen, "export", "Write a context to one checksummed file", options, Export);
  to_file->add_option("NAME", options->name, "The context")->required();
  to_file->add_option("FILE", options->file, "The file; - is the standard output")->required();
  to_file->add_flag("--quiet", options->quiet, "Show no progress");
  CLI::App* from_file = AddPart(
      *contexts, chosen, "import", "Make a context of a file that `export` wrote", options, Import);
  from_file->add_option("FILE", options->file, "The file; - is the standard input")->required();
  from_file->add_option("--name", options->import_name, "Name of the context (default: the file's)")
      ->type_name("NAME");
  from_file->add_flag("--quiet", options->quiet, "Show no progress");
  CLI::App* rm = AddPart(*contexts, chosen, "rm", "Delete a context and its KV", options, Remove);
  rm->add_option("NAME", options->names, "Contexts")->required();
  rm->add_flag("--yes,-y", options->yes, "Do not ask");
}

}  // namespace varve::cli
