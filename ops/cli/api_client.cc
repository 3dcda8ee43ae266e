#include "ops/cli/api_client.h"

#include <charconv>
#include <limits>

#include <fmt/format.h>

#include "proto/base/clock.h"

#include "ops/cli/api_json.h"
#include "ops/cli/chat_messages.h"

namespace varve::cli {
namespace {

using Json = nlohmann::json;

constexpr int64_t kAnswerTimeoutMs = 600'000;  // a long question behind a full queue

Json ChatBody(const std::string& model, const ChatRequest& request) {
  Json body = {{"model", model},
               {"messages", ChatMessagesOf(request)},
               {"temperature", request.temperature},
               {"top_p", request.top_p},
               {"stream", true},
               {"stream_options", {{"include_usage", true}}}};
  if (!request.context.empty()) {
    body["context"] = request.context;
  }
  if (request.max_tokens) {
    body["max_tokens"] = *request.max_tokens;
  }
  const auto set_kv = [&body](const char* name, const auto& value) {
    if (value) {
      body["kv"][name] = *value;
    }
  };
  set_kv("attention", request.attention);
  set_kv("epsilon", request.epsilon);
  set_kv("delta", request.delta);
  set_kv("budget_tokens", request.budget_tokens);
  if (request.seed) {
    body["seed"] = *request.seed;
  }
  return body;
}

// Takes one streamed chunk into the answer. Returns the piece of text in it; an error object in the
// stream is an Error.
Result<std::string> TakeChunk(std::string_view data, ChatAnswer& answer) {
  const Json chunk = Json::parse(data, nullptr, false);
  if (!chunk.is_object()) {
    return Error{ErrorCode::kInternal,
                 fmt::format("the server streamed something that is no JSON object: {}", data)};
  }
  if (chunk.contains("error")) {
    HttpResponse failure{.status = 500, .body = std::string(data)};
    return ServerError(failure);
  }
  const Json usage = chunk.value("usage", Json());
  if (usage.is_object()) {
    answer.prompt_tokens = Field<int64_t>(usage, "prompt_tokens");
    answer.completion_tokens = Field<int64_t>(usage, "completion_tokens");
    if (usage.contains("pages_read")) {
      answer.pages_read = Field<int64_t>(usage, "pages_read");
      answer.pages_total = Field<int64_t>(usage, "pages_total");
    }
    if (const auto bound = usage.find("attention_error_bound"); bound != usage.end()) {
      answer.error_bound =
          bound->is_number() ? bound->get<double>() : std::numeric_limits<double>::infinity();
      answer.missed_mass = Field<double>(usage, "missed_mass_estimate");
    }
  }
  const Json choices = chunk.value("choices", Json::array());
  if (!choices.is_array() || choices.empty()) {
    return std::string();
  }
  const std::string reason = Field<std::string>(choices[0], "finish_reason");
  if (!reason.empty()) {
    answer.finish_reason = reason;
  }
  const Json delta = choices[0].value("delta", Json::object());
  return delta.is_object() ? Field<std::string>(delta, "content") : std::string();
}

}  // namespace

double ChatAnswer::TokensPerSecond() const {
  const double decode_s = total_s - first_token_s;
  return completion_tokens > 1 && decode_s > 0
             ? static_cast<double>(completion_tokens - 1) / decode_s
             : 0;
}

Result<ApiClient> ApiClient::Create(const std::string& server_url) {
  VARVE_TRY(HttpClient http, HttpClient::Create(server_url));
  return ApiClient(std::move(http));
}

Result<std::string> ApiClient::ModelName() const {
  VARVE_TRY(const HttpResponse response, http_.Send({.target = "/v1/models"}));
  if (response.status != 200) {
    return ServerError(response);
  }
  const Json body = Json::parse(response.body, nullptr, false);
  const Json models = body.is_object() ? body.value("data", Json()) : Json();
  if (!models.is_array() || models.empty() || !models[0].is_object()) {
    return Unexpected(url(), "it names no model");
  }
  return Field<std::string>(models[0], "id");
}

Result<ChatAnswer> ApiClient::Ask(
    const ChatRequest& request,
    const std::function<void(std::string_view piece)>& on_text) const {
  VARVE_TRY(const std::string model, ModelName());
  ChatAnswer answer;
  std::optional<Error> failure;
  bool complete = false;
  const int64_t start_us = SystemClock().NowUs();
  const auto on_event = [&](std::string_view data) {
    if (data == "[DONE]") {
      complete = true;
      return false;
    }
    Result<std::string> piece = TakeChunk(data, answer);
    if (!piece) {
      failure = piece.error();
      return false;
    }
    if (!piece->empty()) {
      if (answer.text.empty()) {
        answer.first_token_s = static_cast<double>(SystemClock().NowUs() - start_us) * 1e-6;
      }
      answer.text += *piece;
      on_text(*piece);
    }
    return true;
  };
  VARVE_TRY(const HttpResponse response,
            http_.SendStreaming({.method = "POST",
                                 .target = "/v1/chat/completions",
                                 .body = ChatBody(model, request).dump(),
                                 .timeout_ms = kAnswerTimeoutMs},
                                on_event));
  if (response.status != 200) {
    return ServerError(response);
  }
  if (failure) {
    return *failure;
  }
  if (!complete) {
    return Error{ErrorCode::kUnavailable,
                 fmt::format("{} ended the answer early: did the server stop?", url())};
  }
  answer.total_s = static_cast<double>(SystemClock().NowUs() - start_us) * 1e-6;
  return answer;
}

Result<double> ApiClient::ReadMetric(std::string_view name, std::string_view label) const {
  VARVE_TRY(const HttpResponse response, http_.Send({.target = "/metrics"}));
  if (response.status != 200) {
    return ServerError(response);
  }
  double sum = 0;
  bool found = false;
  std::string_view rest = response.body;
  while (!rest.empty()) {
    const size_t end = rest.find('\n');
    const std::string_view line = rest.substr(0, end);
    rest = end == std::string_view::npos ? std::string_view() : rest.substr(end + 1);
    const size_t after = name.size();
    if (line.substr(0, after) != name || line.size() <= after ||
        (line[after] != '{' && line[after] != ' ') || line.find(label) == std::string_view::npos) {
      continue;
    }
    const std::string_view value = line.substr(line.rfind(' ') + 1);
    double number = 0;
    std::from_chars(value.data(), value.data() + value.size(), number);
    sum += number;
    found = true;
  }
  return found ? Result<double>(sum)
               : Result<double>(
                     Error{ErrorCode::kNotFound,
                           fmt::format("{} has no metric {} with {}", url(), name, label)});
}

}  // namespace varve::cli
