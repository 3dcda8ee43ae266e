#include "ops/cli/ingest_session.h"

#include <algorithm>

#include <fmt/format.h>

#include "proto/base/clock.h"

#include "ops/cli/interrupt.h"
#include "ops/cli/text_chunks.h"

namespace varve::cli {
namespace {

constexpr int64_t kPollIntervalMs = 200;
constexpr int64_t kBackOffFirstMs = 250;
constexpr int64_t kBackOffMostMs = 10'000;

}  // namespace

double IngestSummary::TokensPerSecond() const {
  return seconds > 0 ? static_cast<double>(context.tokens - tokens_before) / seconds : 0;
}

IngestSession::IngestSession(const ApiClient& client,
                             IngestOptions options,
                             std::string_view text,
                             std::function<void(const IngestProgress&)> on_progress)
    : client_(client),
      options_(std::move(options)),
      text_(text),
      on_progress_(std::move(on_progress)) {}

Result<IngestSummary> IngestSession::Run() {
  start_us_ = SystemClock().NowUs();
  VARVE_RETURN_IF_ERROR(Begin());
  const bool complete = exists_ && sent_bytes_ == text_.size();
  summary_.already_complete = complete && summary_.context.status == "ready";
  VARVE_RETURN_IF_ERROR(Upload());
  VARVE_RETURN_IF_ERROR(options_.wait ? WaitUntilReady() : Poll());
  summary_.seconds = ElapsedSeconds();
  return summary_;
}

Result<void> IngestSession::Begin() {
  VARVE_TRY(std::optional<ContextInfo> found, client_.FindContext(options_.name));
  if (!found) {
    return {};
  }
  VARVE_RETURN_IF_ERROR(CheckKv(*found));
  exists_ = true;
  VARVE_RETURN_IF_ERROR(AcceptHeld(found->text_bytes_received, found->text_hash));
  summary_.resumed_at_bytes = sent_bytes_;
  summary_.tokens_before = found->tokens;
  summary_.context = std::move(*found);
  return {};
}

Result<void> IngestSession::CheckKv(const ContextInfo& found) const {
  const KvChoice& kv = options_.kv;
  const auto differs = [&](std::string_view has, std::string_view wanted, std::string_view what) {
    return Error{ErrorCode::kConflict,
                 fmt::format("the context \"{}\" keeps {}, not {}; a context's {} cannot change",
                             options_.name,
                             has,
                             wanted,
                             what)};
  };
  if (!kv.codec.empty() && kv.codec != found.codec) {
    return differs("its KV as " + found.codec, kv.codec, "codec");
  }
  if (!kv.tokens.empty() && kv.tokens != found.kv_tokens) {
    return differs("tokens by " + found.kv_tokens, kv.tokens, "token policy");
  }
  if (kv.keep && *kv.keep != found.kv_keep) {
    return differs(
        fmt::format("{} of its tokens", found.kv_keep), fmt::format("{}", *kv.keep), "share");
  }
  return {};
}

Result<void> IngestSession::AcceptHeld(uint64_t held_bytes, const std::string& held_hash) {
  const auto differs = [&](std::string_view how) {
    return Error{
        ErrorCode::kConflict,
        fmt::format(
            "the context \"{}\" holds another text ({}); choose another name, or remove it with "
            "`varve contexts rm {}`",
            options_.name,
            how,
            options_.name)};
  };
  if (held_bytes > text_.size()) {
    return differs(fmt::format("{} bytes, the given text has {}", held_bytes, text_.size()));
  }
  if (held_bytes < hashed_bytes_) {
    hasher_ = Hasher64();
    hashed_bytes_ = 0;
  }
  HashUpTo(held_bytes);
  if (HashToHex(hasher_.Digest()) != held_hash) {
    return differs(fmt::format("its first {} bytes are not those of the given text", held_bytes));
  }
  sent_bytes_ = held_bytes;
  return {};
}

void IngestSession::HashUpTo(uint64_t bytes) {
  hasher_.Update(text_.substr(hashed_bytes_, bytes - hashed_bytes_));
  hashed_bytes_ = bytes;
}

Result<void> IngestSession::Upload() {
  int tries = 0;
  while (!exists_ || sent_bytes_ < text_.size()) {
    const size_t end = ChunkEnd(text_, sent_bytes_, options_.chunk_bytes);
    const std::string_view chunk = text_.substr(sent_bytes_, end - sent_bytes_);
    VARVE_TRY(const AppendReply reply, SendChunk(chunk));
    switch (reply.kind) {
      case AppendReply::Kind::kAccepted:
        exists_ = true;
        tries = 0;
        sent_bytes_ += chunk.size();
        HashUpTo(sent_bytes_);
        break;
      case AppendReply::Kind::kWrongOffset:
        if (reply.text_bytes == sent_bytes_) {
          return Error{ErrorCode::kConflict,
                       reply.message};  // the offset is right: it is something else
        }
        VARVE_RETURN_IF_ERROR(AcceptHeld(reply.text_bytes, reply.text_hash));
        break;
      case AppendReply::Kind::kBusy:
        VARVE_RETURN_IF_ERROR(BackOff(reply, tries));
        break;
    }
    VARVE_RETURN_IF_ERROR(Poll());
  }
  return {};
}

Result<AppendReply> IngestSession::SendChunk(std::string_view chunk) {
  if (!exists_) {
    return client_.CreateContext(options_.name, chunk, options_.kv, options_.ttl_s);
  }
  return client_.Append(options_.name, sent_bytes_, HashToHex(hasher_.Digest()), chunk);
}

Result<void> IngestSession::BackOff(const AppendReply& reply, int& tries) {
  const int64_t grown_ms = std::min(kBackOffMostMs, kBackOffFirstMs << std::min(tries, 6));
  const int64_t asked_ms = std::min(kBackOffMostMs, reply.retry_after_s * 1000);
  const int64_t until_us = SystemClock().NowUs() + std::max(grown_ms, asked_ms) * 1000;
  ++tries;
  while (SystemClock().NowUs() < until_us) {
    if (!SleepUnlessInterrupted(kPollIntervalMs)) {
      return Error{ErrorCode::kCancelled, "interrupted"};
    }
    if (exists_) {
      VARVE_RETURN_IF_ERROR(Poll());
    }
  }
  return {};
}

Result<void> IngestSession::Poll() {
  const int64_t now_us = SystemClock().NowUs();
  if (!exists_ || now_us < next_poll_us_) {
    return {};
  }
  next_poll_us_ = now_us + kPollIntervalMs * 1000;
  VARVE_TRY(summary_.context, client_.GetContext(options_.name));
  if (summary_.context.status == "failed") {
    return Error{
        ErrorCode::kInternal,
        fmt::format("the ingest of \"{}\" failed: {}", options_.name, summary_.context.error)};
  }
  Report();
  return {};
}

Result<void> IngestSession::WaitUntilReady() {
  while (true) {
    next_poll_us_ = 0;
    VARVE_RETURN_IF_ERROR(Poll());
    if (summary_.context.status == "ready" && summary_.context.text_bytes >= text_.size()) {
      return {};
    }
    if (summary_.context.text_bytes_received < text_.size()) {
      // The server was restarted and forgot what was queued but not durable: send that again.
      VARVE_RETURN_IF_ERROR(
          AcceptHeld(summary_.context.text_bytes_received, summary_.context.text_hash));
      VARVE_RETURN_IF_ERROR(Upload());
    }
    if (!SleepUnlessInterrupted(kPollIntervalMs)) {
      return Error{ErrorCode::kCancelled, "interrupted"};
    }
  }
}

void IngestSession::Report() {
  const ContextInfo& context = summary_.context;
  IngestProgress progress;
  progress.text_bytes = text_.size();
  progress.text_bytes_sent = sent_bytes_;
  progress.tokens_done = context.tokens_computed;
  const auto all_tokens = static_cast<double>(context.tokens_computed + context.tokens_pending);
  if (all_tokens > 0) {
    progress.text_bytes_done = static_cast<uint64_t>(
        static_cast<double>(context.text_bytes_received) * context.tokens_computed / all_tokens);
  }
  const double elapsed_s = ElapsedSeconds();
  const int64_t tokens = context.tokens_computed - summary_.tokens_before;
  if (tokens > 0 && elapsed_s > 0 && progress.text_bytes_done > summary_.resumed_at_bytes) {
    progress.tokens_per_s = static_cast<double>(tokens) / elapsed_s;
    const double bytes_per_s =
        static_cast<double>(progress.text_bytes_done - summary_.resumed_at_bytes) / elapsed_s;
    progress.eta_s = static_cast<double>(text_.size() - progress.text_bytes_done) / bytes_per_s;
  }
  on_progress_(progress);
}

double IngestSession::ElapsedSeconds() const {
  return static_cast<double>(SystemClock().NowUs() - start_us_) * 1e-6;
}

}  // namespace varve::cli
