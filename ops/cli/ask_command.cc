// `varve ask`: a question about a context, answered by a server; or about a document, answered in
// this process.
#include <algorithm>

#include <fmt/format.h>

#include "ops/cli/api_client.h"
#include "ops/cli/ask_document.h"
#include "ops/cli/commands.h"
#include "ops/cli/exit_code.h"
#include "ops/cli/interrupt.h"
#include "ops/cli/settings.h"
#include "ops/cli/text_chunks.h"
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

namespace varve::cli {
namespace {

struct Options {
  std::string server = kDefaultServer;
  std::string model;
  std::vector<std::string> documents;
  int workers = 1;
  int threads = 0;
  ChatRequest chat;
  bool json = false;
  bool usage = false;
};

constexpr const char* kFooter =
    "With --context the server at --server answers. With --doc no server is needed: the model in "
    "--model reads the\n"
    "document in this process, answers, and keeps nothing.";

void PrintUsage(const ChatAnswer& answer) {
  fmt::print(stderr,
             "{} prompt tokens, {} answer tokens ({}); first token after {:.0f} ms, then {:.1f} "
             "tokens/s\n",
             answer.prompt_tokens,
             answer.completion_tokens,
             answer.finish_reason,
             answer.first_token_s * 1000,
             answer.TokensPerSecond());
  if (answer.pages_read && answer.pages_total > 0) {
    fmt::print(
        stderr,
        "{} of {} pages read ({:.1f} %)\n",
        *answer.pages_read,
        answer.pages_total,
        100.0 * static_cast<double>(*answer.pages_read) / static_cast<double>(answer.pages_total));
  }
  if (answer.error_bound) {
    fmt::print(stderr,
               "attention error at most {:.3g}, {:.2g} of the attention on pages not read\n",
               *answer.error_bound,
               answer.missed_mass);
  }
}

void PrintJson(const Options& options, const ChatAnswer& answer) {
  nlohmann::json object = {{"context", options.chat.context},
                           {"question", options.chat.question},
                           {"answer", answer.text},
                           {"finish_reason", answer.finish_reason},
                           {"prompt_tokens", answer.prompt_tokens},
                           {"completion_tokens", answer.completion_tokens},
                           {"ttft_s", answer.first_token_s},
                           {"total_s", answer.total_s},
                           {"tokens_per_s", answer.TokensPerSecond()}};
  if (answer.pages_read) {
    object["pages_read"] = *answer.pages_read;
    object["pages_total"] = answer.pages_total;
  }
  if (answer.error_bound) {
    object["attention_error_bound"] = *answer.error_bound;
    object["missed_mass_estimate"] = answer.missed_mass;
  }
  fmt::print("{}\n", object.dump());
}

// Streams the answer to stdout, unless it is to be JSON.
Result<void> Answer(const Options& options, const ApiClient& client) {
  bool line_open = false;
  const auto on_text = [&](std::string_view piece) {
    if (!line_open) {  // many models begin their answer with a space
      piece.remove_prefix(std::min(piece.find_first_not_of(" \n"), piece.size()));
    }
    if (!options.json && !piece.empty()) {
      fmt::print("{}", piece);
      std::fflush(stdout);
      line_open = true;
    }
  };
  const auto answer = client.Ask(options.chat, on_text);
  if (line_open) {
    fmt::print("\n");
    std::fflush(stdout);
  }
  if (!answer) {
    return answer.error();
  }
  if (options.json) {
    PrintJson(options, *answer);
  }
  if (options.usage) {
    PrintUsage(*answer);
  }
  return {};
}

Result<void> Ask(Options& options) {
  if (options.chat.question == "-") {
    VARVE_TRY(options.chat.question, ReadTexts({"-"}));
  }
  if (options.documents.empty()) {
    VARVE_TRY(const ApiClient client, ApiClient::Create(options.server));
    return Answer(options, client);
  }
  VARVE_TRY(const std::string text, ReadTexts(options.documents));
  VARVE_TRY(const auto document,
            AskableDocument::Open({.model_dir = options.model,
                                   .num_workers = options.workers,
                                   .num_threads = options.threads},
                                  text));
  options.chat.context = document->context_name();
  VARVE_TRY(const ApiClient client, ApiClient::Create(document->url()));
  return Answer(options, client);
}

int RunAsk(Options& options) {
  if (!options.documents.empty() && options.model.empty()) {
    return ReportUsageError("ask", "--doc needs --model DIR, the model that reads the document");
  }
  if (!options.documents.empty() && !options.chat.context.empty()) {
    return ReportUsageError("ask", "--doc and --context exclude each other");
  }
  CatchInterrupts();
  const auto done = Ask(options);
  return done ? kExitOk : ReportError(done.error());
}

}  // namespace

void AddAskCommand(CLI::App& root, Invocation& chosen) {
  auto options = std::make_shared<Options>();
  CLI::App* command = root.add_subcommand("ask", "Ask a question and stream the answer");
  command->footer(kFooter);
  command
      ->add_option(
          "QUESTION", options->chat.question, "The question; - reads it from the standard input")
      ->required();
  command->add_option("--context", options->chat.context, "Context to ask about")
      ->type_name("NAME");
  command->add_option("--doc", options->documents, "Documents to ask about, without a server")
      ->type_name("FILE")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  command
      ->add_option("--max-tokens",
                   options->chat.max_tokens,
                   "Longest answer, in tokens (default: the server's)")
      ->check(IsPositive());
  command
      ->add_option(
          "--temperature", options->chat.temperature, "0 takes the most likely token each time")
      ->check(CLI::Range(0.0, 2.0))
      ->capture_default_str();
  command
      ->add_option("--top-p",
                   options->chat.top_p,
                   "Draw from the likeliest tokens that reach this probability")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  command->add_option("--seed", options->chat.seed, "Makes draws repeatable");
  command
      ->add_option("--attention",
                   options->chat.attention,
                   "How the context is attended to: exact, or select: pages are read until the "
                   "error is below --epsilon (default: as the context was ingested)")
      ->check(CLI::IsMember({"exact", "select"}));
  command
      ->add_option("--epsilon",
                   options->chat.epsilon,
                   "With --attention select: relative error of attention outputs (default: 0.05)")
      ->check(CLI::Range(0.0001, 1.0));
  command
      ->add_option("--delta",
                   options->chat.delta,
                   "With --attention select: probability of a larger error (default: 0.01)")
      ->check(CLI::Range(0.000001, 0.5));
  command
      ->add_option("--budget-tokens",
                   options->chat.budget_tokens,
                   "With --attention select: most tokens that a step reads in a layer")
      ->check(IsPositive());
  command->add_option("--system", options->chat.system, "System message")->type_name("TEXT");
  command->add_flag("--json", options->json, "Print one JSON object instead of streaming");
  command->add_flag("--usage", options->usage, "Print token counts and times to stderr");
  AddServerSetting(*command, options->server);
  AddSetting(*command, "model", options->model, "Model directory, with --doc")->type_name("DIR");
  AddSetting(*command, "workers", options->workers, "Workers, with --doc")
      ->check(CLI::Range(1, 64));
  AddSetting(*command, "threads", options->threads, "Threads, with --doc; 0 takes every core")
      ->check(CLI::Range(0, 1024));
  command->callback([command, &chosen, options] {
    chosen = {command, [options] { return RunAsk(*options); }};
  });
}

}  // namespace varve::cli
