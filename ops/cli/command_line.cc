#include "ops/cli/command_line.h"

#include <cstdio>

#include <fmt/format.h>

#include "ops/cli/commands.h"
#include "ops/cli/exit_code.h"
#include "ops/cli/settings.h"
#include <CLI/CLI.hpp>

namespace varve::cli {
namespace {

constexpr const char* kDescription =
    "Varve serves transformer LLMs over very long contexts: ingest a text once, ask about it many "
    "times.";

constexpr const char* kFooter =
    "A first session:\n"
    "  varve serve --model DIR &                    serve a Hugging Face model directory\n"
    "  varve ingest --name notes notes.txt          read a text into the context \"notes\"\n"
    "  varve ask --context notes \"What is ...?\"     ask about it, now or after any restart\n"
    "\n"
    "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 server unreachable, 130 interrupted.";

// The full name of a command below the root, for example "contexts rm".
std::string PathOf(const CLI::App* command) {
  const CLI::App* parent = command->get_parent();
  if (parent == nullptr) {
    return "";
  }
  const std::string above = PathOf(parent);
  return above.empty() ? command->get_name() : above + " " + command->get_name();
}

bool AnyCommand(const CLI::App* command) {
  return command != nullptr;
}

// The deepest command that the arguments named.
const CLI::App* DeepestNamed(const CLI::App& root) {
  const CLI::App* command = &root;
  while (!command->get_subcommands().empty()) {
    command = command->get_subcommands().front();
  }
  return command;
}

int OnParseError(const CLI::App& root, const CLI::ParseError& error) {
  const CLI::App* command = DeepestNamed(root);
  const std::string path = PathOf(command);
  const std::string full = path.empty() ? "varve" : "varve " + path;
  if (error.get_exit_code() == static_cast<int>(CLI::ExitCodes::Success)) {
    const size_t above = full.rfind(' ');  // help() itself adds the last word
    fmt::print("{}", command->help(above == std::string::npos ? "" : full.substr(0, above)));
    return kExitOk;
  }
  // CLI11 complains about a missing subcommand before it looks at an unknown word.
  const std::vector<std::string> unknown = command->remaining();
  const bool wants_command = !command->get_subcommands(AnyCommand).empty() && !unknown.empty();
  fmt::print(stderr,
             "varve: {}\nRun `{} --help` for how it is used.\n",
             wants_command ? fmt::format("\"{}\" is no command of `{}`", unknown.front(), full)
                           : error.what(),
             full);
  return kExitUsage;
}

}  // namespace

int RunCommandLine(int argc, const char* const* argv) {
  CLI::App root(kDescription, "varve");
  root.require_subcommand(1);
  Invocation chosen;
  AddServeCommand(root, chosen);
  AddIngestCommand(root, chosen);
  AddAskCommand(root, chosen);
  AddContextsCommand(root, chosen);
  AddDoctorCommand(root, chosen);
  AddBenchCommand(root, chosen);
  AddCalibrateCommand(root, chosen);
  AddEvalCommand(root, chosen);
  AddPlanCommand(root, chosen);
  AddVersionCommand(root, chosen);
  root.footer(kFooter);  // after the commands, which would inherit it
  try {
    root.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return OnParseError(root, error);
  }
  if (const auto applied = ApplySettings(root, *chosen.command); !applied) {
    return ReportUsageError(PathOf(chosen.command), applied.error().message);
  }
  return chosen.run();
}

}  // namespace varve::cli
