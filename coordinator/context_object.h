// A context as HTTP shows it.
//
// Threads: any but the I/O thread (usage is asked of the workers).
#pragma once

#include "coordinator/context_catalog.h"
#include "coordinator/http_server.h"
#include "coordinator/openai_error.h"
#include "proto/worker_group.h"

#include <nlohmann/json.hpp>

namespace varve {

nlohmann::ordered_json ContextObject(const ContextView& view, WorkerGroup* workers);
HttpResponse JsonResponse(int status, const nlohmann::ordered_json& json);
HttpResponse ContextResponse(int status, const ContextView& view, WorkerGroup* workers);

// An unknown name has a code of its own.
ApiError ContextApiError(const Error& error);
HttpResponse ContextError(const Error& error);

}  // namespace varve
