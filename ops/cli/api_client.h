// The server's API as the commands use it: typed calls over HttpClient. The HTTP contract is
// coordinator/README.md.
//
// Errors: those of HttpClient, and the server's own refusals with its message (the code follows the
// HTTP status).
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "proto/base/result.h"
#include "proto/worker_group.h"

#include "ops/cli/http_client.h"
#include "ops/cli/kv_codec.h"

namespace varve::cli {

struct ContextInfo {
  std::string name;
  std::string status;                // "ingesting", "ready" or "failed"
  std::string error;                 // why it failed
  int64_t tokens = 0;                // committed
  int64_t tokens_computed = 0;       // committed, and computed since
  int64_t tokens_pending = 0;        // received and not computed yet; partly an estimate
  uint64_t text_bytes = 0;           // committed
  uint64_t text_bytes_received = 0;  // committed and queued
  std::string text_hash;             // XXH3-64 of the received text, in hex
  std::string model;
  std::string codec;      // or "hot,warm,cold" of a ladder, without what it has not
  std::string kv_tokens;  // the token policy: "all", or the one that prunes
  double kv_keep = 1;     // the share of tokens that it keeps
  int64_t created_at = 0;
  int64_t updated_at = 0;
  std::string parent;  // the context that it was forked from; empty: none
  bool pinned = false;
  int64_t ttl_s = 0;       // 0: none
  int64_t expires_at = 0;  // 0: never
  int64_t pages = 0;
  uint64_t device_bytes = 0;
  uint64_t host_bytes = 0;
  uint64_t disk_bytes = 0;
  uint64_t shared_device_bytes = 0;  // of these, what is counted as another context's
  uint64_t shared_host_bytes = 0;
  uint64_t shared_disk_bytes = 0;
  uint64_t bf16_bytes = 0;
  int64_t layer_tokens = 0;       // tokens, counted once for each layer
  int64_t kept_layer_tokens = 0;  // those of them that are kept
  std::array<RungUsage, kNumRungs> rungs{};
  std::string json;  // the whole object, as the server sent it
};

// What is absent stays as it is.
struct AttributeChange {
  std::optional<bool> pinned;
  std::optional<int64_t> ttl_s;  // 0: none
};

struct AppendReply {
  enum class Kind { kAccepted, kWrongOffset, kBusy };
  Kind kind = Kind::kAccepted;
  uint64_t text_bytes = 0;    // kWrongOffset: what the server holds
  std::string text_hash;      // kWrongOffset: its hash
  int64_t retry_after_s = 0;  // kBusy
  std::string message;
};

// A question and what was answered to it.
struct AnsweredQuestion {
  std::string question;
  std::string answer;
};

struct ChatRequest {
  std::string context;                    // empty: none
  std::string system;                     // empty: none
  std::vector<AnsweredQuestion> history;  // what was said before the question
  std::string question;
  std::optional<int64_t> max_tokens;  // absent: the server's default
  double temperature = 0;
  double top_p = 1;
  std::optional<uint64_t> seed;
  // How it attends to the context; absent: as the context's policy says.
  std::optional<std::string> attention;
  std::optional<double> epsilon;
  std::optional<double> delta;
  std::optional<int64_t> budget_tokens;
};

struct ChatAnswer {
  std::string text;
  std::string finish_reason;
  int64_t prompt_tokens = 0;
  int64_t completion_tokens = 0;
  double first_token_s = 0;  // from the request to the first piece of the answer
  double total_s = 0;
  // Of requests that choose the pages that they read.
  std::optional<int64_t> pages_read;
  int64_t pages_total = 0;
  // Of selective attention; infinite: not known.
  std::optional<double> error_bound;
  double missed_mass = 0;

  // Answer tokens per second after the first; 0 when there are none.
  double TokensPerSecond() const;
};

class ApiClient {
 public:
  static Result<ApiClient> Create(const std::string& server_url);

  // The id of the model that the server serves.
  Result<std::string> ModelName() const;
  Result<std::vector<ContextInfo>> ListContexts() const;
  // Empty if there is no such context.
  Result<std::optional<ContextInfo>> FindContext(const std::string& name) const;
  Result<ContextInfo> GetContext(const std::string& name) const;
  Result<void> DeleteContext(const std::string& name) const;
  // The context's file, piece by piece, until on_bytes returns false.
  Result<void> ExportContext(const std::string& name,
                             const std::function<bool(std::string_view bytes)>& on_bytes) const;
  // A part of such a file. Returns the context with the last one, nothing before.
  Result<std::optional<ContextInfo>> ImportPart(const std::string& name,
                                                uint64_t offset,
                                                bool is_last,
                                                std::string_view bytes) const;
  Result<AppendReply> CreateContext(const std::string& name,
                                    std::string_view text,
                                    const KvChoice& kv,
                                    std::optional<int64_t> ttl_s = {}) const;
  Result<ContextInfo> ForkContext(const std::string& name, const std::string& fork) const;
  Result<ContextInfo> ChangeContext(const std::string& name, const AttributeChange& change) const;
  // Appends `text` behind the first `offset` bytes, whose hash is `hash`.
  Result<AppendReply> Append(const std::string& name,
                             uint64_t offset,
                             const std::string& hash,
                             std::string_view text) const;
  // Streams the answer; `on_text` gets each piece of it as it comes.
  Result<ChatAnswer> Ask(const ChatRequest& request,
                         const std::function<void(std::string_view piece)>& on_text) const;
  // The sum over all samples of one metric whose labels contain `label` (for example
  // `kind="document"`).
  Result<double> ReadMetric(std::string_view name, std::string_view label) const;

  const std::string& url() const { return http_.url(); }

 private:
  explicit ApiClient(HttpClient http) : http_(std::move(http)) {}

  HttpClient http_;
};

}  // namespace varve::cli
