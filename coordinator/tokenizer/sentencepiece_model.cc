#include "coordinator/tokenizer/sentencepiece_model.h"

#include <limits>

#include <sentencepiece_processor.h>

#include "proto/base/check.h"

namespace varve {
namespace {

constexpr std::string_view kBlank = "\xE2\x96\x81";  // U+2581, the library's spelling of a blank

// Protocol buffers merge what is appended: normalizer_spec (field 3) { add_dummy_prefix (field 3):
// false }.
constexpr std::string_view kWithoutDummyPrefix("\x1A\x02\x18\x00", 4);

Error BadModel(const std::string& why) {
  return Error{ErrorCode::kBadModel, "tokenizer.model is not a SentencePiece model: " + why + "."};
}

}  // namespace

struct SentencePieceModel::Processors {
  sentencepiece::SentencePieceProcessor at_start;
  sentencepiece::SentencePieceProcessor inside;  // the same model, no blank put before the text
  bool adds_prefix = false;                      // at_start puts a blank before the text
  bool trims = false;                            // both remove blanks at the ends and doubled ones
};

SentencePieceModel::SentencePieceModel(std::unique_ptr<Processors> processors)
    : processors_(std::move(processors)) {}
SentencePieceModel::SentencePieceModel(SentencePieceModel&&) noexcept = default;
SentencePieceModel& SentencePieceModel::operator=(SentencePieceModel&&) noexcept = default;
SentencePieceModel::~SentencePieceModel() = default;

Result<SentencePieceModel> SentencePieceModel::Load(const std::string& serialized) {
  auto processors = std::make_unique<Processors>();
  for (auto* processor : {&processors->at_start, &processors->inside}) {
    const bool plain = processor == &processors->at_start;
    const auto status = processor->LoadFromSerializedProto(
        plain ? serialized : serialized + std::string(kWithoutDummyPrefix));
    if (!status.ok()) {
      return BadModel(status.ToString());
    }
  }
  // The library does not tell its normalizer's flags: ask it what it does.
  const auto spelling = [](const sentencepiece::SentencePieceProcessor& processor,
                           const char* text) {
    std::string joined;
    for (const std::string& piece : processor.EncodeAsPieces(text)) {
      joined += piece;
    }
    return joined;
  };
  processors->adds_prefix = spelling(processors->at_start, "a").starts_with(kBlank);
  processors->trims = spelling(processors->inside, " a") == "a";
  return SentencePieceModel(std::move(processors));
}

void SentencePieceModel::Encode(std::string_view text,
                                bool at_start,
                                std::vector<int32_t>* ids) const {
  // A model that trims would lose the blank between this text and what it continues; its own prefix
  // replaces it.
  const bool wants_prefix = at_start || (processors_->trims && text.starts_with(' '));
  const auto& processor = wants_prefix ? processors_->at_start : processors_->inside;
  std::vector<int> encoded;
  const auto status = processor.Encode(absl::string_view(text.data(), text.size()), &encoded);
  VARVE_CHECK(status.ok());  // the library fails only if it has no model
  ids->insert(ids->end(), encoded.begin(), encoded.end());
}

std::vector<std::string> SentencePieceModel::TokenText() const {
  std::vector<std::string> text;
  const int size = processors_->at_start.GetPieceSize();
  text.reserve(static_cast<size_t>(size));
  for (int id = 0; id < size; ++id) {
    text.push_back(processors_->at_start.IdToPiece(id));
  }
  return text;
}

std::vector<AddedToken> SentencePieceModel::SpecialTokens() const {
  std::vector<AddedToken> tokens;
  for (int id = 0; id < processors_->at_start.GetPieceSize(); ++id) {
    if (!processors_->at_start.IsControl(id)) {
      continue;
    }
    AddedToken token;
    token.id = id;
    token.content = processors_->at_start.IdToPiece(id);
    token.special = true;
    tokens.push_back(std::move(token));
  }
  return tokens;
}

DecoderSpec SentencePieceModel::Decoder() const {
  DecoderSpec spec;
  spec.byte_fallback = true;
  spec.replacements.push_back({std::string(kBlank), " "});
  // A model that trims loses every blank at the start, so none is text.
  constexpr size_t kAll = std::numeric_limits<size_t>::max();
  spec.num_stripped_spaces = processors_->trims ? kAll : processors_->adds_prefix ? 1 : 0;
  spec.unk_id = processors_->at_start.unk_id();
  spec.unk_surface = processors_->at_start.DecodeIds({spec.unk_id});
  return spec;
}

int32_t SentencePieceModel::bos_id() const {
  return processors_->at_start.bos_id();
}
int32_t SentencePieceModel::eos_id() const {
  return processors_->at_start.eos_id();
}

}  // namespace varve
