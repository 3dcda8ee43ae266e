#include "ops/cli/chat_messages.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace varve::cli {
namespace {

TEST(ChatMessages, WhatWasSaidBeforeStandsBetweenSystemMessageAndQuestion) {
  const nlohmann::json messages = ChatMessagesOf({.system = "Be short.",
                                                  .history = {{"Who?", "Ada."}, {"When?", "Now."}},
                                                  .question = "Where?"});
  EXPECT_EQ(messages, nlohmann::json::parse(R"([
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Ada."},
    {"role": "user", "content": "When?"}, {"role": "assistant", "content": "Now."},
    {"role": "user", "content": "Where?"}])"));
  EXPECT_EQ(ChatMessagesOf({.question = "Where?"}),
            nlohmann::json::parse(R"([{"role": "user", "content": "Where?"}])"));
}

}  // namespace
}  // namespace varve::cli
