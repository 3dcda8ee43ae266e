#include "coordinator/generation.h"

#include <utility>

namespace varve {

Generation::Generation(RequestId id,
                       std::unique_ptr<GenerationRequest> request,
                       const TextModel* text_model,
                       int64_t submitted_us)
    : id_(id),
      request_(std::move(request)),
      text_model_(text_model),
      stream_(text_model->NewStream()),
      stop_matcher_(request_->stop),
      tokens_(std::move(request_->prompt)),
      position_(request_->context.num_tokens()),
      num_prompt_tokens_(position_ + static_cast<int64_t>(tokens_.size())),
      submitted_us_(submitted_us) {
  VARVE_CHECK(!tokens_.empty() && request_->max_tokens >= 1);
}

Runnable Generation::AsRunnable() const {
  return Runnable{.sequence = sequence_,
                  .position = position_,
                  .pending = std::span(tokens_).subspan(static_cast<size_t>(num_done_)),
                  .decoding = decoding_,
                  .sampling = request_->sampling,
                  .num_top_logprobs = request_->num_top_logprobs};
}

void Generation::Computed(int64_t num_tokens) {
  num_done_ += num_tokens;
  position_ += num_tokens;
}

GenerationEvent Generation::Drawn(const TokenLogprob& token, std::vector<TokenLogprob> top) {
  VARVE_CHECK(num_done_ == static_cast<int64_t>(tokens_.size()));
  decoding_ = true;
  tokens_.assign(1, token.token);
  num_done_ = 0;
  ++num_drawn_;

  GenerationEvent event;
  event.completion_tokens = num_drawn_;
  const bool is_eos = text_model_->IsEos(token.token);
  const bool ends = is_eos && !request_->ignore_eos;
  if (!is_eos) {
    event.text = stop_matcher_.Push(stream_->Push(token.token));
  }
  if (!ends) {
    event.tokens.push_back(GeneratedToken{token, std::move(top)});
  }
  if (ends || stop_matcher_.matched()) {
    event.finish = FinishReason::kStop;
  } else if (num_drawn_ >= request_->max_tokens) {
    event.finish = FinishReason::kLength;
  }
  if (event.finish && !stop_matcher_.matched()) {
    event.text += stop_matcher_.Push(stream_->Finish());
    // The bytes that Finish brought may have completed a stop string.
    event.text += stop_matcher_.Flush();
  }
  return event;
}

GenerationEvent Generation::Failed(const Error& error) const {
  GenerationEvent event;
  event.completion_tokens = num_drawn_;
  event.error = error;
  return event;
}

}  // namespace varve
