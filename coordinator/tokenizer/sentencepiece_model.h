// A tokenizer.model, encoded by the sentencepiece library. Immutable after Load; any thread may
// call it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "coordinator/tokenizer/tokenizer_spec.h"
#include "proto/base/result.h"

namespace varve {

class SentencePieceModel {
 public:
  // `serialized`: the bytes of tokenizer.model. kBadModel if the library does not take them.
  static Result<SentencePieceModel> Load(const std::string& serialized);

  SentencePieceModel(SentencePieceModel&&) noexcept;
  SentencePieceModel& operator=(SentencePieceModel&&) noexcept;
  ~SentencePieceModel();

  // Appends the ids of `text`. `at_start`: the blank that the model puts before a text is wanted.
  void Encode(std::string_view text, bool at_start, std::vector<int32_t>* ids) const;

  // The pieces as the decoder needs them. Control pieces are special. The unknown
  // piece decodes to what the library shows for it.
  std::vector<std::string> TokenText() const;
  std::vector<AddedToken> SpecialTokens() const;
  DecoderSpec Decoder() const;
  int32_t bos_id() const;  // kNoToken if the model has none
  int32_t eos_id() const;

 private:
  struct Processors;
  explicit SentencePieceModel(std::unique_ptr<Processors> processors);
  std::unique_ptr<Processors> processors_;
};

}  // namespace varve
