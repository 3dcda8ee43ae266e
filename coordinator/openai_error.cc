#include "coordinator/openai_error.h"

#include <cctype>

#include "proto/base/hash.h"

#include <nlohmann/json.hpp>

namespace varve {
namespace {

using Json = nlohmann::ordered_json;

std::string CodeOf(const ApiError& error) {
  if (!error.code.empty()) {
    return error.code;
  }
  if (error.error.code == ErrorCode::kContextLength) {
    return "context_length_exceeded";
  }
  std::string snake;
  for (const char c : ErrorName(error.error.code)) {
    if (std::isupper(static_cast<unsigned char>(c)) != 0 && !snake.empty()) {
      snake += '_';
    }
    snake += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  }
  return snake;
}

const char* TypeOf(int status) {
  if (status == 429) {
    return "rate_limit_error";
  }
  return status >= 500 ? "server_error" : "invalid_request_error";
}

}  // namespace

std::string ErrorBody(const ApiError& error) {
  Json fields;
  fields["message"] = error.error.message;
  fields["type"] = TypeOf(HttpStatus(error.error.code));
  fields["param"] = error.param.empty() ? Json(nullptr) : Json(error.param);
  fields["code"] = CodeOf(error);
  if (error.conflict) {
    fields["text_bytes"] = error.conflict->text_bytes;
    fields["text_hash"] = HashToHex(error.conflict->text_hash);
  }
  Json body;
  body["error"] = std::move(fields);
  return body.dump(-1, ' ', false, Json::error_handler_t::replace);
}

HttpResponse ErrorResponse(const ApiError& error) {
  HttpResponse response;
  response.status = HttpStatus(error.error.code);
  response.body = ErrorBody(error);
  if (response.status == 429 || response.status == 503) {
    response.headers.emplace_back("Retry-After", "1");
  }
  return response;
}

}  // namespace varve
