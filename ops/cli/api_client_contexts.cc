// The calls about contexts.
#include <cctype>

#include <fmt/format.h>

#include "ops/cli/api_client.h"
#include "ops/cli/api_json.h"

namespace varve::cli {
namespace {

using Json = nlohmann::json;

constexpr int64_t kImportTimeoutMs = 600'000;  // the last part waits for the disk

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
  info.parent = Field<std::string>(object, "parent");
  info.pinned = object.value("pinned", Json()) == true;
  info.ttl_s = Field<int64_t>(object, "ttl_seconds");
  info.expires_at = Field<int64_t>(object, "expires_at");
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
    const Json rungs = usage.value("rungs", Json::object());
    for (size_t rung = 0; rung < kNumRungs && rungs.is_object(); ++rung) {
      const Json one = rungs.value(std::string(kRungNames[rung]), Json::object());
      info.rungs[rung] = {Field<int64_t>(one, "pages"), Field<uint64_t>(one, "bytes")};
    }
    info.host_bytes = Field<uint64_t>(usage, "host_bytes");
    info.disk_bytes = Field<uint64_t>(usage, "disk_bytes");
    info.shared_device_bytes = Field<uint64_t>(usage, "shared_device_bytes");
    info.shared_host_bytes = Field<uint64_t>(usage, "shared_host_bytes");
    info.shared_disk_bytes = Field<uint64_t>(usage, "shared_disk_bytes");
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

}  // namespace

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
                                             const KvChoice& kv,
                                             std::optional<int64_t> ttl_s) const {
  Json body = {{"name", name}, {"text", text}};
  if (ttl_s) {
    body["ttl_seconds"] = *ttl_s;
  }
  if (Json object = KvObject(kv); !object.empty()) {
    body["kv"] = std::move(object);
  }
  VARVE_TRY(const HttpResponse response,
            http_.Send({.method = "POST", .target = "/v1/contexts", .body = body.dump()}));
  return ParseAppendReply(response);
}

Result<void> ApiClient::ExportContext(
    const std::string& name,
    const std::function<bool(std::string_view bytes)>& on_bytes) const {
  VARVE_TRY(const HttpResponse response,
            http_.Download({.target = ContextTarget(name) + "/export"}, on_bytes));
  return response.status == 200 ? Result<void>() : Result<void>(ServerError(response));
}

Result<std::optional<ContextInfo>> ApiClient::ImportPart(const std::string& name,
                                                         uint64_t offset,
                                                         bool is_last,
                                                         std::string_view bytes) const {
  HttpRequest request;
  request.method = "POST";
  request.target =
      fmt::format("{}/import?offset={}{}", ContextTarget(name), offset, is_last ? "&last=1" : "");
  request.body = bytes;
  request.content_type = "application/octet-stream";
  request.timeout_ms = kImportTimeoutMs;
  VARVE_TRY(const HttpResponse response, http_.Send(request));
  if (response.status != (is_last ? 201 : 202)) {
    return ServerError(response);
  }
  if (!is_last) {
    return std::optional<ContextInfo>();
  }
  VARVE_TRY(ContextInfo info, ParseContextBody(url(), response));
  return std::optional<ContextInfo>(std::move(info));
}

Result<ContextInfo> ApiClient::ForkContext(const std::string& name, const std::string& fork) const {
  const Json body = {{"name", fork}};
  VARVE_TRY(
      const HttpResponse response,
      http_.Send({.method = "POST", .target = ContextTarget(name) + "/fork", .body = body.dump()}));
  if (response.status != 201) {
    return ServerError(response);
  }
  return ParseContextBody(url(), response);
}

Result<ContextInfo> ApiClient::ChangeContext(const std::string& name,
                                             const AttributeChange& change) const {
  Json body = Json::object();
  if (change.pinned) {
    body["pinned"] = *change.pinned;
  }
  if (change.ttl_s) {
    body["ttl_seconds"] = *change.ttl_s > 0 ? Json(*change.ttl_s) : Json(nullptr);
  }
  VARVE_TRY(const HttpResponse response,
            http_.Send({.method = "PATCH", .target = ContextTarget(name), .body = body.dump()}));
  if (response.status != 200) {
    return ServerError(response);
  }
  return ParseContextBody(url(), response);
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

}  // namespace varve::cli
