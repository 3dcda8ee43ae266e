#include "ops/cli/api_json.h"

#include <fmt/format.h>

namespace varve::cli {

Error Unexpected(const std::string& url, std::string_view what) {
  return Error{ErrorCode::kInternal,
               fmt::format("{} is not a Varve server, or one of another version: {}", url, what)};
}

std::string ServerMessage(const HttpResponse& response) {
  const nlohmann::json body = nlohmann::json::parse(response.body, nullptr, false);
  if (body.is_object() && body.contains("error") && body["error"].is_object()) {
    const nlohmann::json& message = body["error"].value("message", nlohmann::json());
    if (message.is_string()) {
      return message.get<std::string>();
    }
  }
  constexpr size_t kShown = 200;
  return fmt::format("HTTP status {}: {}", response.status, response.body.substr(0, kShown));
}

Error ServerError(const HttpResponse& response) {
  ErrorCode code = ErrorCode::kInternal;
  switch (response.status) {
    case 400:
    case 413:
      code = ErrorCode::kInvalidArgument;
      break;
    case 404:
      code = ErrorCode::kNotFound;
      break;
    case 409:
      code = ErrorCode::kConflict;
      break;
    case 429:
      code = ErrorCode::kResourceExhausted;
      break;
    case 503:
      code = ErrorCode::kUnavailable;
      break;
    default:
      break;
  }
  return Error{code, ServerMessage(response)};
}

}  // namespace varve::cli
