#include "coordinator/engine.h"

#include <algorithm>
#include <utility>

#include <fmt/core.h>

#include "coordinator/metrics.h"
#include "proto/base/log.h"
#include "proto/base/trace.h"

namespace varve {

Engine::Engine(const EngineLimits& limits,
               WorkerGroup* workers,
               const TextModel* text_model,
               ContextCatalog* catalog,
               Metrics* metrics,
               const Clock* clock)
    : limits_(limits),
      workers_(workers),
      text_model_(text_model),
      catalog_(catalog),
      metrics_(metrics),
      clock_(clock) {}

Engine::~Engine() {
  Stop();
}

void Engine::Start() {
  thread_ = std::thread([this] { Loop(); });
}

Result<RequestId> Engine::Submit(std::unique_ptr<GenerationRequest> request) {
  std::unique_lock lock(mutex_);
  if (failure_ || draining_ || stopping_) {
    return RefusalLocked();
  }
  if (waiting_.size() >= limits_.max_queue) {
    return Error{ErrorCode::kResourceExhausted,
                 fmt::format("{} requests are waiting, the limit of the queue. Try again later.",
                             waiting_.size())};
  }
  const RequestId id{++next_request_};
  waiting_.push_back(
      std::make_unique<Generation>(id, std::move(request), text_model_, clock_->NowUs()));
  wake_ = true;
  lock.unlock();
  wake_up_.notify_one();
  return id;
}

void Engine::Cancel(RequestId request) {
  {
    const std::lock_guard lock(mutex_);
    cancelled_.push_back(request);
    wake_ = true;
  }
  wake_up_.notify_one();
}

void Engine::DeleteContext(std::string name, std::function<void(Result<void>)> done) {
  std::unique_lock lock(mutex_);
  if (failure_ || stopping_) {
    const Error refusal = RefusalLocked();
    lock.unlock();
    done(refusal);
    return;
  }
  deletes_.push_back(DeleteCommand{std::move(name), std::move(done)});
  wake_ = true;
  lock.unlock();
  wake_up_.notify_one();
}

void Engine::OnCatalogChange() {
  {
    const std::lock_guard lock(mutex_);
    wake_ = true;
  }
  wake_up_.notify_one();
}

void Engine::Drain(int64_t grace_us) {
  std::unique_lock lock(mutex_);
  draining_ = true;
  drain_deadline_us_ = clock_->NowUs() + grace_us;
  wake_ = true;
  wake_up_.notify_one();
  drained_.wait(lock, [&] { return is_drained_ || stopping_ || failure_.has_value(); });
}

void Engine::Stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    wake_ = true;
  }
  wake_up_.notify_one();
  drained_.notify_all();
  if (thread_.joinable()) {
    thread_.join();
  }
}

std::optional<Error> Engine::Refusal() const {
  const std::lock_guard lock(mutex_);
  if (failure_ || draining_ || stopping_) {
    return RefusalLocked();
  }
  return std::nullopt;
}

Error Engine::RefusalLocked() const {
  if (failure_) {
    return Error{ErrorCode::kUnavailable, fmt::format("The workers failed: {}", failure_->message)};
  }
  return Error{ErrorCode::kUnavailable, "The server is shutting down and takes no new requests."};
}

void Engine::Loop() {
  for (;;) {
    bool stopping = false;
    bool woken = false;
    {
      std::unique_lock lock(mutex_);
      wake_up_.wait(lock, [this] { return wake_ || HasRunnable() || !waiting_.empty(); });
      woken = std::exchange(wake_, false);
      stopping = stopping_;
    }
    if (stopping) {
      FailEverything(Error{ErrorCode::kUnavailable, "The server was stopped."});
      return;
    }
    TakeCommands();
    AdmitWaiting();
    if (woken || !ingests_.empty()) {
      FeedIngests();
    }
    RunStep();
    CommitIngests();
    CheckDrained();
    UpdateGauges();
  }
}

