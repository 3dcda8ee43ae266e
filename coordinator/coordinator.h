// The coordinator: HTTP to users on one side, a WorkerGroup on the other. What `varve serve` and
// the tests start.
//
// It owns the HTTP server, the engine, the catalog of contexts and their threads: one I/O thread,
// two API threads (JSON, prompts), one ingest tokeniser, one engine thread, two for
// exports and imports, one that looks for expired contexts.
//
// The port is open from the beginning of Start: until everything is loaded, /healthz answers 200,
// /readyz and all else 503.
//
// Threads: any.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "coordinator/context_catalog.h"
#include "coordinator/engine.h"
#include "coordinator/http_server.h"
#include "coordinator/text_model.h"
#include "proto/base/clock.h"
#include "proto/base/result.h"
#include "proto/kv_policy.h"
#include "proto/worker_group.h"

namespace varve {

struct CoordinatorOptions {
  std::string model_dir;   // tokenizer and chat template are read from here
  HttpServerOptions http;  // host, port (0: any free one) and the limits of connections
  EngineLimits engine;
  CatalogLimits catalog;
  KvPolicy default_policy;          // of contexts that are created without "kv"
  int expiry_interval_ms = 30'000;  // how often it looks for contexts whose time to live is over
  const Clock* clock = &SystemClock();
  // Called with the port as soon as it is open, before anything is loaded.
  std::function<void(uint16_t port)> on_listening;
};

class Coordinator {
 public:
  // Returns when ready. The group must outlive the coordinator, which is the only one to step it.
  static Result<std::unique_ptr<Coordinator>> Start(CoordinatorOptions options,
                                                    WorkerGroup* workers);
  // The same, with a text model that is not in a directory.
  static Result<std::unique_ptr<Coordinator>> Start(CoordinatorOptions options,
                                                    WorkerGroup* workers,
                                                    std::unique_ptr<TextModel> text_model);
  // Stops.
  virtual ~Coordinator() = default;

  virtual uint16_t port() const = 0;
  // Refuses new work (503, /readyz fails), lets running requests finish for at most `grace_us`,
  // commits ingests at the end of a piece. The port stays open. For SIGTERM: Drain, then Stop.
  virtual void Drain(int64_t grace_us) = 0;
  // Closes the port, ends what still runs, joins all threads. May be called more than once.
  virtual void Stop() = 0;
  // Returns after Stop, of any thread.
  virtual void Wait() = 0;
};

}  // namespace varve
