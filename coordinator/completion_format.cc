#include "coordinator/completion_format.h"

#include <utility>

#include <nlohmann/json.hpp>

namespace varve {
namespace {

using Json = nlohmann::ordered_json;

std::string Dump(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

Json FinishWord(const std::optional<FinishReason>& finish) {
  if (!finish) {
    return nullptr;
  }
  return *finish == FinishReason::kStop ? "stop" : "length";
}

Json UsageObject(const CompletionUsage& usage) {
  Json object;
  object["prompt_tokens"] = usage.prompt_tokens;
  object["completion_tokens"] = usage.completion_tokens;
  object["total_tokens"] = usage.prompt_tokens + usage.completion_tokens;
  object["prompt_tokens_details"]["cached_tokens"] = usage.cached_tokens;
  if (usage.page_reads) {
    object["pages_read"] = usage.page_reads->read;
    object["pages_total"] = usage.page_reads->total;
    if (usage.page_reads->error_bound) {
      // Infinite, which JSON cannot say, is null: too few pages were read to know.
      object["attention_error_bound"] = *usage.page_reads->error_bound;
      object["missed_mass_estimate"] = usage.page_reads->mean_missed_mass();
    }
  }
  return object;
}

Json ChatToken(const TokenLogprob& token, const TextModel& text_model) {
  const std::string text = text_model.TokenText(token.token);
  Json object;
  object["token"] = text;
  object["logprob"] = token.logprob;
  // Part of a code point is shown as U+FFFD, whose bytes are not the token's.
  if (text.find("\xEF\xBF\xBD") != std::string::npos) {
    object["bytes"] = nullptr;
    return object;
  }
  object["bytes"] = Json::array();
  for (const char byte : text) {
    object["bytes"].push_back(static_cast<unsigned char>(byte));
  }
  return object;
}

Json ChatLogprobs(const std::vector<GeneratedToken>& tokens, const TextModel& text_model) {
  Json content = Json::array();
  for (const GeneratedToken& token : tokens) {
    Json object = ChatToken(token.drawn, text_model);
    object["top_logprobs"] = Json::array();
    for (const TokenLogprob& top : token.top) {
      object["top_logprobs"].push_back(ChatToken(top, text_model));
    }
    content.push_back(std::move(object));
  }
  Json logprobs;
  logprobs["content"] = std::move(content);
  return logprobs;
}

Json TextLogprobs(const std::vector<GeneratedToken>& tokens,
                  const TextModel& text_model,
                  int64_t* text_offset) {
  Json logprobs;
  for (const char* name : {"tokens", "token_logprobs", "top_logprobs", "text_offset"}) {
    logprobs[name] = Json::array();
  }
  for (const GeneratedToken& token : tokens) {
    const std::string bytes = text_model.TokenText(token.drawn.token);
    Json top = token.top.empty() ? Json(nullptr) : Json::object();
    for (const TokenLogprob& candidate : token.top) {
      top[text_model.TokenText(candidate.token)] = candidate.logprob;
    }
    logprobs["tokens"].push_back(bytes);
    logprobs["token_logprobs"].push_back(token.drawn.logprob);
    logprobs["top_logprobs"].push_back(std::move(top));
    logprobs["text_offset"].push_back(*text_offset);
    *text_offset += static_cast<int64_t>(bytes.size());
  }
  return logprobs;
}

Json Top(const CompletionFormat::Header& header, bool is_chunk) {
  const bool is_chat = header.kind == CompletionKind::kChat;
  Json top;
  top["id"] = header.id;
  top["object"] =
      is_chat ? (is_chunk ? "chat.completion.chunk" : "chat.completion") : "text_completion";
  top["created"] = header.created_unix_s;
  top["model"] = header.model;
  return top;
}

// A chunk with one choice whose content is `delta` (chat) or `text`.
std::string OneChoice(const CompletionFormat::Header& header,
                      Json content,
                      Json logprobs,
                      Json finish) {
  Json choice;
  choice["index"] = 0;
  choice[header.kind == CompletionKind::kChat ? "delta" : "text"] = std::move(content);
  choice["logprobs"] = std::move(logprobs);
  choice["finish_reason"] = std::move(finish);
  Json top = Top(header, /*is_chunk=*/true);
  top["choices"] = Json::array({std::move(choice)});
  if (header.include_usage) {
    top["usage"] = nullptr;
  }
  return Dump(top);
}

}  // namespace

CompletionFormat::CompletionFormat(Header header, const TextModel* text_model)
    : header_(std::move(header)), text_model_(text_model) {}

std::string CompletionFormat::Body(const std::string& text,
                                   const std::vector<GeneratedToken>& tokens,
                                   FinishReason finish,
                                   const CompletionUsage& usage) {
  Json choice;
  choice["index"] = 0;
  if (header_.kind == CompletionKind::kChat) {
    choice["message"]["role"] = "assistant";
    choice["message"]["content"] = text;
    choice["logprobs"] = header_.logprobs ? ChatLogprobs(tokens, *text_model_) : Json(nullptr);
  } else {
    choice["text"] = text;
    choice["logprobs"] =
        header_.logprobs ? TextLogprobs(tokens, *text_model_, &text_offset_) : Json(nullptr);
  }
  choice["finish_reason"] = FinishWord(finish);
  Json top = Top(header_, /*is_chunk=*/false);
  top["choices"] = Json::array({std::move(choice)});
  top["usage"] = UsageObject(usage);
  return Dump(top);
}

std::string CompletionFormat::RoleChunk() {
  Json delta;
  delta["role"] = "assistant";
  delta["content"] = "";
  return OneChoice(header_, std::move(delta), nullptr, nullptr);
}

bool CompletionFormat::HasChunk(const GenerationEvent& event) const {
  return !event.text.empty() || event.finish || (header_.logprobs && !event.tokens.empty());
}

std::string CompletionFormat::Chunk(const GenerationEvent& event) {
  Json logprobs = nullptr;
  if (header_.kind == CompletionKind::kText) {
    if (header_.logprobs) {
      logprobs = TextLogprobs(event.tokens, *text_model_, &text_offset_);
    }
    return OneChoice(header_, event.text, std::move(logprobs), FinishWord(event.finish));
  }
  if (header_.logprobs) {
    logprobs = ChatLogprobs(event.tokens, *text_model_);
  }
  Json delta = Json::object();
  if (!event.text.empty()) {
    delta["content"] = event.text;
  }
  return OneChoice(header_, std::move(delta), std::move(logprobs), FinishWord(event.finish));
}

std::string CompletionFormat::UsageChunk(const CompletionUsage& usage) {
  Json top = Top(header_, /*is_chunk=*/true);
  top["choices"] = Json::array();
  top["usage"] = UsageObject(usage);
  return Dump(top);
}

}  // namespace varve
