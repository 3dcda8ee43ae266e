// Errors as HTTP clients see them: the shape of the OpenAI API, the status out of the one table of
// codes.
//
//   {"error": {"message": "...", "type": "invalid_request_error", "param": "stop", "code":
//   "invalid_argument"}}
//
// `code` is the name of the error code in snake case, except where clients of the OpenAI API look
// for a certain word (model_not_found, context_length_exceeded). Retryable refusals (429, 503)
// carry Retry-After.
#pragma once

#include <optional>
#include <string>

#include "coordinator/context_catalog.h"
#include "coordinator/http_server.h"
#include "proto/base/result.h"

namespace varve {

struct ApiError {
  Error error;
  std::string param = {};                       // the field that is wrong; empty: none
  std::string code = {};                        // overrides the name of the error code
  std::optional<AppendConflict> conflict = {};  // where an append has to go on
};

std::string ErrorBody(const ApiError& error);
HttpResponse ErrorResponse(const ApiError& error);

}  // namespace varve
