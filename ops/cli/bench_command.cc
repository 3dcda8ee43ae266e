// `varve bench attention | step | ingest | restart | disk`. Next: ops/cli/bench/.
#include "ops/cli/bench/attention_bench.h"
#include "ops/cli/bench/disk_bench.h"
#include "ops/cli/bench/served_bench.h"
#include "ops/cli/bench/step_bench.h"
#include "ops/cli/commands.h"
#include "ops/cli/exit_code.h"
#include "ops/cli/local_server.h"
#include "ops/cli/settings.h"
#include <CLI/CLI.hpp>

namespace varve::cli {
namespace {

constexpr const char* kFooter =
    "With --json one object per line: bench, shape, codec, bpe (bits per value, everything stored "
    "included), tokens,\n"
    "threads, workers, median_ms, tokens_per_s, roof_fraction (1: as fast as this machine allows; "
    "-1: no roof).";

template <typename Options>
void OnChosen(CLI::App* command,
              Invocation& chosen,
              const std::shared_ptr<Options>& options,
              int (*run)(const Options&)) {
  command->add_flag("--json", options->json, "Print one JSON object per line");
  command->add_option("--runs", options->runs, "The median of this many is printed")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  command->footer(kFooter);
  command->callback([command, &chosen, options, run] {
    chosen = {command, [options, run] { return run(*options); }};
  });
}

void AddThreads(CLI::App* command, int& threads) {
  threads = NumUsableCores();
  command->add_option("--threads", threads, "Threads")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
}

void AddAttention(CLI::App& bench, Invocation& chosen) {
  auto options = std::make_shared<AttentionBenchOptions>();
  CLI::App* command = bench.add_subcommand(
      "attention", "Attention over encoded pages, decode and prefill, and encoding");
  command->add_option("--codec", options->codec, "A codec's name, or all")->capture_default_str();
  command->add_option("--tokens", options->tokens, "Lengths of the context")->capture_default_str();
  command->add_option("--qo-heads", options->num_qo_heads, "Query heads")->capture_default_str();
  command->add_option("--kv-heads", options->num_kv_heads, "KV heads")->capture_default_str();
  command->add_option("--head-dim", options->head_dim, "Values of a head")->capture_default_str();
  command->add_option("--page-tokens", options->page_tokens, "Tokens of a page")
      ->capture_default_str();
  command
      ->add_option(
          "--queries", options->prefill_queries, "Query tokens of a prefill chunk; 0: decode only")
      ->capture_default_str();
  AddThreads(command, options->threads);
  OnChosen(command, chosen, options, RunAttentionBench);
}

void AddStep(CLI::App& bench, Invocation& chosen) {
  auto options = std::make_shared<StepBenchOptions>();
  CLI::App* command = bench.add_subcommand("step", "The workers' step alone, prefill and decode");
  command->add_option("--model", options->model_dir, "Model directory")
      ->required()
      ->type_name("DIR");
  command->add_option("--weights", options->weights, "auto (as stored), int8, or both side by side")
      ->check(IsWeightsSetting())
      ->capture_default_str();
  command->add_option("--tables", options->tables_file, kTablesHelp)->type_name("FILE");
  command->add_option("--tokens", options->tokens, "Lengths")
      ->check(IsPositive())
      ->capture_default_str();
  command->add_flag(
      "--fill",
      options->fill,
      "Fill the cache with made-up pages, and measure a chunk and tokens behind them");
  command->add_option("--workers", options->workers, "Numbers of workers, side by side")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  command->add_option("--codec", options->codec, "Codec of the pages")->capture_default_str();
  command->add_option("--chunk-tokens", options->chunk_tokens, "Prompt tokens of one step")
      ->check(CLI::Range(1, 65536))
      ->capture_default_str();
  command->add_option("--decode-steps", options->decode_steps, "Decode steps of a run")
      ->check(CLI::Range(1, 65536))
      ->capture_default_str();
  AddThreads(command, options->threads);
  OnChosen(command, chosen, options, RunStepBench);
}

void AddServed(CLI::App& bench,
               Invocation& chosen,
               const std::string& name,
               const std::string& help,
               int (*run)(const ServedBenchOptions&)) {
  auto options = std::make_shared<ServedBenchOptions>();
  CLI::App* command = bench.add_subcommand(name, help);
  command->add_option("--model", options->model_dir, "Model directory")
      ->required()
      ->type_name("DIR");
  command->add_option("--weights", options->weights, kWeightsHelp)
      ->check(IsWeightsSetting())
      ->capture_default_str();
  command->add_option("--tables", options->tables_file, kTablesHelp)->type_name("FILE");
  command->add_option("--tokens", options->tokens, "Tokens of the document, about")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 40))
      ->capture_default_str();
  command->add_option("--workers", options->workers, "Workers")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  command->add_option("--codec", options->codec, "Codec of the pages")->capture_default_str();
  AddThreads(command, options->threads);
  OnChosen(command, chosen, options, run);
}

void AddDisk(CLI::App& bench, Invocation& chosen) {
  auto options = std::make_shared<DiskBenchOptions>();
  CLI::App* command =
      bench.add_subcommand("disk", "Records through the disk tier, beside the disk itself");
  command
      ->add_option("--directory",
                   options->directory,
                   "Where its files are made, on the disk in question (default: TMPDIR, or /tmp)")
      ->check(CLI::ExistingDirectory)
      ->type_name("DIR");
  command->add_option("--bytes", options->total_bytes, "Of all records together, about")
      ->transform(CLI::AsSizeValue(false))
      ->capture_default_str();
  command->add_option("--record-bytes", options->record_bytes, "Of a record; whole sectors of 4096")
      ->check(CLI::Range(uint64_t{512}, uint64_t{64} << 20))
      ->capture_default_str();
  command->add_option("--io-threads", options->io_threads, "Reading threads (default: as `serve`)")
      ->check(CLI::Range(1, 16));
  OnChosen(command, chosen, options, RunDiskBench);
  command->footer(
      "With --json one object per line: bench, record_bytes, bytes, io_threads, median_ms, "
      "mb_per_s "
      "(10^6),\nroof_fraction (of the better of raw_read and fio_read; -1: no roof), and "
      "write_amplification.");
}

}  // namespace

void AddBenchCommand(CLI::App& root, Invocation& chosen) {
  CLI::App* bench = root.add_subcommand("bench", "Measure, beside the hardware's roof");
  bench->require_subcommand(1);
  AddAttention(*bench, chosen);
  AddStep(*bench, chosen);
  AddServed(
      *bench, chosen, "ingest", "A document through HTTP until it is durable", RunIngestBench);
  AddServed(*bench,
            chosen,
            "restart",
            "Restart with a document, then the first answer about it",
            RunRestartBench);
  AddDisk(*bench, chosen);
}

}  // namespace varve::cli
