// The bodies of /v1/completions and /v1/chat/completions, read strictly: a wrong type, an unknown
// field or a feature that this server does not have is refused by name.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "coordinator/openai_error.h"
#include "coordinator/text_model.h"
#include "proto/step_plan.h"
#include "proto/worker_group.h"

namespace varve {

enum class CompletionKind { kText, kChat };

struct CompletionParams {
  std::string model;
  // kText: one of the two.
  std::optional<std::string> prompt_text;
  std::vector<int32_t> prompt_tokens;
  // kChat.
  std::vector<ChatMessage> messages;

  std::string context;            // empty: none
  bool reads_every_page = false;  // of the context, also where requests on it select pages
  std::optional<SelectiveAttention>
      selective;  // how it attends to the context; its seed is not set
  std::optional<int64_t> max_tokens;
  SamplingParams sampling;  // the seed only if seed_given
  bool seed_given = false;
  std::vector<std::string> stop;
  bool ignore_eos = false;
  bool stream = false;
  bool include_usage = false;
  bool logprobs = false;
  int32_t num_top_logprobs = 0;
};

std::optional<ApiError> ParseCompletion(CompletionKind kind,
                                        std::string_view body,
                                        CompletionParams* params);

}  // namespace varve
