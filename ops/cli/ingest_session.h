// Brings one text into one context: creates it or goes on where an earlier attempt stopped, uploads
// the rest in pieces, waits until the context is ready. Running it again with the same text is
// always safe: what the server holds is checked by offset and hash, and nothing is sent twice.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "proto/base/hash.h"
#include "proto/base/result.h"

#include "ops/cli/api_client.h"
#include "ops/cli/progress.h"

namespace varve::cli {

struct IngestOptions {
  std::string name;
  KvChoice kv;                   // of a new context; one that exists must agree with it
  std::optional<int64_t> ttl_s;  // of a new context; absent: it does not expire
  bool wait = true;              // until the context is ready
  size_t chunk_bytes = size_t{1} << 20;
};

struct IngestSummary {
  ContextInfo context;
  uint64_t resumed_at_bytes = 0;  // text that the server already held when this session began
  bool already_complete = false;  // there was nothing left to do
  int64_t tokens_before = 0;
  double seconds = 0;

  double TokensPerSecond() const;
};

class IngestSession {
 public:
  // `text` and `client` outlive the session. `on_progress` may be called often.
  IngestSession(const ApiClient& client,
                IngestOptions options,
                std::string_view text,
                std::function<void(const IngestProgress&)> on_progress);

  // Errors: kConflict (the context holds another text or keeps its KV otherwise), kCancelled (run
  // it again to go on), kInternal (the context failed), and those of ApiClient.
  Result<IngestSummary> Run();

 private:
  // Takes the server's state: how much of the text it holds. Errors: kConflict.
  Result<void> AcceptHeld(uint64_t held_bytes, const std::string& held_hash);
  Result<void> Begin();
  Result<void> CheckKv(const ContextInfo& found) const;
  Result<void> Upload();
  Result<AppendReply> SendChunk(std::string_view chunk);
  Result<void> BackOff(const AppendReply& reply, int& tries);
  Result<void> WaitUntilReady();
  Result<void> Poll();
  void Report();
  double ElapsedSeconds() const;
  // Extends the running hash to the first `bytes` bytes.
  void HashUpTo(uint64_t bytes);

  const ApiClient& client_;
  const IngestOptions options_;
  const std::string_view text_;
  const std::function<void(const IngestProgress&)> on_progress_;

  bool exists_ = false;        // the server knows the context
  uint64_t sent_bytes_ = 0;    // that the server holds
  uint64_t hashed_bytes_ = 0;  // that hasher_ has seen
  Hasher64 hasher_;
  int64_t start_us_ = 0;
  int64_t next_poll_us_ = 0;
  IngestSummary summary_;
};

}  // namespace varve::cli
