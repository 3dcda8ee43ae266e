// What the server's answers have in common: errors, and fields that may be absent. Internal to
// api_client*.cc.
#pragma once

#include <string>
#include <string_view>
#include <type_traits>

#include "proto/base/result.h"

#include "ops/cli/http_client.h"
#include <nlohmann/json.hpp>

namespace varve::cli {

// The answer is none that this client knows.
Error Unexpected(const std::string& url, std::string_view what);
// The message of an OpenAI-shaped error body; the start of the body if it is something else.
std::string ServerMessage(const HttpResponse& response);
// The server's refusal; the code follows the HTTP status.
Error ServerError(const HttpResponse& response);

// T{} if the field is absent, null or of another type.
template <typename T>
T Field(const nlohmann::json& object, const char* key) {
  const auto found = object.find(key);
  if (found == object.end() || found->is_null()) {
    return T{};
  }
  if constexpr (std::is_same_v<T, std::string>) {
    return found->is_string() ? found->get<T>() : found->dump();
  } else {
    return found->is_number() ? found->get<T>() : T{};
  }
}

}  // namespace varve::cli