// An ingest whose tokens are all computed waits for the tokeniser, which wakes the engine by
// OnCatalogChange.
bool Engine::HasRunnable() const {
  return !running_.empty() || std::any_of(ingests_.begin(), ingests_.end(), [](const auto& run) {
    return !run->AsRunnable().pending.empty();
  });
}

void Engine::RunStep() {
  if (!HasRunnable()) {
    return;
  }
  SchedulerState state;
  state.step = ++step_;
  state.cost = cost_;
  for (const auto& generation : running_) {
    state.requests.push_back(generation->AsRunnable());
  }
  for (const auto& run : ingests_) {
    state.ingests.push_back(run->AsRunnable());
  }
  const StepPlan plan = PlanStep(state, limits_.scheduler);
  if (plan.work.empty()) {
    return;
  }
  const int64_t begin_us = clock_->NowUs();
  Result<StepResult> result = [&] {
    const TraceSpan span("coordinator/engine");
    return workers_->Step(plan);
  }();
  const auto step_us = static_cast<double>(clock_->NowUs() - begin_us);
  if (result && result->results.size() != plan.work.size()) {
    result = Error{ErrorCode::kInternal, "The workers answered another plan than the one sent."};
  }
  if (!result) {
    SPDLOG_ERROR("step {} failed: {}", step_, result.error().ToString());
    {
      const std::lock_guard lock(mutex_);
      failure_ = result.error();
    }
    FailEverything(result.error());
    drained_.notify_all();
    return;
  }
  metrics_->ObserveStep(1e-6 * step_us);
  int num_decodes = 0;
  int64_t num_tokens = 0;
  for (const SequenceWork& work : plan.work) {
    num_tokens += static_cast<int64_t>(work.tokens.size());
    for (const auto& generation : running_) {
      num_decodes +=
          static_cast<int>(generation->sequence() == work.sequence && generation->decoding());
    }
  }
  cost_.Record(num_decodes, num_tokens - num_decodes, step_us);
  Deliver(plan, *std::move(result));
}

void Engine::Deliver(const StepPlan& plan, StepResult result) {
  for (size_t i = 0; i < plan.work.size(); ++i) {
    const SequenceWork& work = plan.work[i];
    SequenceResult& sequence_result = result.results[i];
    if (sequence_result.sequence != work.sequence) {
      sequence_result.error = Error{ErrorCode::kInternal, "The workers mixed up two sequences."};
    } else if (work.sample && !sequence_result.error && !sequence_result.sampled) {
      sequence_result.error = Error{ErrorCode::kInternal, "The workers drew no token."};
    }
    const auto run = std::find_if(ingests_.begin(), ingests_.end(), [&](const auto& ingest) {
      return ingest->sequence() == work.sequence;
    });
    if (run == ingests_.end()) {
      DeliverToRequest(work, std::move(sequence_result));
    } else if (sequence_result.error) {
      EndIngest(run->get(), *sequence_result.error);
    } else {
      const auto num_tokens = static_cast<int64_t>(work.tokens.size());
      (*run)->Computed(num_tokens);
      metrics_->CountPrefillTokens(Metrics::Prefill::kDocument, num_tokens);
      catalog_->SetProgress((*run)->context(), (*run)->num_computed(), (*run)->num_waiting());
    }
  }
}

void Engine::CountQuality(const GenerationRequest& request,
                          std::span<const QualitySample> samples) {
  if (samples.empty()) {
    return;
  }
  const KvPolicy& policy = request.context.policy();
  const std::string chosen_by = request.selective ? "select" : policy.tokens;
  for (const QualitySample& sample : samples) {
    metrics_->ObserveQuality(policy.codec, chosen_by, sample.error, sample.mass_recall);
  }
}

