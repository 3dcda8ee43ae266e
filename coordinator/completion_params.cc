#include "coordinator/completion_params.h"

#include <limits>
#include <utility>

#include <fmt/core.h>

#include "coordinator/request_fields.h"

#include <nlohmann/json.hpp>

namespace varve {
namespace {

using Json = nlohmann::json;

constexpr int64_t kMaxInt = std::numeric_limits<int64_t>::max();
constexpr size_t kMaxStops = 4;
constexpr size_t kMaxStopBytes = 1024;
constexpr int32_t kMaxTopLogprobs = 20;
constexpr double kSmallestEpsilon = 1e-4;
constexpr double kSmallestDelta = 1e-6;
constexpr double kLargestDelta = 0.5;
constexpr int64_t kMostBudgetTokens = int64_t{1} << 40;

// Token ids into *tokens. False if the array has anything else in it.
bool ReadTokens(const Json& array, std::vector<int32_t>* tokens) {
  for (const Json& element : array) {
    if (!element.is_number_integer() || element.get<int64_t>() < 0 ||
        element.get<int64_t>() > std::numeric_limits<int32_t>::max()) {
      return false;
    }
    tokens->push_back(element.get<int32_t>());
  }
  return true;
}

void ReadPrompt(RequestFields* fields, CompletionParams* params) {
  Json* prompt = fields->Any("prompt");
  if (prompt == nullptr) {
    fields->Fail("prompt", "is required");
    return;
  }
  // An array with one prompt is a prompt; with several it would be several requests.
  const bool is_list = prompt->is_array() && !prompt->empty() &&
                       (prompt->front().is_string() || prompt->front().is_array());
  if (is_list && prompt->size() != 1) {
    fields->Fail("prompt", "is supported with exactly one prompt", ErrorCode::kUnsupported);
    return;
  }
  Json& one = is_list ? prompt->front() : *prompt;
  if (one.is_string()) {
    params->prompt_text = std::move(one.get_ref<std::string&>());
  } else if (!one.is_array() || !ReadTokens(one, &params->prompt_tokens)) {
    fields->Fail("prompt", "must be a string or an array of token ids");
  }
}

// The text of a message's content: a string, or parts of type text.
std::optional<std::string> ReadContent(RequestFields* message) {
  Json* content = message->Any("content");
  if (content == nullptr) {
    message->Fail("content", "is required");
    return std::nullopt;
  }
  if (content->is_string()) {
    return std::move(content->get_ref<std::string&>());
  }
  if (!content->is_array()) {
    message->Fail("content", "must be a string or an array of text parts");
    return std::nullopt;
  }
  std::string text;
  bool first = true;
  for (Json& part : *content) {
    const auto type = part.is_object() ? part.find("type") : part.end();
    if (!part.is_object() || type == part.end() || *type != "text") {
      message->Fail(
          "content", "is supported with parts of type \"text\" only", ErrorCode::kUnsupported);
      return std::nullopt;
    }
    const auto value = part.find("text");
    if (value == part.end() || !value->is_string() || part.size() != 2) {
      message->Fail("content", "has a part that is not {\"type\": \"text\", \"text\": string}");
      return std::nullopt;
    }
    text += (first ? "" : "\n") + value->get_ref<const std::string&>();
    first = false;
  }
  return text;
}

std::optional<ApiError> ReadMessage(Json* object, size_t index, ChatMessage* turn) {
  const std::string path = fmt::format("messages[{}].", index);
  if (!object->is_object()) {
    return ApiError{.error = {ErrorCode::kInvalidArgument,
                              fmt::format("'messages[{}]' must be an object.", index)},
                    .param = fmt::format("messages[{}]", index)};
  }
  RequestFields message(object, path);
  turn->role = message.RequiredString("role");
  if (turn->role == "developer") {
    turn->role = "system";
  }
  if (!message.failed() && turn->role != "system" && turn->role != "user" &&
      turn->role != "assistant") {
    message.Fail("role", "must be \"system\", \"user\" or \"assistant\"");
  }
  turn->content = ReadContent(&message).value_or("");
  message.Ignore({"name"});
  message.RefuseUnlessEmpty({"tool_calls", "tool_call_id", "function_call", "audio", "refusal"});
  return message.Finish();
}

void ReadMessages(RequestFields* fields, CompletionParams* params) {
  Json* messages = fields->Any("messages");
  if (messages == nullptr || !messages->is_array() || messages->empty()) {
    fields->Fail("messages", "must be an array with at least one message");
    return;
  }
  for (size_t i = 0; i < messages->size(); ++i) {
    if (auto error = ReadMessage(&(*messages)[i], i, &params->messages.emplace_back())) {
      fields->Fail(*std::move(error));
      return;
    }
  }
}

void ReadStop(RequestFields* fields, CompletionParams* params) {
  Json* stop = fields->Any("stop");
  if (stop == nullptr) {
    return;
  }
  if (stop->is_string()) {
    *stop = Json::array({std::move(*stop)});
  }
  if (!stop->is_array() || stop->size() > kMaxStops) {
    fields->Fail("stop", fmt::format("must be a string or an array of at most {}", kMaxStops));
    return;
  }
  for (Json& element : *stop) {
    if (!element.is_string() || element.get_ref<const std::string&>().empty() ||
        element.get_ref<const std::string&>().size() > kMaxStopBytes) {
      fields->Fail("stop", fmt::format("must hold strings of 1 to {} bytes", kMaxStopBytes));
      return;
    }
    params->stop.push_back(std::move(element.get_ref<std::string&>()));
  }
}

void ReadStream(RequestFields* fields, CompletionParams* params) {
  params->stream = fields->Bool("stream").value_or(false);
  Json* options = fields->Object("stream_options");
  if (options == nullptr) {
    return;
  }
  if (!params->stream) {
    fields->Fail("stream_options", "needs \"stream\": true");
    return;
  }
  RequestFields stream_options(options, "stream_options.");
  params->include_usage = stream_options.Bool("include_usage").value_or(false);
  if (auto error = stream_options.Finish()) {
    fields->Fail(*std::move(error));
  }
}

void ReadKv(RequestFields* fields, CompletionParams* params) {
  Json* object = fields->Object("kv");
  if (object == nullptr) {
    return;
  }
  RequestFields kv(object, "kv.");
  const std::optional<std::string> attention = kv.String("attention");
  params->reads_every_page = attention == "exact";
  if (attention && attention != "exact" && attention != "select") {
    kv.Fail("attention",
            "must be \"exact\" (every page is read) or \"select\" (pages are read until the error "
            "is below \"epsilon\")");
  }
  if (attention == "select") {
    SelectiveAttention& selective = params->selective.emplace();
    selective.epsilon = kv.Number("epsilon", kSmallestEpsilon, 1.0).value_or(selective.epsilon);
    selective.delta = kv.Number("delta", kSmallestDelta, kLargestDelta).value_or(selective.delta);
    selective.budget_tokens =
        kv.Integer("budget_tokens", 1, kMostBudgetTokens).value_or(selective.budget_tokens);
  } else {
    for (const char* name : {"epsilon", "delta", "budget_tokens"}) {
      if (kv.Any(name) != nullptr) {
        kv.Fail(name, "needs \"attention\": \"select\"");
      }
    }
  }
  for (const char* name : {"codec", "tokens", "keep"}) {
    if (kv.Any(name) != nullptr) {
      kv.Fail(name, "is chosen when a context is ingested, not by a request");
    }
  }
  if (auto error = kv.Finish()) {
    fields->Fail(*std::move(error));
  }
}

void ReadLogprobs(CompletionKind kind, RequestFields* fields, CompletionParams* params) {
  if (kind == CompletionKind::kText) {
    const std::optional<int64_t> top = fields->Integer("logprobs", 0, kMaxTopLogprobs);
    params->logprobs = top.has_value();
    params->num_top_logprobs = static_cast<int32_t>(top.value_or(0));
    return;
  }
  params->logprobs = fields->Bool("logprobs").value_or(false);
  const std::optional<int64_t> top = fields->Integer("top_logprobs", 0, kMaxTopLogprobs);
  if (top && !params->logprobs) {
    fields->Fail("top_logprobs", "needs \"logprobs\": true");
  }
  params->num_top_logprobs = static_cast<int32_t>(top.value_or(0));
}

void RefuseUnsupported(CompletionKind kind, RequestFields* fields) {
  fields->OnlyInteger("n", 1);
  fields->RefuseUnlessEmpty({"presence_penalty", "frequency_penalty", "logit_bias", "store"});
  fields->Ignore({"user", "metadata", "service_tier", "safety_identifier", "prompt_cache_key"});
  if (kind == CompletionKind::kText) {
    fields->OnlyInteger("best_of", 1);
    fields->RefuseUnlessEmpty({"suffix", "echo"});
    return;
  }
  fields->RefuseUnlessEmpty({"tools",
                             "functions",
                             "function_call",
                             "audio",
                             "prediction",
                             "reasoning_effort",
                             "web_search_options"});
  fields->Ignore({"parallel_tool_calls"});
  const Json* tool_choice = fields->Any("tool_choice");
  if (tool_choice != nullptr && *tool_choice != "none" && *tool_choice != "auto") {
    fields->Fail("tool_choice", "is not supported by this server", ErrorCode::kUnsupported);
  }
  const Json* format = fields->Any("response_format");
  if (format != nullptr && *format != Json{{"type", "text"}}) {
    fields->Fail(
        "response_format", "is supported as {\"type\": \"text\"} only", ErrorCode::kUnsupported);
  }
  const Json* modalities = fields->Any("modalities");
  if (modalities != nullptr && *modalities != Json::array({"text"})) {
    fields->Fail("modalities", "is supported as [\"text\"] only", ErrorCode::kUnsupported);
  }
}

}  // namespace

std::optional<ApiError> ParseCompletion(CompletionKind kind,
                                        std::string_view body,
                                        CompletionParams* params) {
  Json json;
  if (auto error = ParseJsonBody(body, &json)) {
    return error;
  }
  RequestFields fields(&json);
  params->model = fields.RequiredString("model");
  if (kind == CompletionKind::kText) {
    ReadPrompt(&fields, params);
    params->max_tokens = fields.Integer("max_tokens", 1, kMaxInt);
  } else {
    ReadMessages(&fields, params);
    const std::optional<int64_t> old_name = fields.Integer("max_tokens", 1, kMaxInt);
    params->max_tokens = fields.Integer("max_completion_tokens", 1, kMaxInt);
    if (!params->max_tokens) {
      params->max_tokens = old_name;
    }
  }
  params->context = fields.String("context").value_or("");
  ReadKv(&fields, params);
  params->sampling.temperature = static_cast<float>(fields.Number("temperature", 0, 2).value_or(1));
  params->sampling.top_p = static_cast<float>(fields.Number("top_p", 0, 1).value_or(1));
  if (!fields.failed() && params->sampling.top_p <= 0) {
    fields.Fail("top_p", "must be greater than 0");
  }
  const std::optional<int64_t> seed =
      fields.Integer("seed", std::numeric_limits<int64_t>::min(), kMaxInt);
  params->seed_given = seed.has_value();
  params->sampling.seed = static_cast<uint64_t>(seed.value_or(0));
  ReadStop(&fields, params);
  params->ignore_eos = fields.Bool("ignore_eos").value_or(false);
  ReadStream(&fields, params);
  ReadLogprobs(kind, &fields, params);
  RefuseUnsupported(kind, &fields);
  return fields.Finish();
}

}  // namespace varve
