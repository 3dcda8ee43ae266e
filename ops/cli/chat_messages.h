// The messages of a chat request as the server takes them.
#pragma once

#include "ops/cli/api_client.h"
#include <nlohmann/json_fwd.hpp>

namespace varve::cli {

// The system message if there is one, what was asked and answered before, the question.
nlohmann::json ChatMessagesOf(const ChatRequest& request);

}  // namespace varve::cli
