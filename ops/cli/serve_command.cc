// `varve serve`: coordinator and workers in one process. Next: local_server.cc.
#include <atomic>
#include <csignal>
#include <thread>

#include <fmt/format.h>
#include <pthread.h>
#include <unistd.h>

#include "proto/base/file.h"
#include "proto/base/log.h"

#include "ops/cli/commands.h"
#include "ops/cli/exit_code.h"
#include "ops/cli/local_server.h"
#include "ops/cli/settings.h"
#include <CLI/CLI.hpp>

namespace varve::cli {
namespace {

struct Options {
  LocalServerOptions server;
  std::string log_level = "info";
};

constexpr const char* kFooter =
    "SIGTERM or Ctrl-C drains: running answers end, ingests commit, then the server stops. A "
    "second one stops at once;\n"
    "nothing durable is lost either way.";

constexpr int64_t kDrainPollNs = 50'000'000;

sigset_t StopSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  return signals;
}

void PrintStartLine(const LocalServerOptions& options, const LocalServer& server) {
  const int threads = options.num_threads > 0 ? options.num_threads : NumUsableCores();
  fmt::print(
      "varve {}: serving {}{} at {} with {} worker{} on {} thread{}; data in {}; {} context{} "
      "recovered\n",
      VARVE_VERSION,
      server.model_name(),
      options.weights == "auto" ? "" : fmt::format(" (weights {})", options.weights),
      server.url(),
      options.num_workers,
      options.num_workers == 1 ? "" : "s",
      threads,
      threads == 1 ? "" : "s",
      options.data_dir,
      server.num_contexts_recovered(),
      server.num_contexts_recovered() == 1 ? "" : "s");
  std::fflush(stdout);
}

// Drains beside a watch for the second signal, which ends the process at once.
int DrainOrStop(LocalServer& server) {
  fmt::print(stderr, "varve: draining; once more to stop at once\n");
  std::atomic<bool> drained = false;
  std::thread drain([&] {
    server.Drain();
    drained = true;
  });
  const sigset_t signals = StopSignals();
  while (!drained) {
    const timespec pause{.tv_sec = 0, .tv_nsec = kDrainPollNs};
    if (sigtimedwait(&signals, nullptr, &pause) > 0) {
      fmt::print(stderr, "varve: stopped before everything was drained\n");
      std::_Exit(kExitInterrupted);
    }
  }
  drain.join();
  return kExitOk;
}

int RunServe(Options& options) {
  if (options.server.model_dir.empty()) {
    return ReportUsageError(
        "serve", "--model DIR is missing: the model directory to serve (Hugging Face format)");
  }
  if (options.server.data_dir.empty()) {
    options.server.data_dir = DefaultDataDir();
  }
  InitLogging(options.log_level);
  // Before any thread is made: all of them inherit the mask, and this thread takes the signals one
  // by one.
  const sigset_t signals = StopSignals();
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  auto server = LocalServer::Start(options.server);
  if (!server) {
    ReportError(server.error());
    return kExitFailure;
  }
  PrintStartLine(options.server, **server);
  int signal = 0;
  sigwait(&signals, &signal);
  const int code = DrainOrStop(**server);
  server->reset();
  fmt::print(stderr, "varve: stopped\n");
  return code;
}

void AddSettings(CLI::App& command, Options& options) {
  LocalServerOptions& server = options.server;
  AddSetting(
      command, "model", server.model_dir, "Model directory: config.json, safetensors, tokenizer")
      ->type_name("DIR");
  AddSetting(command, "weights", server.weights, kWeightsHelp)->check(IsWeightsSetting());
  AddSetting(command, "tables", server.tables_file, kTablesHelp)->type_name("FILE");
  AddSetting(
      command, "workers", server.num_workers, "Workers that share the pages and the dense work")
      ->check(CLI::Range(1, 64));
  AddSetting(
      command, "threads", server.num_threads, "Threads of all workers together; 0 takes every core")
      ->check(CLI::Range(0, 1024));
  AddSetting(command, "host", server.host, "Address to listen on; 0.0.0.0 for all")
      ->type_name("ADDRESS");
  AddSetting(command, "port", server.port, "Port to listen on; 0 takes a free one")
      ->check(CLI::Range(0, 65535));
  AddSetting(command,
             "data",
             server.data_dir,
             "Where contexts are kept (default: " + DefaultDataDir() + ")")
      ->type_name("DIR");
  AddByteSetting(command, "host-budget", server.host_budget_bytes, "Most bytes of KV in memory");
  AddByteSetting(command,
                 "device-budget",
                 server.device_budget_bytes,
                 "Most bytes of a tier above it, for what attention works with; 0 for none");
  AddByteSetting(
      command, "disk-budget", server.disk_budget_bytes, "Most bytes on disk; 0 for no limit");
  AddSetting(command,
             "max-step-tokens",
             server.max_step_tokens,
             "Most prompt and ingest tokens in one step")
      ->check(CLI::Range(1, 65536));
  AddSetting(command, "max-running", server.max_running, "Most requests that run at the same time")
      ->check(CLI::Range(1, 4096));
  AddSetting(command,
             "max-queue",
             server.max_queue,
             "Most requests that wait; further ones are answered 429")
      ->check(CLI::Range(0, 1 << 20));
  AddSetting(command,
             "commit-tokens",
             server.commit_tokens,
             "An ingest is made durable at least this often")
      ->check(CLI::Range(1, 1 << 24));
  AddSetting(command,
             "quality-sample",
             server.quality_share,
             "Share of steps and layers in which requests that do not read every page are compared "
             "with exact attention, for the metrics")
      ->check(CLI::Range(0.0, 1.0));
  AddSetting(command, "log-level", options.log_level, "What is logged to stderr")
      ->check(CLI::IsMember({"debug", "info", "warn", "error", "off"}));
  AddConfigFlag(command);
}

}  // namespace

void AddServeCommand(CLI::App& root, Invocation& chosen) {
  auto options = std::make_shared<Options>();
  CLI::App* command =
      root.add_subcommand("serve", "Serve a model: coordinator and workers in one process");
  command->footer(kFooter);
  AddSettings(*command, *options);
  command->callback([command, &chosen, options] {
    chosen = {command, [options] { return RunServe(*options); }};
  });
}

}  // namespace varve::cli
