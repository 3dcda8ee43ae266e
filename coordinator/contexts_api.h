// /v1/contexts: create from text, append, fork, pin and time to live, show, list, delete.
//
// Threads: any but the I/O thread (a show asks the workers, an append may hash the stored text).
#pragma once

#include <functional>
#include <memory>

#include "coordinator/context_catalog.h"
#include "coordinator/router.h"
#include "proto/kv_policy.h"
#include "proto/worker_group.h"

namespace varve {

class Engine;

class ContextsApi {
 public:
  // All must outlive this object. `default_policy`: of contexts whose "kv" does not say otherwise.
  ContextsApi(Engine* engine,
              ContextCatalog* catalog,
              WorkerGroup* workers,
              KvPolicy default_policy);

  void Create(RoutedRequest request);
  void Append(RoutedRequest request);
  void Fork(RoutedRequest request);
  void Change(RoutedRequest request);
  void Show(RoutedRequest request);
  void List(RoutedRequest request);
  void Delete(RoutedRequest request);

 private:
  // Sends the context with this status, or the error.
  std::function<void(Result<ContextView>)> Answer(int status,
                                                  std::shared_ptr<ResponseStream> response);

  Engine* const engine_;
  ContextCatalog* const catalog_;
  WorkerGroup* const workers_;
  const KvPolicy default_policy_;
};

}  // namespace varve
