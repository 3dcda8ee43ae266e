// POST /v1/completions and /v1/chat/completions: a validated request becomes a GenerationRequest,
// its events become the answer. Refuses with a 4xx what is malformed, unknown, too long or too
// much; nothing refused reaches the engine.
//
// A request with "context" goes on behind that context: a prompt is encoded as a continuation, a
// chat is rendered without its BOS, because the context begins with it.
//
// Threads: Handle from any thread (it tokenises; not the I/O thread).
//
// Next: coordinator/scheduler.h
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "coordinator/completion_params.h"
#include "coordinator/request.h"
#include "coordinator/router.h"
#include "proto/base/clock.h"
#include "proto/worker_group.h"

namespace varve {

class ContextCatalog;
class Engine;

class CompletionsApi {
 public:
  // All must outlive this object.
  CompletionsApi(Engine* engine,
                 ContextCatalog* catalog,
                 const WorkerGroup* workers,
                 const TextModel* text_model,
                 const Clock* clock);

  void Handle(CompletionKind kind, RoutedRequest request);

 private:
  // The prompt in tokens, or what is wrong with it.
  std::optional<ApiError> Tokenize(CompletionKind kind,
                                   CompletionParams* params,
                                   std::vector<int32_t>* tokens) const;
  std::optional<ApiError> Prepare(CompletionKind kind,
                                  CompletionParams* params,
                                  GenerationRequest* generation);
  uint64_t NextRandom();

  Engine* const engine_;
  ContextCatalog* const catalog_;
  const WorkerGroup* const workers_;
  const TextModel* const text_model_;
  const Clock* const clock_;
  const uint64_t random_base_;
  std::atomic<uint64_t> next_random_{0};
};

}  // namespace varve
