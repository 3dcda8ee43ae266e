// `varve calibrate`: the tables that some codecs need, made from what the model computes on real
// text. Next: ops/cli/table_making.h, worker/codec_tables.h
#include <algorithm>
#include <cstdio>
#include <iterator>
#include <span>

#include <fmt/format.h>
#include <unistd.h>

#include "coordinator/text_model.h"
#include "proto/base/clock.h"
#include "proto/base/file.h"
#include "proto/base/log.h"
#include "worker/codec_tables.h"
#include "worker/sensitivity.h"
#include "worker/weights.h"

#include "ops/cli/commands.h"
#include "ops/cli/exit_code.h"
#include "ops/cli/local_server.h"
#include "ops/cli/progress.h"
#include "ops/cli/settings.h"
#include "ops/cli/table_making.h"
#include <CLI/CLI.hpp>

namespace varve::cli {
namespace {

struct Options {
  std::string model_dir;
  std::vector<std::string> text_files;
  std::vector<std::string> codecs;
  std::string out_file;
  std::string sensitivity_file;  // empty: none
  std::string tokens_file;       // empty: make tables
  int64_t tokens = 8192;
  int64_t sequence_tokens = 2048;
  int threads = 0;
};

void ShowProgress(std::string_view what, int64_t done, int64_t total) {
  if (isatty(STDERR_FILENO) != 0) {
    fmt::print(stderr,
               "\rcalibrate: {} {} of {}{}",
               what,
               FormatCount(done),
               FormatCount(total),
               done == total ? "\n" : "");
    std::fflush(stderr);
  } else if (done == total) {
    fmt::print(stderr, "calibrate: {} {}\n", what, FormatCount(total));
  }
}

Result<std::vector<const Codec*>> ChooseCodecs(const Options& options) {
  std::vector<const Codec*> chosen;
  for (const std::string& name : options.codecs) {
    VARVE_TRY(const Codec* codec, FindCodec(name));
    if (!codec->needs_tables()) {
      return Error{ErrorCode::kInvalidArgument,
                   fmt::format("codec {} needs no tables: nothing is to be calibrated", name)};
    }
    chosen.push_back(codec);
  }
  for (const Codec* codec : AllCodecs()) {
    // Its large codebooks take longer than all other tables together.
    const bool by_name_only = codec->id() == CodecId::kRvq8Large;
    if (options.codecs.empty() && codec->needs_tables() && !by_name_only) {
      chosen.push_back(codec);
    }
  }
  return chosen;
}

// Tokens of all texts, the same number of each as far as they reach, in sequences.
Result<TokenSequences> ReadSequences(const Options& options) {
  VARVE_TRY(const std::unique_ptr<TextModel> text_model,
            LoadTextModel(options.model_dir, &SystemClock()));
  const auto num_files = static_cast<int64_t>(options.text_files.size());
  const int64_t of_each = (options.tokens + num_files - 1) / num_files;
  TokenSequences sequences;
  for (const std::string& file : options.text_files) {
    VARVE_TRY(const std::string text, ReadFile(file));
    VARVE_TRY(const std::vector<int32_t> tokens, text_model->EncodeDocument(text, false));
    const size_t count = std::min(static_cast<size_t>(of_each), tokens.size());
    std::vector<std::vector<int32_t>> own = CutSequences(
        std::span(tokens).first(count), text_model->context_bos_id(), options.sequence_tokens);
    std::move(own.begin(), own.end(), std::back_inserter(sequences));
  }
  return sequences;
}

// Returns the file that was written.
Result<std::string> WriteTokens(const Options& options, const TokenSequences& sequences) {
  VARVE_TRY(const std::string config_text, ReadFile(options.model_dir + "/config.json"));
  VARVE_TRY(const ModelConfig config, ParseModelConfig(config_text));
  VARVE_TRY(const ModelWeights weights, LoadWeights(options.model_dir, config));
  VARVE_RETURN_IF_ERROR(SaveCalibrationTokens(options.tokens_file, weights.model_hash, sequences));
  return options.tokens_file;
}

// Returns the file that was written.
Result<std::string> Calibrate(const Options& options) {
  TableMaking making{.model_dir = options.model_dir,
                     .sequences = {},
                     .codecs = {},
                     .sensitivity_file = options.sensitivity_file,
                     .threads = options.threads};
  VARVE_TRY(making.codecs, ChooseCodecs(options));
  VARVE_TRY(making.sequences, ReadSequences(options));
  if (!options.tokens_file.empty()) {
    return WriteTokens(options, making.sequences);
  }
  VARVE_TRY(const MadeTables made, MakeCodecTables(making, ShowProgress));
  const std::string path = options.out_file.empty()
                               ? fmt::format("{}/{}", options.model_dir, kCodecTablesFile)
                               : options.out_file;
  VARVE_RETURN_IF_ERROR(SaveCodecTables(path, made.tables, made.model_hash));
  return path;
}

int RunCalibrate(const Options& options) {
  InitLogging("warn");
  const Result<std::string> path = Calibrate(options);
  if (!path) {
    return path.error().code == ErrorCode::kInvalidArgument
               ? ReportUsageError("calibrate", path.error().message)
               : ReportError(path.error());
  }
  fmt::print("{}\n", *path);
  return kExitOk;
}

}  // namespace

void AddCalibrateCommand(CLI::App& root, Invocation& chosen) {
  auto options = std::make_shared<Options>();
  CLI::App* command =
      root.add_subcommand("calibrate", "Make the tables that some codecs need for a model");
  command->add_option("--model", options->model_dir, "Model directory")
      ->required()
      ->type_name("DIR");
  command->add_option("--text", options->text_files, "Texts like those that will be served")
      ->required()
      ->type_name("FILE");
  command
      ->add_option(
          "--codecs", options->codecs, "Codecs to make tables for (default: all but rvq8-2k)")
      ->delimiter(',')
      ->type_name("NAME");
  command->add_option("--out", options->out_file, "File to write (default: in the model directory)")
      ->type_name("FILE");
  command->add_option("--tokens", options->tokens, "Tokens to look at, of all texts together")
      ->check(IsPositive())
      ->capture_default_str();
  command->add_option("--sequence-tokens", options->sequence_tokens, "Tokens of one sequence")
      ->check(IsPositive())
      ->capture_default_str();
  CLI::Option* sensitivity =
      command
          ->add_option(
              "--sensitivity",
              options->sensitivity_file,
              "Gradients of the model's loss, from ops/calibration/gradients with the same "
              "texts:\nwhat an error counts where nuq codecs are fitted")
          ->type_name("FILE");
  command
      ->add_option("--write-tokens",
                   options->tokens_file,
                   "Make no tables: write the tokens that would be looked at, for "
                   "ops/calibration/gradients")
      ->type_name("FILE")
      ->excludes(sensitivity);
  options->threads = NumUsableCores();
  command->add_option("--threads", options->threads, "Threads")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  command->footer(
      "The file is bound to the model's weights; `varve serve` loads it when it starts (one that "
      "does not lie in the model\ndirectory with --tables FILE), and pages name the tables that "
      "they were written with. Contexts that were made with\nother tables cannot be read with new "
      "ones: make tables once, before the first ingest.");
  command->callback([command, &chosen, options] {
    chosen = {command, [options] { return RunCalibrate(*options); }};
  });
}

}  // namespace varve::cli