void Engine::DeliverToRequest(const SequenceWork& work, SequenceResult result) {
  const auto it = std::find_if(running_.begin(), running_.end(), [&](const auto& running) {
    return running->sequence() == work.sequence;
  });
  VARVE_CHECK(it != running_.end());
  const auto index = static_cast<size_t>(it - running_.begin());
  if (result.error) {
    EndRequest(index, *result.error);
    return;
  }
  Generation& generation = **it;
  const auto num_tokens = static_cast<int64_t>(work.tokens.size());
  if (!generation.decoding()) {
    metrics_->CountPrefillTokens(Metrics::Prefill::kRequest, num_tokens);
  }
  generation.Computed(num_tokens);
  CountQuality(generation.request(), result.quality);
  if (!work.sample) {
    return;
  }
  const int64_t now_us = clock_->NowUs();
  if (generation.last_token_us() == 0) {
    metrics_->ObserveFirstToken(1e-6 * static_cast<double>(now_us - generation.submitted_us()));
  } else {
    metrics_->ObserveInterToken(1e-6 * static_cast<double>(now_us - generation.last_token_us()));
  }
  generation.set_last_token_us(now_us);
  GenerationEvent event = generation.Drawn(*result.sampled, std::move(result.top_logprobs));
  event.page_reads = result.page_reads;
  const bool is_last = event.finish.has_value();
  if (!is_last) {
    generation.request().on_event(std::move(event));
    return;
  }
  // The sequence is closed and counted before the client can know that its answer is complete.
  if (event.page_reads && event.page_reads->error_bound) {
    metrics_->ObserveSelectiveAttention(*event.page_reads->error_bound,
                                        event.page_reads->mean_missed_mass());
  }
  metrics_->CountFinishedRequest(*event.finish == FinishReason::kStop ? "stop" : "length",
                                 1e-6 * static_cast<double>(now_us - generation.submitted_us()));
  CloseSequence(generation.sequence());
  std::unique_ptr<Generation> finished = std::move(*it);
  running_.erase(it);
  UpdateGauges();
  finished->ReleaseContext();
  finished->request().on_event(std::move(event));
}

void Engine::EndRequest(size_t index, const Error& error) {
  std::unique_ptr<Generation> ended = std::move(running_[index]);
  running_.erase(running_.begin() + static_cast<std::ptrdiff_t>(index));
  CloseSequence(ended->sequence());
  Refuse(ended.get(), error);
}

void Engine::Refuse(Generation* generation, const Error& error) {
  metrics_->CountFailedRequest(ErrorName(error.code));
  generation->ReleaseContext();
  generation->request().on_event(generation->Failed(error));
}

void Engine::CloseSequence(SequenceId sequence) {
  if (const Result<void> closed = workers_->CloseSequence(sequence); !closed) {
    SPDLOG_WARN("closing sequence {}: {}", sequence.value, closed.error().ToString());
  }
}

void Engine::FailEverything(const Error& error) {
  while (!running_.empty()) {
    EndRequest(running_.size() - 1, error);
  }
  while (!ingests_.empty()) {
    EndIngest(ingests_.back().get(), error);
  }
  std::deque<std::unique_ptr<Generation>> waiting;
  std::vector<DeleteCommand> deletes;
  {
    const std::lock_guard lock(mutex_);
    waiting.swap(waiting_);
    deletes.swap(deletes_);
  }
  for (const auto& generation : waiting) {
    Refuse(generation.get(), error);
  }
  for (const DeleteCommand& command : deletes) {
    command.done(error);
  }
}

void Engine::CheckDrained() {
  {
    const std::lock_guard lock(mutex_);
    if (!draining_ || !waiting_.empty() || !running_.empty() || !ingests_.empty()) {
      return;
    }
    is_drained_ = true;
  }
  drained_.notify_all();
}

void Engine::UpdateGauges() {
  size_t num_waiting = 0;
  {
    const std::lock_guard lock(mutex_);
    num_waiting = waiting_.size();
  }
  metrics_->SetQueue(running_.size(), num_waiting);
}

}  // namespace varve
