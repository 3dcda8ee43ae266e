// `varve eval`, the quality lab. Next: ops/cli/eval/lab.h
#include <cstdio>

#include <fmt/format.h>

#include "proto/base/clock.h"
#include "proto/base/file.h"
#include "proto/base/log.h"

#include "ops/cli/commands.h"
#include "ops/cli/eval/lab.h"
#include "ops/cli/eval/notes.h"
#include "ops/cli/eval/report.h"
#include "ops/cli/exit_code.h"
#include "ops/cli/local_server.h"
#include "ops/cli/progress.h"
#include "ops/cli/settings.h"
#include <CLI/CLI.hpp>

namespace varve::cli {
namespace {

constexpr const char* kFooter =
    "divergence   The text runs through the model in blocks of 128 tokens; earlier blocks are seen "
    "as "
    "codec and policy keep\n             them, except for the first 4 and the newest 128 to 255 "
    "tokens. Predictions are compared with those of exact\n             KV (f32): KL divergence in "
    "nats, share of equal likeliest tokens, increase of the text's negative\n             "
    "log-likelihood. static_...: the same for KV that was computed exactly and compressed then.\n"
    "retrieval    Facts in documents, asked after the document was compressed; exact match and its "
    "95 % interval.\n"
    "planted      Attention over up to millions of tokens without a model: does it still find a "
    "needle?\n"
    "rate         Bits against squared error on Gaussian values and on the model's own K and V, "
    "beside the bounds.\n"
    "tradeoff     Many tokens in few bits against few tokens in many, at equal bytes: 16, 8, 4 and "
    "2 bits.\n"
    "BPE: bits kept for each value of a token's K and V, with all that is stored beside the "
    "codes.\n"
    "Codecs that need tables take those beside the model or in --tables; the lab makes what is not "
    "there, with text\nor draws that it does not measure: for rate and for copies with outliers "
    "always.";

constexpr double kQuickBudgetS = 15 * 60;
constexpr const char* kQuickHelp =
    "Smaller sizes, where no option says otherwise: one sequence of 1280 tokens (1024 of them\n"
    "scored) and no static way, one document of 1024 with 6 questions of each task, tables made\n"
    "with 3072 tokens. Meant to take 15 minutes on two cores with SmolLM2-135M and every codec;\n"
    "says what it took";

void ReportTime(const EvalOptions& options, double seconds) {
  fmt::print(stderr, "eval: took {}", FormatDuration(seconds));
  if (options.budget_s > 0) {
    fmt::print(stderr,
               ", {} a budget of {}",
               seconds <= options.budget_s ? "within" : "over",
               FormatDuration(options.budget_s));
  }
  fmt::print(stderr, "\n");
}

// Finds out before the measurements, not after them, whether their files can be written.
Result<void> CheckOutputs(const EvalOptions& options) {
  if (!options.out_dir.empty()) {
    VARVE_RETURN_IF_ERROR(PrepareReport(options.out_dir));
  }
  return options.json_file.empty() ? Result<void>() : CheckWritable(options.json_file);
}

int RunEval(const EvalOptions& options) {
  InitLogging("warn");
  if (const auto writable = CheckOutputs(options); !writable) {
    return ReportError(writable.error());
  }
  const int64_t begin_us = SystemClock().NowUs();
  LabProgress progress(stderr);
  const Result<std::vector<EvalRow>> rows = RunLab(options, &progress);
  if (!rows) {
    return rows.error().code == ErrorCode::kInvalidArgument
               ? ReportUsageError("eval", rows.error().message)
               : ReportError(rows.error());
  }
  fmt::print("{}", FormatTables(*rows));
  for (const std::string& note : NotesOn(*rows)) {
    fmt::print("{}\n", note);
  }
  ReportTime(options, static_cast<double>(SystemClock().NowUs() - begin_us) * 1e-6);
  if (!options.json_file.empty()) {
    if (const auto written = WriteFileAtomically(options.json_file, FormatJson(*rows)); !written) {
      return ReportError(written.error());
    }
  }
  if (!options.out_dir.empty()) {
    const Result<std::string> written = WriteReport(options.out_dir, *rows);
    if (!written) {
      return ReportError(written.error());
    }
    fmt::print(stderr, "eval: {}\n", *written);
  }
  return kExitOk;
}

// Sizes for kQuickBudgetS on two cores with a model of 135 M parameters and every codec, where no
// flag says otherwise: kQuickHelp. A codec costs a sequence of one page after the other, a document
// and its questions: so many that one answer is four in a hundred.
void ApplyQuick(const CLI::App& command, EvalOptions* options) {
  const auto set = [&command](const char* flag, auto* value, auto quick) {
    if (command.get_option(flag)->empty()) {
      *value = quick;
    }
  };
  set("--tokens", &options->tokens, int64_t{1280});
  set("--sequences", &options->sequences, int64_t{1});
  set("--questions", &options->questions, int64_t{6});
  set("--document-tokens", &options->document_tokens, std::vector<int64_t>{1024});
  set("--calibration-tokens", &options->calibration_tokens, int64_t{3072});
  options->with_static = false;
  options->budget_s = kQuickBudgetS;
}

void AddWhat(CLI::App* command, EvalOptions* options) {
  command->add_option("--model", options->model_dir, "Model directory")
      ->required()
      ->type_name("DIR");
  command->add_option("--parts", options->parts, "What to measure")
      ->delimiter(',')
      ->type_name("NAME")
      ->capture_default_str();
  command->add_option("--codecs", options->codecs, "Codecs to compare (default: all but rvq8-2k)")
      ->delimiter(',')
      ->type_name("NAME");
  command->add_option("--policies", options->policies, "Token policies, NAME or NAME:KEEP")
      ->delimiter(',')
      ->type_name("NAME")
      ->capture_default_str();
  command->add_option("--bits", options->max_bits, "Only what keeps at most so many bits per value")
      ->check(IsPositive());
  command
      ->add_option("--outliers",
                   options->outliers,
                   "Scales of a few channels of K and V, in a copy of the model that computes the "
                   "same; 1: the model as it is")
      ->delimiter(',')
      ->capture_default_str();
}

void AddHowMuch(CLI::App* command, EvalOptions* options) {
  command->add_option("--weights", options->weights, kWeightsHelp)
      ->check(IsWeightsSetting())
      ->capture_default_str();
  command->add_option("--tables", options->tables_file, kTablesHelp)->type_name("FILE");
  command
      ->add_option("--text",
                   options->text_files,
                   "Texts to predict, and to plant facts in (default: Varve's documentation)")
      ->type_name("FILE");
  command
      ->add_option("--calibration-text",
                   options->calibration_files,
                   "Texts to make tables with, where there are none (default: the last third of "
                   "each text, which is then not measured)")
      ->type_name("FILE");
  command
      ->add_option("--calibration-tokens",
                   options->calibration_tokens,
                   "Tokens of these texts to look at, all together, at most")
      ->check(IsPositive())
      ->capture_default_str();
  command->add_option("--tokens", options->tokens, "Divergence: tokens of a sequence")
      ->check(IsPositive())
      ->capture_default_str();
  command->add_option("--sequences", options->sequences, "Divergence: sequences of each text")
      ->check(IsPositive())
      ->capture_default_str();
  command
      ->add_option("--document-tokens",
                   options->document_tokens,
                   "Retrieval: lengths of documents (default: 4096 and 32768, where they fit)")
      ->delimiter(',')
      ->check(IsPositive());
  command
      ->add_option("--questions",
                   options->questions,
                   "Retrieval: questions of each task and length, at least")
      ->check(IsPositive())
      ->capture_default_str();
  command
      ->add_option("--planted-tokens",
                   options->planted_tokens,
                   "Planted: lengths at which needles are looked for")
      ->delimiter(',')
      ->check(IsPositive())
      ->capture_default_str();
  command->add_option("--budgets", options->budgets, "Tradeoff: bits for each value of all tokens")
      ->delimiter(',')
      ->capture_default_str();
  command->add_option("--seed", options->seed, "Same seed, same documents")->capture_default_str();
  options->threads = NumUsableCores();
  command->add_option("--threads", options->threads, "Threads")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
}

}  // namespace

void AddEvalCommand(CLI::App& root, Invocation& chosen) {
  auto options = std::make_shared<EvalOptions>();
  auto quick = std::make_shared<bool>(false);
  CLI::App* command =
      root.add_subcommand("eval", "The quality lab: codecs and policies side by side");
  AddWhat(command, options.get());
  AddHowMuch(command, options.get());
  command->add_flag("--quick", *quick, kQuickHelp);
  command->add_option("--json", options->json_file, "Also write the rows to this file")
      ->type_name("FILE");
  command
      ->add_option("--out",
                   options->out_dir,
                   "Write results.json, table.md and plots (PNG, SVG) into this directory")
      ->type_name("DIR");
  command->footer(kFooter);
  command->callback([command, &chosen, options, quick] {
    if (*quick) {
      ApplyQuick(*command, options.get());
    }
    chosen = {command, [options] { return RunEval(*options); }};
  });
}

}  // namespace varve::cli
