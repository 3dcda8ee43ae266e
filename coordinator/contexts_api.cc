#include "coordinator/contexts_api.h"

#include <limits>
#include <utility>

#include <fmt/core.h>

#include "coordinator/context_catalog.h"
#include "coordinator/context_object.h"
#include "coordinator/engine.h"
#include "coordinator/request_fields.h"
#include "proto/base/hash.h"

#include <nlohmann/json.hpp>

namespace varve {
namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kMaxTtlS = int64_t{100} * 366 * 24 * 3600;

// A codec's name, or {"hot": NAME, "warm": NAME, "cold": NAME}, of which all but the first may be
// absent.
void ReadCodec(RequestFields* kv, KvPolicy* policy) {
  nlohmann::json* value = kv->Any("codec");
  if (value == nullptr || !value->is_object()) {
    if (const std::optional<std::string> codec = kv->String("codec")) {
      policy->codec = *codec;
      policy->warm_codec.clear();  // a default policy's ladder begins with another codec
      policy->cold_codec.clear();
    }
    return;
  }
  RequestFields tiers(value, "kv.codec.");
  policy->codec = tiers.RequiredString("hot");
  policy->warm_codec = tiers.String("warm").value_or("");
  policy->cold_codec = tiers.String("cold").value_or("");
  if (auto error = tiers.Finish()) {
    kv->Fail(*std::move(error));
  }
}

void ReadPolicy(RequestFields* fields, KvPolicy* policy) {
  nlohmann::json* object = fields->Object("kv");
  if (object == nullptr) {
    return;
  }
  RequestFields kv(object, "kv.");
  ReadCodec(&kv, policy);
  policy->exact_codec = kv.String("exact_codec").value_or(policy->exact_codec);
  const auto count = [&kv](const char* name, int64_t min, int64_t max, int32_t* value) {
    *value = static_cast<int32_t>(kv.Integer(name, min, max).value_or(*value));
  };
  count("page_tokens", 1, 65536, &policy->page_tokens);
  count("sink_tokens", 0, 65536, &policy->sink_tokens);
  count("recent_window_tokens", 0, 1 << 20, &policy->recent_window_tokens);
  const std::optional<std::string> tokens = kv.String("tokens");
  if (tokens && *tokens != policy->tokens) {
    policy->tokens = *tokens;
    policy->keep = 1;  // the default policy's share is that of its own way of choosing
  }
  policy->keep = kv.Number("keep", 0, 1).value_or(policy->keep);
  if (auto error = kv.Finish()) {
    fields->Fail(*std::move(error));
  }
}

std::string ReadText(RequestFields* fields) {
  std::string text = fields->RequiredString("text");
  if (text.empty()) {
    fields->Fail("text", "must not be empty");
  }
  return text;
}

// "ttl_seconds": null takes it away, which for a new context is the same as leaving it out.
AttributeChange ReadAttributes(RequestFields* fields, bool ttl_is_null) {
  AttributeChange change;
  change.pinned = fields->Bool("pinned");
  change.ttl_s = fields->Integer("ttl_seconds", 1, kMaxTtlS);
  if (ttl_is_null) {
    change.ttl_s = 0;
  }
  return change;
}

// 16 hex digits.
uint64_t ReadHash(RequestFields* fields) {
  const std::string hex = fields->RequiredString("hash");
  uint64_t hash = 0;
  bool good = hex.size() == 16;
  for (const char c : hex) {
    const char lower = static_cast<char>(c | 0x20);
    const bool is_letter = lower >= 'a' && lower <= 'f';
    good = good && ((c >= '0' && c <= '9') || is_letter);
    hash = hash * 16 + static_cast<uint64_t>(is_letter ? lower - 'a' + 10 : c - '0');
  }
  if (!good) {
    fields->Fail("hash", "must be 16 hex digits: XXH3-64 of the first `offset` bytes of the text");
  }
  return hash;
}

}  // namespace

ContextsApi::ContextsApi(Engine* engine,
                         ContextCatalog* catalog,
                         WorkerGroup* workers,
                         KvPolicy default_policy)
    : engine_(engine),
      catalog_(catalog),
      workers_(workers),
      default_policy_(std::move(default_policy)) {}

