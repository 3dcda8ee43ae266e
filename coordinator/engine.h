// The engine: one thread that turns requests and ingests into steps of the workers, and steps into
// tokens.
//
// One turn of the loop: take commands, admit, plan (scheduler.h), WorkerGroup::Step, deliver
// tokens, commit ingests. It owns every open sequence. HTTP talks to it through Submit, Cancel and
// DeleteContext; the catalog tells it by OnCatalogChange that there is text to ingest.
//
// Errors: what concerns one sequence ends that request or ingest and no other. An Error of Step
// means that the workers are lost: everything that runs or waits fails with it, and the engine
// refuses work from then on (failure()).
//
// Threads: the public calls may come from any thread; on_event and delete callbacks are made on the
// engine's thread and must not block.
//
// Next: proto/worker_group.h
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "coordinator/context_catalog.h"
#include "coordinator/generation.h"
#include "coordinator/ingest_run.h"
#include "coordinator/request.h"
#include "coordinator/scheduler.h"
#include "proto/base/clock.h"
#include "proto/base/result.h"
#include "proto/worker_group.h"

namespace varve {

class Metrics;

struct EngineLimits {
  SchedulerLimits scheduler;
  size_t max_queue = 256;         // requests that wait for a sequence
  size_t max_ingests = 4;         // contexts ingested at the same time
  int64_t commit_tokens = 16384;  // an ingest commits at least this often
};

class Engine {
 public:
  // All must outlive the engine. Call Start afterwards.
  Engine(const EngineLimits& limits,
         WorkerGroup* workers,
         const TextModel* text_model,
         ContextCatalog* catalog,
         Metrics* metrics,
         const Clock* clock);
  // Stops.
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  void Start();

  // Queues a request. kResourceExhausted when the queue is full; kUnavailable when draining or
  // failed.
  Result<RequestId> Submit(std::unique_ptr<GenerationRequest> request);
  // The request stops before the next step and hears nothing more. Unknown ids are ignored: it may
  // have ended.
  void Cancel(RequestId request);
  // Deletes a context between two steps; an ingest of it is dropped.
  void DeleteContext(std::string name, std::function<void(Result<void>)> done);
  void OnCatalogChange();

  // Refuses new requests, fails the queued ones, lets the running ones finish for `grace_us`,
  // commits ingests at the end of the piece that they are in. Returns when nothing runs any more.
  void Drain(int64_t grace_us);
  // Ends what still runs with kUnavailable, drops uncommitted ingest work, joins the thread.
  void Stop();

  // Why it takes no requests; nothing while it does.
  std::optional<Error> Refusal() const;

 private:
  struct DeleteCommand {
    std::string name;
    std::function<void(Result<void>)> done;
  };

  void Loop();
  bool HasRunnable() const;
  void TakeCommands();
  void RemoveCancelled(const std::vector<RequestId>& cancelled);
  void RunDelete(const DeleteCommand& command);
  void AdmitWaiting();
  void FeedIngests();
  void RunStep();
  void Deliver(const StepPlan& plan, StepResult result);
  void CountQuality(const GenerationRequest& request, std::span<const QualitySample> samples);
  void DeliverToRequest(const SequenceWork& work, SequenceResult result);
  void CommitIngests();
  // False if the run ended.
  bool AdvanceIngest(IngestRun* run);
  bool CommitIngest(IngestRun* run);
  void EndRequest(size_t index, const Error& error);
  // The last event of a request whose sequence is closed or was never open.
  void Refuse(Generation* generation, const Error& error);
  void EndIngest(IngestRun* run, const Error& error);
  void CloseSequence(SequenceId sequence);
  void FailEverything(const Error& error);
  void CheckDrained();
  void UpdateGauges();
  Error RefusalLocked() const;

  // Constant after construction.
  const EngineLimits limits_;
  WorkerGroup* const workers_;
  const TextModel* const text_model_;
  ContextCatalog* const catalog_;
  Metrics* const metrics_;
  const Clock* const clock_;

  mutable std::mutex mutex_;
  // Guarded by mutex_.
  std::condition_variable wake_up_;
  std::condition_variable drained_;
  bool wake_ = false;
  bool draining_ = false;
  bool stopping_ = false;
  bool is_drained_ = false;
  int64_t drain_deadline_us_ = 0;
  std::optional<Error> failure_;
  uint64_t next_request_ = 0;
  std::deque<std::unique_ptr<Generation>> waiting_;
  std::vector<RequestId> cancelled_;
  std::vector<DeleteCommand> deletes_;

  // The engine thread's own.
  std::vector<std::unique_ptr<Generation>> running_;  // in order of admission
  std::vector<std::unique_ptr<IngestRun>> ingests_;
  StepCost cost_;
  uint64_t step_ = 0;
  uint64_t next_sequence_ = 0;
  bool drain_seen_ = false;

  std::thread thread_;
};

}  // namespace varve
