// /v1/contexts/{name}/export and .../import: contexts as files.
//
// An export streams: it reads as fast as the client takes it. An import comes in parts, each a
// request with `offset` (of its first byte in the file) in the query and the last one with
// `last=1`; it is kept for ten minutes without a part, and leaves nothing if it does not come to
// its end.
//
// Threads: those for transfers; calls wait for disk and client.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "coordinator/context_catalog.h"
#include "coordinator/router.h"
#include "proto/base/clock.h"
#include "proto/worker_group.h"

namespace varve {

class ContextTransferApi {
 public:
  // All must outlive this object.
  ContextTransferApi(ContextCatalog* catalog, WorkerGroup* workers, const Clock* clock);
  // Drops the imports that are under way.
  ~ContextTransferApi();

  void Export(RoutedRequest request);
  void Import(RoutedRequest request);
  // Drops the imports that nothing came of for ten minutes.
  void DropIdle();

 private:
  struct Session {
    ImportOptions options;
    std::unique_ptr<ContextSink> sink;
    uint64_t received_bytes = 0;
    int64_t last_us = 0;
  };
  struct Part {
    uint64_t offset = 0;
    bool last = false;
  };

  // The import that this part goes on with, taken out of sessions_ so that no other call has it.
  Result<Session> Take(const std::string& name, const Part& part);
  Result<Session> Begin(const std::string& name);
  void End(Session session, const Error& error);

  ContextCatalog* const catalog_;
  WorkerGroup* const workers_;
  const Clock* const clock_;
  std::mutex mutex_;
  std::map<std::string, Session> sessions_;  // guarded by mutex_
};

}  // namespace varve
