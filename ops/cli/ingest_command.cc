// `varve ingest`: a text goes into a context. Next: ingest_session.cc.
#include <fmt/format.h>

#include "proto/base/units.h"

#include "ops/cli/api_client.h"
#include "ops/cli/commands.h"
#include "ops/cli/duration.h"
#include "ops/cli/exit_code.h"
#include "ops/cli/ingest_session.h"
#include "ops/cli/interrupt.h"
#include "ops/cli/settings.h"
#include "ops/cli/text_chunks.h"
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

namespace varve::cli {
namespace {

struct Options {
  std::string server = kDefaultServer;
  std::string name;
  std::string kv_codec;
  std::string kv_tokens;
  std::optional<double> kv_keep;
  std::string ttl;
  std::vector<std::string> files;
  bool json = false;
  bool no_wait = false;
  bool quiet = false;
};

constexpr const char* kFooter =
    "The context is created if there is none of this name. If there is one, its text must be the "
    "beginning of the\n"
    "given text, and only the rest is sent: so the same command resumes an interrupted ingest, and "
    "naming more\n"
    "FILEs behind the earlier ones appends them.";

void PrintSummary(const Options& options, const IngestSummary& summary) {
  const ContextInfo& context = summary.context;
  if (options.json) {
    nlohmann::json object = nlohmann::json::parse(context.json);
    object["resumed_at_bytes"] = summary.resumed_at_bytes;
    object["already_complete"] = summary.already_complete;
    object["seconds"] = summary.seconds;
    object["tokens_per_s"] = summary.TokensPerSecond();
    fmt::print("{}\n", object.dump());
    return;
  }
  if (summary.already_complete) {
    fmt::print("{}: already complete, {} tokens; nothing was sent\n",
               options.name,
               FormatCount(context.tokens));
    return;
  }
  if (options.no_wait) {
    fmt::print("{}: all {} bytes are with the server, {} tokens done so far\n",
               options.name,
               context.text_bytes_received,
               FormatCount(context.tokens));
    return;
  }
  fmt::print("{}: {} tokens ready in {:.1f} s ({} tokens/s); {} on disk, {:.1f} bytes per token\n",
             options.name,
             FormatCount(context.tokens),
             summary.seconds,
             FormatCount(static_cast<int64_t>(summary.TokensPerSecond())),
             FormatBytes(context.disk_bytes),
             context.tokens > 0
                 ? static_cast<double>(context.disk_bytes) / static_cast<double>(context.tokens)
                 : 0.0);
}

Result<IngestSummary> Ingest(const Options& options) {
  VARVE_TRY(const ApiClient client, ApiClient::Create(options.server));
  std::optional<int64_t> ttl_s;
  if (!options.ttl.empty()) {
    VARVE_TRY(ttl_s, ParseDuration(options.ttl));
  }
  VARVE_TRY(const std::string text, ReadTexts(options.files));
  ProgressLine line(stderr, options.name, options.quiet);
  IngestProgress last;
  IngestSession session(
      client,
      {.name = options.name,
       .kv = {.codec = options.kv_codec, .tokens = options.kv_tokens, .keep = options.kv_keep},
       .ttl_s = ttl_s.value_or(0) > 0 ? ttl_s : std::nullopt,
       .wait = !options.no_wait},
      text,
      [&](const IngestProgress& progress) {
        last = progress;
        line.Update(progress);
      });
  auto summary = session.Run();
  if (last.text_bytes > 0) {
    line.Finish(last);
  }
  if (summary && ttl_s && summary->context.ttl_s != *ttl_s) {
    VARVE_TRY(summary->context, client.ChangeContext(options.name, {.ttl_s = ttl_s}));
  }
  return summary;
}

int RunIngest(const Options& options) {
  CatchInterrupts();
  const auto summary = Ingest(options);
  if (!summary) {
    const int code = ReportError(summary.error());
    if (code == kExitInterrupted || code == kExitUnreachable) {
      fmt::print(stderr, "varve: run the same command again to go on where it stopped\n");
    }
    return code;
  }
  PrintSummary(options, *summary);
  return kExitOk;
}

}  // namespace

void AddIngestCommand(CLI::App& root, Invocation& chosen) {
  auto options = std::make_shared<Options>();
  CLI::App* command = root.add_subcommand("ingest", "Read texts into a context; resumable");
  command->footer(kFooter);
  command->add_option("--name", options->name, "Name of the context: letters, digits, . _ -")
      ->required()
      ->type_name("NAME");
  command->add_option("FILE", options->files, "UTF-8 text files, in order; - is the standard input")
      ->required();
  command
      ->add_option("--kv-codec",
                   options->kv_codec,
                   "How a new context keeps its KV, for example int8 (default: the server's); "
                   "HOT,WARM,COLD for a ladder that pages go down when there is not enough room, "
                   "for example rot4,rot2,pca; WARM may be empty, COLD may be left out")
      ->type_name("CODEC");
  command
      ->add_option("--kv-tokens",
                   options->kv_tokens,
                   "Which tokens of a new context stay, and how precisely, for example snapkv or "
                   "mikv (default: all)")
      ->type_name("POLICY");
  command
      ->add_option(
          "--keep",
          options->kv_keep,
          "The share of tokens that --kv-tokens keeps (of clusterkv: of pages that a request "
          "reads), above 0 and at most 1")
      ->type_name("SHARE");
  command
      ->add_option("--ttl",
                   options->ttl,
                   "Delete the context when it was not used for so long: 90s, 15m, 12h, 7d, 2w or "
                   "none (default: never)")
      ->type_name("TTL")
      ->check(CheckDuration);
  command->add_flag("--no-wait",
                    options->no_wait,
                    "Return when all text is with the server; it goes on by itself");
  command->add_flag("--json", options->json, "Print the finished context as a JSON object");
  command->add_flag("--quiet", options->quiet, "Show no progress");
  AddServerSetting(*command, options->server);
  command->callback([command, &chosen, options] {
    chosen = {command, [options] { return RunIngest(*options); }};
  });
}

}  // namespace varve::cli
