// GET /v1/models and /v1/models/{id}: the one model that this server runs.
//
// Threads: any.
#pragma once

#include <cstdint>

#include "coordinator/router.h"
#include "proto/worker_group.h"

namespace varve {

class ModelsApi {
 public:
  // `workers` must outlive this object.
  ModelsApi(const WorkerGroup* workers, int64_t created_unix_s)
      : workers_(workers), created_unix_s_(created_unix_s) {}

  void List(RoutedRequest request) const;
  void Show(RoutedRequest request) const;

 private:
  const WorkerGroup* const workers_;
  const int64_t created_unix_s_;
};

}  // namespace varve
