// One running request inside the engine: what it still has to compute, and its tokens turned into
// text.
//
// Threads: the engine's, after construction.
#pragma once

#include <cstdint>
#include <memory>

#include "coordinator/request.h"
#include "coordinator/scheduler.h"
#include "coordinator/stop_matcher.h"
#include "coordinator/text_model.h"
#include "proto/base/ids.h"

namespace varve {

using RequestId = StrongId<struct RequestTag, uint64_t>;

class Generation {
 public:
  Generation(RequestId id,
             std::unique_ptr<GenerationRequest> request,
             const TextModel* text_model,
             int64_t submitted_us);

  // The sequence is open.
  void Admit(SequenceId sequence) { sequence_ = sequence; }
  // The tokens stay valid until the next call that is not const.
  Runnable AsRunnable() const;
  // A step computed the first `num_tokens` of AsRunnable().pending.
  void Computed(int64_t num_tokens);
  // A step drew a token. The event has `finish` when the answer is complete.
  GenerationEvent Drawn(const TokenLogprob& token, std::vector<TokenLogprob> top);
  // The last event of a request that cannot go on.
  GenerationEvent Failed(const Error& error) const;

  // Gives the context back before the last event is delivered, so that a client that has its answer
  // can delete it.
  void ReleaseContext() { request_->context = ContextLease(); }

  RequestId id() const { return id_; }
  SequenceId sequence() const { return sequence_; }
  const GenerationRequest& request() const { return *request_; }
  bool decoding() const { return decoding_; }
  int64_t num_prompt_tokens() const { return num_prompt_tokens_; }  // the context's included
  int64_t submitted_us() const { return submitted_us_; }
  int64_t last_token_us() const { return last_token_us_; }  // 0: none yet
  void set_last_token_us(int64_t now_us) { last_token_us_ = now_us; }

 private:
  RequestId id_;
  std::unique_ptr<GenerationRequest> request_;
  const TextModel* text_model_;
  std::unique_ptr<TextStream> stream_;
  StopMatcher stop_matcher_;
  SequenceId sequence_;
  std::vector<int32_t> tokens_;  // the prompt; once decoding, the token drawn last
  int64_t num_done_ = 0;         // of tokens_
  int64_t position_ = 0;         // of tokens_[num_done_]
  bool decoding_ = false;
  int64_t num_prompt_tokens_ = 0;
  int64_t num_drawn_ = 0;
  int64_t submitted_us_ = 0;
  int64_t last_token_us_ = 0;
};

}  // namespace varve
