#include "coordinator/context_object.h"

#include "proto/base/hash.h"

namespace varve {
namespace {

using Json = nlohmann::ordered_json;

const char* StatusWord(ContextStatus status) {
  switch (status) {
    case ContextStatus::kIngesting:
      return "ingesting";
    case ContextStatus::kReady:
      return "ready";
    case ContextStatus::kFailed:
      return "failed";
  }
  VARVE_UNREACHABLE("an unknown ContextStatus");
}

// The name of the codec, or of that of each rung of a ladder.
Json CodecObject(const KvPolicy& policy) {
  if (policy.warm_codec.empty() && policy.cold_codec.empty()) {
    return policy.codec;
  }
  Json rungs = {{"hot", policy.codec}};
  if (!policy.warm_codec.empty()) {
    rungs["warm"] = policy.warm_codec;
  }
  if (!policy.cold_codec.empty()) {
    rungs["cold"] = policy.cold_codec;
  }
  return rungs;
}

Json RungsObject(const ContextUsage& usage) {
  Json rungs;
  for (size_t rung = 0; rung < kNumRungs; ++rung) {
    rungs[std::string(kRungNames[rung])] = {{"pages", usage.rungs[rung].pages},
                                            {"bytes", usage.rungs[rung].bytes}};
  }
  return rungs;
}

}  // namespace

Json ContextObject(const ContextView& view, WorkerGroup* workers) {
  const ContextManifest& manifest = view.manifest;
  Json object;
  object["id"] = manifest.name;
  object["object"] = "context";
  object["name"] = manifest.name;
  object["status"] = StatusWord(view.status);
  object["error"] = view.error.empty() ? Json(nullptr) : Json(view.error);
  object["tokens"] = manifest.num_tokens;
  object["tokens_computed"] = view.tokens_computed;
  object["tokens_pending"] = view.tokens_pending;
  object["text_bytes"] = manifest.text_bytes;
  object["text_bytes_received"] = view.text_bytes_received;
  object["text_hash"] = HashToHex(view.text_hash_received);
  object["committed_text_hash"] = HashToHex(manifest.text_hash);
  object["model"] = workers->model().name;
  object["parent"] = manifest.parent.empty() ? Json(nullptr) : Json(manifest.parent);
  object["created_at"] = manifest.created_unix_s;
  object["updated_at"] = manifest.updated_unix_s;
  const ContextAttributes& attributes = manifest.attributes;
  const bool expires = attributes.ttl_s > 0 && !attributes.pinned;
  object["last_used_at"] = attributes.last_used_unix_s;
  object["pinned"] = attributes.pinned;
  object["ttl_seconds"] = attributes.ttl_s > 0 ? Json(attributes.ttl_s) : Json(nullptr);
  object["expires_at"] =
      expires ? Json(attributes.last_used_unix_s + attributes.ttl_s) : Json(nullptr);
  const KvPolicy& policy = manifest.policy;
  object["kv"] = {{"codec", CodecObject(policy)},
                  {"exact_codec", policy.exact_codec},
                  {"page_tokens", policy.page_tokens},
                  {"sink_tokens", policy.sink_tokens},
                  {"recent_window_tokens", policy.recent_window_tokens},
                  {"tokens", policy.tokens},
                  {"keep", policy.keep}};
  // A context without a commit has no pages to speak of.
  const Result<ContextUsage> asked = workers->GetContextUsage(manifest.id);
  const ContextUsage usage = asked ? *asked : ContextUsage{};
  object["usage"] = {{"pages", usage.num_pages},
                     {"device_bytes", usage.device_bytes},
                     {"host_bytes", usage.host_bytes},
                     {"disk_bytes", usage.disk_bytes},
                     {"shared_device_bytes", usage.shared_device_bytes},
                     {"shared_host_bytes", usage.shared_host_bytes},
                     {"shared_disk_bytes", usage.shared_disk_bytes},
                     {"bf16_bytes", usage.bf16_bytes},
                     {"layer_tokens", usage.layer_tokens},
                     {"kept_layer_tokens", usage.kept_layer_tokens},
                     {"rungs", RungsObject(usage)}};
  return object;
}

HttpResponse JsonResponse(int status, const Json& json) {
  HttpResponse response;
  response.status = status;
  response.body = json.dump(-1, ' ', false, Json::error_handler_t::replace);
  return response;
}

HttpResponse ContextResponse(int status, const ContextView& view, WorkerGroup* workers) {
  return JsonResponse(status, ContextObject(view, workers));
}

ApiError ContextApiError(const Error& error) {
  return ApiError{.error = error,
                  .code = error.code == ErrorCode::kNotFound ? "context_not_found" : ""};
}

HttpResponse ContextError(const Error& error) {
  return ErrorResponse(ContextApiError(error));
}

}  // namespace varve
