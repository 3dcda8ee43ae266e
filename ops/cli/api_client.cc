#include "ops/cli/api_client.h"

#include <charconv>
#include <limits>

#include <fmt/format.h>

#include "proto/base/clock.h"

#include "ops/cli/chat_messages.h"
#include <nlohmann/json.hpp>

namespace varve::cli {
namespace {

using Json = nlohmann::json;

constexpr int64_t kAnswerTimeoutMs = 600'000;  // a long question behind a full queue

Error Unexpected(const std::string& url, std::string_view what) {
  return Error{ErrorCode::kInternal,
               fmt::format("{} is not a Varve server, or one of another version: {}", url, what)};
}

// The message of an OpenAI-shaped error body; the start of the body if it is something else.
std::string ServerMessage(const HttpResponse& response) {
  const Json body = Json::parse(response.body, nullptr, false);
  if (body.is_object() && body.contains("error") && body["error"].is_object()) {
    const Json& message = body["error"].value("message", Json());
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

template <typename T>
T Field(const Json& object, const char* key) {
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

ContextInfo ParseContext(const Json& object) {
  ContextInfo info;
  info.name = Field<std::string>(object, "name");
  info.status = Field<std::string>(object, "status");
  info.error = Field<std::string>(object, "error");
  info.tokens = Field<int64_t>(object, "tokens");
  info.tokens_computed = Field<int64_t>(object, "tokens_computed");
  info.tokens_pending = Field<int64_t>(object, "tokens_pending");
  info.text_bytes = Field<uint64_t>(object, "text_bytes");
  info.text_bytes_received = Field<uint64_t>(object, "text_bytes_received");
  info.text_hash = Field<std::string>(object, "text_hash");
  info.model = Field<std::string>(object, "model");
  info.created_at = Field<int64_t>(object, "created_at");
  info.updated_at = Field<int64_t>(object, "updated_at");
  const Json kv = object.value("kv", Json::object());
  const Json usage = object.value("usage", Json::object());
  if (kv.is_object()) {
    info.codec = CodecText(kv.value("codec", Json()));
    info.kv_tokens = Field<std::string>(kv, "tokens");
    info.kv_keep = Field<double>(kv, "keep");
  }
  if (usage.is_object()) {
    info.pages = Field<int64_t>(usage, "pages");
    info.device_bytes = Field<uint64_t>(usage, "device_bytes");
    info.host_bytes = Field<uint64_t>(usage, "host_bytes");
    const Json rungs = usage.value("rungs", Json::object());
    for (size_t rung = 0; rung < kNumRungs && rungs.is_object(); ++rung) {
      const Json one = rungs.value(std::string(kRungNames[rung]), Json::object());
      info.rungs[rung] = {Field<int64_t>(one, "pages"), Field<uint64_t>(one, "bytes")};
    }
    info.disk_bytes = Field<uint64_t>(usage, "disk_bytes");
    info.bf16_bytes = Field<uint64_t>(usage, "bf16_bytes");
    info.layer_tokens = Field<int64_t>(usage, "layer_tokens");
    info.kept_layer_tokens = Field<int64_t>(usage, "kept_layer_tokens");
  }
  info.json = object.dump();
  return info;
}

Result<ContextInfo> ParseContextBody(const std::string& url, const HttpResponse& response) {
  const Json body = Json::parse(response.body, nullptr, false);
  if (!body.is_object() || !body.contains("status")) {
    return Unexpected(url, "its answer is no context object");
  }
  return ParseContext(body);
}

// Reads the reply to a create or an append.
Result<AppendReply> ParseAppendReply(const HttpResponse& response) {
  AppendReply reply;
  if (response.status == 200 || response.status == 202) {
    return reply;
  }
  reply.message = ServerMessage(response);
  if (response.status == 429) {
    reply.kind = AppendReply::Kind::kBusy;
    reply.retry_after_s = response.retry_after_s;
    return reply;
  }
  const Json body = Json::parse(response.body, nullptr, false);
  if (response.status == 409 && body.is_object() && body.contains("error") &&
      body["error"].is_object() && body["error"].contains("text_bytes")) {
    reply.kind = AppendReply::Kind::kWrongOffset;
    reply.text_bytes = Field<uint64_t>(body["error"], "text_bytes");
    reply.text_hash = Field<std::string>(body["error"], "text_hash");
    return reply;
  }
  return ServerError(response);
}

std::string ContextTarget(const std::string& name) {
  std::string target = "/v1/contexts/";
  for (const char byte : name) {
    const bool plain = std::isalnum(static_cast<unsigned char>(byte)) != 0 || byte == '.' ||
                       byte == '_' || byte == '-';
    target +=
        plain ? std::string(1, byte) : fmt::format("%{:02X}", static_cast<unsigned char>(byte));
  }
  return target;
}

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

Result<std::vector<ContextInfo>> ApiClient::ListContexts() const {
  VARVE_TRY(const HttpResponse response, http_.Send({.target = "/v1/contexts"}));
  if (response.status != 200) {
    return ServerError(response);
  }
  const Json body = Json::parse(response.body, nullptr, false);
  if (!body.is_object() || !body.contains("data") || !body["data"].is_array()) {
    return Unexpected(url(), "its answer is no list of contexts");
  }
  std::vector<ContextInfo> contexts;
  for (const Json& object : body["data"]) {
    contexts.push_back(ParseContext(object));
  }
  return contexts;
}

Result<std::optional<ContextInfo>> ApiClient::FindContext(const std::string& name) const {
  VARVE_TRY(const HttpResponse response, http_.Send({.target = ContextTarget(name)}));
  if (response.status == 404) {
    return std::optional<ContextInfo>();
  }
  if (response.status != 200) {
    return ServerError(response);
  }
  VARVE_TRY(ContextInfo info, ParseContextBody(url(), response));
  return std::optional<ContextInfo>(std::move(info));
}

Result<ContextInfo> ApiClient::GetContext(const std::string& name) const {
  VARVE_TRY(std::optional<ContextInfo> found, FindContext(name));
  if (!found) {
    return Error{
        ErrorCode::kNotFound,
        fmt::format(
            "there is no context \"{}\" at {}; `varve contexts ls` lists them", name, url())};
  }
  return std::move(*found);
}

Result<void> ApiClient::DeleteContext(const std::string& name) const {
  VARVE_TRY(const HttpResponse response,
            http_.Send({.method = "DELETE", .target = ContextTarget(name)}));
  return response.status / 100 == 2 ? Result<void>() : Result<void>(ServerError(response));
}

Result<AppendReply> ApiClient::CreateContext(const std::string& name,
                                             std::string_view text,
                                             const KvChoice& kv) const {
  Json body = {{"name", name}, {"text", text}};
  if (Json object = KvObject(kv); !object.empty()) {
    body["kv"] = std::move(object);
  }
  VARVE_TRY(const HttpResponse response,
            http_.Send({.method = "POST", .target = "/v1/contexts", .body = body.dump()}));
  return ParseAppendReply(response);
}

Result<AppendReply> ApiClient::Append(const std::string& name,
                                      uint64_t offset,
                                      const std::string& hash,
                                      std::string_view text) const {
  const Json body = {{"offset", offset}, {"hash", hash}, {"text", text}};
  VARVE_TRY(
      const HttpResponse response,
      http_.Send(
          {.method = "POST", .target = ContextTarget(name) + "/append", .body = body.dump()}));
  return ParseAppendReply(response);
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
