// What reaches the engine from outside between two steps: cancellations, deletions, the drain, new
// requests.

#include <algorithm>
#include <utility>

#include "coordinator/engine.h"
#include "coordinator/metrics.h"
#include "proto/base/log.h"

namespace varve {

void Engine::TakeCommands() {
  std::vector<RequestId> cancelled;
  std::vector<DeleteCommand> deletes;
  std::deque<std::unique_ptr<Generation>> refused;
  std::vector<std::unique_ptr<Generation>> dropped;  // destroyed without the mutex: leases notify
  bool drain_begins = false;
  bool grace_is_over = false;
  {
    const std::lock_guard lock(mutex_);
    cancelled.swap(cancelled_);
    deletes.swap(deletes_);
    for (auto& generation : waiting_) {
      if (std::find(cancelled.begin(), cancelled.end(), generation->id()) != cancelled.end()) {
        dropped.push_back(std::move(generation));
      }
    }
    std::erase(waiting_, nullptr);
    drain_begins = draining_ && !drain_seen_;
    if (draining_) {
      refused.swap(waiting_);
      grace_is_over = clock_->NowUs() >= drain_deadline_us_;
    }
  }
  for (const auto& generation : dropped) {
    metrics_->CountFailedRequest("abort");
    generation->ReleaseContext();
  }
  RemoveCancelled(cancelled);
  for (const auto& generation : refused) {
    Refuse(generation.get(),
           Error{ErrorCode::kUnavailable, "The server is shutting down; send this elsewhere."});
  }
  if (drain_begins) {
    drain_seen_ = true;
    for (const auto& run : ingests_) {
      run->StopEarly();
    }
  }
  if (grace_is_over) {
    FailEverything(Error{ErrorCode::kUnavailable, "The server shut down during this request."});
  }
  for (const DeleteCommand& command : deletes) {
    RunDelete(command);
  }
}

void Engine::RemoveCancelled(const std::vector<RequestId>& cancelled) {
  for (const RequestId id : cancelled) {
    const auto it = std::find_if(
        running_.begin(), running_.end(), [&](const auto& running) { return running->id() == id; });
    if (it != running_.end()) {
      metrics_->CountFailedRequest("abort");
      CloseSequence((*it)->sequence());
      running_.erase(it);
    }
  }
}

void Engine::RunDelete(const DeleteCommand& command) {
  const Result<ContextId> context = catalog_->BeginDelete(command.name);
  if (!context) {
    command.done(context.error());
    return;
  }
  for (const auto& run : ingests_) {
    if (run->context() == *context) {
      CloseSequence(run->sequence());
    }
  }
  std::erase_if(ingests_, [&](const auto& run) { return run->context() == *context; });
  const Result<void> deleted = workers_->DeleteContext(*context);
  catalog_->EndDelete(*context, deleted);
  command.done(deleted);
}

void Engine::AdmitWaiting() {
  std::vector<std::unique_ptr<Generation>> admitted;
  {
    const std::lock_guard lock(mutex_);
    const int num_admitted = NumToAdmit(
        static_cast<int>(waiting_.size()), static_cast<int>(running_.size()), limits_.scheduler);
    for (int i = 0; i < num_admitted; ++i) {
      admitted.push_back(std::move(waiting_.front()));
      waiting_.pop_front();
    }
  }
  for (auto& generation : admitted) {
    const GenerationRequest& request = generation->request();
    OpenSequenceOptions options;
    if (!request.context.empty()) {
      options.base = request.context.id();
      options.base_tokens = request.context.num_tokens();
      options.policy = request.context.policy();
      options.reads_every_page = request.reads_every_page;
      options.selective = request.selective;
    }
    const SequenceId sequence{++next_sequence_};
    if (const Result<void> opened = workers_->OpenSequence(sequence, options); !opened) {
      Refuse(generation.get(), opened.error());
      continue;
    }
    generation->Admit(sequence);
    metrics_->CountAdmittedRequest(
        1e-6 * static_cast<double>(clock_->NowUs() - generation->submitted_us()),
        generation->num_prompt_tokens(),
        request.context.num_tokens());
    running_.push_back(std::move(generation));
  }
}

}  // namespace varve