void ContextsApi::Create(RoutedRequest request) {
  const auto refuse = [&](const ApiError& error) { request.response->Send(ErrorResponse(error)); };
  if (const std::optional<Error> refusal = engine_->Refusal()) {
    refuse(ApiError{.error = *refusal});
    return;
  }
  nlohmann::json json;
  if (const auto error = ParseJsonBody(request.http.body, &json)) {
    refuse(*error);
    return;
  }
  request.http.body = {};
  RequestFields fields(&json);
  const std::string name = fields.RequiredString("name");
  std::string text = ReadText(&fields);
  KvPolicy policy = default_policy_;
  ReadPolicy(&fields, &policy);
  const AttributeChange attributes = ReadAttributes(&fields, false);
  if (const auto error = fields.Finish()) {
    refuse(*error);
    return;
  }
  const Result<ContextView> created = catalog_->Create(name, std::move(text), policy, attributes);
  if (!created) {
    refuse(ContextApiError(created.error()));
    return;
  }
  request.response->Send(JsonResponse(202, ContextObject(*created, workers_)));
}

void ContextsApi::Append(RoutedRequest request) {
  const auto refuse = [&](const ApiError& error) { request.response->Send(ErrorResponse(error)); };
  if (const std::optional<Error> refusal = engine_->Refusal()) {
    refuse(ApiError{.error = *refusal});
    return;
  }
  nlohmann::json json;
  if (const auto error = ParseJsonBody(request.http.body, &json)) {
    refuse(*error);
    return;
  }
  request.http.body = {};
  RequestFields fields(&json);
  const std::optional<int64_t> offset =
      fields.Integer("offset", 0, std::numeric_limits<int64_t>::max());
  if (!offset) {
    fields.Fail("offset", "is required");
  }
  const uint64_t hash = ReadHash(&fields);
  std::string text = ReadText(&fields);
  if (const auto error = fields.Finish()) {
    refuse(*error);
    return;
  }
  std::optional<AppendConflict> conflict;
  const Result<ContextView> appended = catalog_->Append(
      request.name, static_cast<uint64_t>(*offset), hash, std::move(text), &conflict);
  if (!appended) {
    ApiError error = ContextApiError(appended.error());
    error.conflict = conflict;
    refuse(error);
    return;
  }
  request.response->Send(JsonResponse(202, ContextObject(*appended, workers_)));
}

std::function<void(Result<ContextView>)> ContextsApi::Answer(
    int status,
    std::shared_ptr<ResponseStream> response) {
  return [this, status, response = std::move(response)](Result<ContextView> view) {
    response->Send(view ? JsonResponse(status, ContextObject(*view, workers_))
                        : ErrorResponse(ContextApiError(view.error())));
  };
}

void ContextsApi::Fork(RoutedRequest request) {
  nlohmann::json json;
  if (const auto error = ParseJsonBody(request.http.body, &json)) {
    request.response->Send(ErrorResponse(*error));
    return;
  }
  RequestFields fields(&json);
  const std::string name = fields.RequiredString("name");
  if (const auto error = fields.Finish()) {
    request.response->Send(ErrorResponse(*error));
    return;
  }
  engine_->ForkContext(request.name, name, Answer(201, request.response));
}

void ContextsApi::Change(RoutedRequest request) {
  nlohmann::json json;
  if (const auto error = ParseJsonBody(request.http.body, &json)) {
    request.response->Send(ErrorResponse(*error));
    return;
  }
  const bool ttl_is_null = json.contains("ttl_seconds") && json["ttl_seconds"].is_null();
  RequestFields fields(&json);
  const AttributeChange change = ReadAttributes(&fields, ttl_is_null);
  if (!change.pinned && !change.ttl_s) {
    fields.Fail("pinned", "or 'ttl_seconds' must say what to change");
  }
  if (const auto error = fields.Finish()) {
    request.response->Send(ErrorResponse(*error));
    return;
  }
  engine_->ChangeContext(request.name, change, Answer(200, request.response));
}

void ContextsApi::Show(RoutedRequest request) {
  const Result<ContextView> view = catalog_->Show(request.name);
  request.response->Send(view ? JsonResponse(200, ContextObject(*view, workers_))
                              : ErrorResponse(ContextApiError(view.error())));
}

void ContextsApi::List(RoutedRequest request) {
  Json list;
  list["object"] = "list";
  list["data"] = Json::array();
  for (const ContextView& view : catalog_->List()) {
    list["data"].push_back(ContextObject(view, workers_));
  }
  request.response->Send(JsonResponse(200, list));
}

void ContextsApi::Delete(RoutedRequest request) {
  engine_->DeleteContext(request.name,
                         [name = request.name, response = request.response](Result<void> deleted) {
                           if (!deleted) {
                             response->Send(ErrorResponse(ContextApiError(deleted.error())));
                             return;
                           }
                           Json object;
                           object["id"] = name;
                           object["object"] = "context.deleted";
                           object["deleted"] = true;
                           response->Send(JsonResponse(200, object));
                         });
}

}  // namespace varve
