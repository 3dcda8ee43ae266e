// `varve bench attention | step | ingest | restart | disk | context | scale`. Next:
// ops/cli/bench/.
#include "ops/cli/bench/attention_bench.h"
#include "ops/cli/bench/context_bench.h"
#include "ops/cli/bench/disk_bench.h"
#include "ops/cli/bench/scale_bench.h"
#include "ops/cli/bench/served_bench.h"
#include "ops/cli/bench/step_bench.h"
#include "ops/cli/commands.h"
#include "ops/cli/exit_code.h"
#include "ops/cli/local_server.h"
#include "ops/cli/settings.h"
#include "ops/cli/token_count.h"
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
  if constexpr (requires { options->runs; }) {
    command->add_option("--runs", options->runs, "The median of this many is printed")
        ->check(CLI::Range(1, 1000))
        ->capture_default_str();
  }
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

void AddContext(CLI::App& bench, Invocation& chosen) {
  auto options = std::make_shared<ContextBenchOptions>();
  CLI::App* command = bench.add_subcommand(
      "context", "A long context that memory holds a part of: ingest, lookups, decode");
  command->add_option("--model", options->model_dir, "Model directory")
      ->required()
      ->type_name("DIR");
  command->add_option("--weights", options->weights, kWeightsHelp)
      ->check(IsWeightsSetting())
      ->capture_default_str();
  command->add_option("--tables", options->tables_file, kTablesHelp)->type_name("FILE");
  AddTokenCount(
      *command, "--tokens", options->tokens, "Tokens of the document, about; 1M = 1,048,576");
  command
      ->add_option(
          "--text", options->text_file, "What it is made of (default: Varve's documentation)")
      ->type_name("FILE");
  command
      ->add_option("--data",
                   options->data_dir,
                   "Keeps the context here, and uses it again (default: a temporary directory)")
      ->type_name("DIR");
  command
      ->add_option("--device-share",
                   options->device_share,
                   "Of the context's bytes, that the device tier may hold; 0: there is none")
      ->capture_default_str();
  command->add_option("--host-share", options->host_share, "The same of the host tier")
      ->capture_default_str();
  command->add_option("--questions", options->questions, "Lookups: a multiple of 4, at most 240")
      ->capture_default_str();
  command->add_option("--codec", options->codec, "Codec of the pages, or HOT,WARM,COLD")
      ->capture_default_str();
  command->add_option("--attention", options->attention, "exact, select, or both, in this order")
      ->delimiter(',')
      ->capture_default_str();
  AddTokenCount(*command,
                "--budget-tokens",
                options->budget_tokens,
                "Of select: most tokens of sealed pages that a step reads in a layer")
      ->default_str("a 40th of them");
  command->add_option("--workers", options->workers, "Workers")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  command->add_option("--seed", options->seed, "Of the document")->capture_default_str();
  AddThreads(command, options->threads);
  OnChosen(command, chosen, options, RunContextBench);
}

void AddScale(CLI::App& bench, Invocation& chosen) {
  auto options = std::make_shared<ScaleBenchOptions>();
  CLI::App* command = bench.add_subcommand(
      "scale", "Attention alone over up to millions of tokens, in three tiers: one layer");
  AddTokenCounts(*command, "--tokens", options->tokens, "Lengths, multiples of 64K");
  command
      ->add_option("--data",
                   options->data_dir,
                   "Keeps the pages here, and uses them again (default: a temporary directory)")
      ->type_name("DIR");
  command->add_option("--codec", options->codec, "Codec of the pages")->capture_default_str();
  command->add_option("--qo-heads", options->shape.num_qo_heads, "Query heads")
      ->capture_default_str();
  command->add_option("--kv-heads", options->shape.num_kv_heads, "KV heads")->capture_default_str();
  command->add_option("--head-dim", options->shape.head_dim, "Values of a head")
      ->capture_default_str();
  command->add_option("--attention", options->attention, "exact, select, or both, in this order")
      ->delimiter(',')
      ->capture_default_str();
  AddTokenCount(*command,
                "--budget-tokens",
                options->budget_tokens,
                "Of select: most tokens of sealed pages that a step reads");
  command->add_option("--epsilon", options->epsilon, "Of select: error at which it reads no more")
      ->check(IsPositive())
      ->capture_default_str();
  command
      ->add_option("--device-share",
                   options->device_share,
                   "Of the bytes of each length, that the device tier may hold; at least 8 MiB for "
                   "each worker")
      ->capture_default_str();
  command
      ->add_option(
          "--host-share", options->host_share, "The same of the host tier, without a least")
      ->capture_default_str();
  command->add_option("--workers", options->workers, "Workers")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  command->add_option("--seed", options->seed, "Of what is made up")->capture_default_str();
  AddThreads(command, options->threads);
  OnChosen(command, chosen, options, RunScaleBench);
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
  AddContext(*bench, chosen);
  AddScale(*bench, chosen);
}

}  // namespace varve::cli
