#include "coordinator/tokenizer/tokenizer.h"

#include <utility>

#include "coordinator/tokenizer/detokenizer.h"
#include "coordinator/tokenizer/tokenizer_state.h"
#include "coordinator/tokenizer/utf8.h"
#include "proto/base/check.h"

namespace varve {
namespace {

constexpr size_t kMaxTextBytes = size_t{1} << 30;

// Calls on_text(part, is_first_byte) and on_token(token) for what `found` makes of `text`, in
// order.
template <typename OnText, typename OnToken>
void ForEachPart(std::string_view text,
                 const std::vector<AddedTokenFinder::Found>& found,
                 OnText&& on_text,
                 OnToken&& on_token) {
  size_t text_begin = 0;
  for (const auto& match : found) {
    if (text_begin < match.begin) {
      on_text(text.substr(text_begin, match.begin - text_begin), text_begin == 0);
    }
    on_token(*match.token);
    text_begin = match.end;
  }
  if (text_begin < text.size()) {
    on_text(text.substr(text_begin), text_begin == 0);
  }
}

void EncodeSegment(const BpePipeline& pipeline,
                   std::string_view segment,
                   bool is_text_start,
                   EncodeOptions options,
                   EncodeScratch* scratch,
                   std::vector<int32_t>* ids) {
  const bool at_start = !(is_text_start && options.is_continuation);
  const std::string_view normalized =
      pipeline.normalizer.Apply(segment, at_start, &scratch->normalized);
  pipeline.normalized_added.Find(normalized, options.parse_special, &scratch->normalized_found);
  ForEachPart(
      normalized,
      scratch->normalized_found,
      [&](std::string_view part, bool is_first) {
        pipeline.pre_tokenizer.Split(
            part,
            {is_text_start && is_first, options.is_continuation},
            &scratch->pre_tokenizer,
            [&](std::string_view piece) { pipeline.model.Encode(piece, &scratch->bpe, ids); });
      },
      [&](const AddedToken& token) { ids->push_back(token.id); });
}

void EncodeSegment(const SentencePiecePipeline& pipeline,
                   std::string_view segment,
                   bool is_text_start,
                   EncodeOptions options,
                   EncodeScratch* /*scratch*/,
                   std::vector<int32_t>* ids) {
  const bool wants_prefix =
      is_text_start ? !options.is_continuation : pipeline.prefix_every_segment;
  pipeline.model.Encode(segment, wants_prefix, ids);
}

}  // namespace

std::unique_ptr<EncodeScratch> ScratchPool::Take() {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (idle_.empty()) {
    return std::make_unique<EncodeScratch>();
  }
  std::unique_ptr<EncodeScratch> scratch = std::move(idle_.back());
  idle_.pop_back();
  return scratch;
}

void ScratchPool::Give(std::unique_ptr<EncodeScratch> scratch) {
  const std::lock_guard<std::mutex> lock(mutex_);
  idle_.push_back(std::move(scratch));
}

Tokenizer::Tokenizer(std::unique_ptr<const State> state) : state_(std::move(state)) {}
Tokenizer::~Tokenizer() = default;

std::vector<int32_t> Tokenizer::Encode(std::string_view text, EncodeOptions options) const {
  std::string repaired;
  if (!IsValidUtf8(text)) {
    AppendLossy(text, &repaired);
    text = repaired;
  }
  VARVE_CHECK(text.size() <= kMaxTextBytes * 3);  // U+FFFD is three bytes for one
  std::unique_ptr<EncodeScratch> scratch = state_->scratches.Take();
  std::vector<int32_t> ids;
  ids.reserve(text.size() / 3 + 4);
  state_->raw_added.Find(text, options.parse_special, &scratch->raw_found);
  ForEachPart(
      text,
      scratch->raw_found,
      [&](std::string_view segment, bool is_text_start) {
        std::visit(
            [&](const auto& pipeline) {
              EncodeSegment(pipeline, segment, is_text_start, options, scratch.get(), &ids);
            },
            state_->pipeline);
      },
      [&](const AddedToken& token) { ids.push_back(token.id); });
  state_->scratches.Give(std::move(scratch));
  return ids;
}

std::string Tokenizer::Decode(std::span<const int32_t> ids, bool skip_special) const {
  StreamingDetokenizer detokenizer(*this, skip_special);
  std::string text;
  for (const int32_t id : ids) {
    detokenizer.Append(id, &text);
  }
  return text + detokenizer.Flush();
}

int32_t Tokenizer::vocab_size() const {
  return static_cast<int32_t>(state_->token_text.size());
}

std::optional<int32_t> Tokenizer::TokenToId(std::string_view token) const {
  const auto found = state_->id_of_token.find(token);
  if (found == state_->id_of_token.end()) {
    return std::nullopt;
  }
  return found->second;
}

std::optional<std::string_view> Tokenizer::IdToToken(int32_t id) const {
  if (id < 0 || id >= vocab_size() || state_->token_text[static_cast<size_t>(id)].empty()) {
    return std::nullopt;
  }
  return state_->token_text[static_cast<size_t>(id)];
}

bool Tokenizer::IsSpecial(int32_t id) const {
  return id >= 0 && id < vocab_size() && state_->is_special[static_cast<size_t>(id)];
}

std::optional<int32_t> Tokenizer::bos_id() const {
  return state_->bos_id;
}
const std::vector<int32_t>& Tokenizer::eos_ids() const {
  return state_->eos_ids;
}
const std::string& Tokenizer::bos_token() const {
  return state_->bos_token;
}
const std::string& Tokenizer::eos_token() const {
  return state_->eos_token;
}
const std::string& Tokenizer::chat_template() const {
  return state_->chat_template;
}
uint64_t Tokenizer::content_hash() const {
  return state_->content_hash;
}

}  // namespace varve
