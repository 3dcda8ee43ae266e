// `varve eval`. Next: ops/cli/eval/divergence_eval.h
#include <cstdio>

#include <fmt/format.h>
#include <unistd.h>

#include "proto/base/file.h"
#include "proto/base/log.h"

#include "ops/cli/commands.h"
#include "ops/cli/eval/divergence_eval.h"
#include "ops/cli/exit_code.h"
#include "ops/cli/local_server.h"
#include "ops/cli/settings.h"
#include "ops/cli/table.h"
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

namespace varve::cli {
namespace {

void ShowProgress(int64_t done, int64_t total) {
  if (isatty(STDERR_FILENO) != 0) {
    fmt::print(stderr, "\reval: {} of {} blocks{}", done, total, done == total ? "\n" : "");
    std::fflush(stderr);
  } else if (done == total || done % 16 == 0) {
    fmt::print(stderr, "eval: {} of {} blocks\n", done, total);
  }
}

std::string FormatRows(const std::vector<DivergenceRow>& rows) {
  Table table({"CODEC", "BPE", "KL MEAN", "KL P99.9", "TOP-1", "NLL DELTA", "POSITIONS"});
  for (const DivergenceRow& row : rows) {
    table.AddRow({row.codec,
                  fmt::format("{:.3f}", row.bpe),
                  fmt::format("{:.5f}", row.kl_mean),
                  fmt::format("{:.4f}", row.kl_p999),
                  fmt::format("{:.4f}", row.top1),
                  fmt::format("{:.5f}", row.nll_delta),
                  fmt::format("{}", row.positions)});
  }
  return table.Format();
}

std::string ToJson(const std::vector<DivergenceRow>& rows) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const DivergenceRow& row : rows) {
    list.push_back({{"codec", row.codec},
                    {"policy", "full"},
                    {"bpe", row.bpe},
                    {"kl_mean", row.kl_mean},
                    {"kl_p999", row.kl_p999},
                    {"top1", row.top1},
                    {"nll_delta", row.nll_delta},
                    {"positions", row.positions}});
  }
  return list.dump(1) + "\n";
}

int RunEval(const EvalOptions& options) {
  InitLogging("warn");
  const Result<std::vector<DivergenceRow>> rows = MeasureDivergence(options, ShowProgress);
  if (!rows) {
    return rows.error().code == ErrorCode::kInvalidArgument
               ? ReportUsageError("eval", rows.error().message)
               : ReportError(rows.error());
  }
  fmt::print("{}", FormatRows(*rows));
  if (!options.json_file.empty()) {
    if (const auto written = WriteFileAtomically(options.json_file, ToJson(*rows)); !written) {
      return ReportError(written.error());
    }
  }
  return kExitOk;
}

}  // namespace

void AddEvalCommand(CLI::App& root, Invocation& chosen) {
  auto options = std::make_shared<EvalOptions>();
  CLI::App* command = root.add_subcommand("eval", "What each codec does to a model's predictions");
  command->add_option("--model", options->model_dir, "Model directory")
      ->required()
      ->type_name("DIR");
  command->add_option("--weights", options->weights, kWeightsHelp)
      ->check(IsWeightsSetting())
      ->capture_default_str();
  command->add_option("--text", options->text_files, "Texts to predict, each from its beginning")
      ->required()
      ->type_name("FILE");
  command->add_option("--codecs", options->codecs, "Codecs to compare (default: all)")
      ->delimiter(',')
      ->type_name("NAME");
  command->add_option("--tokens", options->tokens, "Tokens of a sequence")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("--sequences", options->sequences, "Sequences of each text")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  options->threads = NumUsableCores();
  command->add_option("--threads", options->threads, "Threads")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  command->add_option("--json", options->json_file, "Also write the rows to this file")
      ->type_name("FILE");
  command->footer(
      "The text runs through the model in blocks of 128 tokens; earlier blocks are seen as the "
      "codec keeps them,\nexcept for the first 4 and the newest 128 to 255 tokens. Predictions "
      "behind position 256 are compared with those of exact KV\n(f32): KL divergence in nats, "
      "share of equal likeliest tokens, increase of the text's negative log-likelihood.\nBPE: bits "
      "per value of a page, with all that is stored beside the codes.\n"
      "With --weights int8 everything runs on int8 weights, and a row \"weights int8\" compares "
      "their exact KV with that of the weights as stored.");
  command->callback([command, &chosen, options] {
    chosen = {command, [options] { return RunEval(*options); }};
  });
}

}  // namespace varve::cli
