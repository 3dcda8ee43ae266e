#include "coordinator/tokenizer/detokenizer.h"

#include "coordinator/tokenizer/tokenizer_state.h"
#include "coordinator/tokenizer/utf8.h"
#include "proto/base/check.h"

namespace varve {

StreamingDetokenizer::StreamingDetokenizer(std::shared_ptr<const Tokenizer> tokenizer,
                                           bool skip_special,
                                           bool is_continuation)
    : StreamingDetokenizer(*tokenizer, skip_special) {
  owner_ = std::move(tokenizer);
  if (is_continuation) {
    seen_token_ = true;
    num_spaces_to_strip_ = 0;
  }
}

StreamingDetokenizer::StreamingDetokenizer(const Tokenizer& tokenizer, bool skip_special)
    : tokenizer_(&tokenizer),
      skip_special_(skip_special),
      num_spaces_to_strip_(tokenizer.state_->decoder.num_stripped_spaces()) {}

std::string StreamingDetokenizer::Push(int32_t id) {
  std::string out;
  Append(id, &out);
  return out;
}

std::string StreamingDetokenizer::Flush() {
  std::string out;
  AppendLossy(pending_, &out);
  pending_.clear();
  return out;
}

void StreamingDetokenizer::Append(int32_t id, std::string* out) {
  const auto token_text = tokenizer_->IdToToken(id);
  if (!token_text || (skip_special_ && tokenizer_->IsSpecial(id))) {
    return;
  }
  const Decoder& decoder = tokenizer_->state_->decoder;
  if (decoder.KeepsBlanks(id)) {
    num_spaces_to_strip_ = 0;
  }
  if (seen_token_) {
    pending_ += decoder.BytesOf(id);
  } else {
    pending_ += decoder.FirstBytesOf(id, *token_text);
    seen_token_ = true;
  }
  EmitComplete(out);
}

void StreamingDetokenizer::EmitComplete(std::string* out) {
  size_t position = 0;
  while (num_spaces_to_strip_ > 0 && position < pending_.size()) {
    num_spaces_to_strip_ = pending_[position] == ' ' ? num_spaces_to_strip_ - 1 : 0;
    if (pending_[position] == ' ') {
      ++position;
    }
  }
  // Only the last bytes can be unfinished: a code point has at most four.
  const size_t begin = position;
  size_t end = pending_.size();
  for (size_t back = 1; back <= 3 && back <= end - begin; ++back) {
    const std::string_view tail = std::string_view(pending_).substr(end - back);
    if (IsUtf8Continuation(tail[0])) {
      continue;
    }
    if (ReadUtf8Unit(tail).kind == Utf8Unit::Kind::kIncomplete) {
      end -= back;
    }
    break;
  }
  AppendLossy(std::string_view(pending_).substr(begin, end - begin), out);
  pending_.erase(0, end);
}

}  // namespace varve
