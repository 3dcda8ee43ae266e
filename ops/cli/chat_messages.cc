#include "ops/cli/chat_messages.h"

#include <nlohmann/json.hpp>

namespace varve::cli {

nlohmann::json ChatMessagesOf(const ChatRequest& request) {
  nlohmann::json messages = nlohmann::json::array();
  const auto add = [&messages](const char* role, const std::string& content) {
    messages.push_back({{"role", role}, {"content", content}});
  };
  if (!request.system.empty()) {
    add("system", request.system);
  }
  for (const AnsweredQuestion& before : request.history) {
    add("user", before.question);
    add("assistant", before.answer);
  }
  add("user", request.question);
  return messages;
}

}  // namespace varve::cli
