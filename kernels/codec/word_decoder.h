// Keys and values as 16-bit integers ("words"), for attention in integer arithmetic: what a codec
// offers whose keys are coded before RoPE and whose codes stand for integers.
//
//   key[i]   = word * step of channel i * scale of the token      before RoPE
//   value[i] = word * scale of the token + offset of the token
// or values are that in coordinates of the codec's own: what attention sums up of them is mapped
// back at the end (MapValues).
//
// The two channels of a rotary pair have one step, so that turned words are in it, too.
// Of an outlier the word is zero; the value stands beside it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/codec/codec.h"

namespace varve {

inline constexpr size_t kMaxWordChannels = 256;
// Tokens that are decoded at once, at most: their words stay in the first cache.
inline constexpr size_t kWordTokens = 32;

// A pair of key words, turned by any angle, does not leave 16 bits; 67 are room for roundings.
inline constexpr float kMaxKeyPair = 32700.0F;
// kWordTokens words of values times their weights fit 32-bit sums if none is larger. Both are as
// fine: a value alone is off by what its word is, many by what their weights are.
inline constexpr int kMaxValueWord = 8191;
inline constexpr int kMaxWordWeight = 8191;
static_assert(kWordTokens * kMaxWordWeight * kMaxValueWord < size_t{1} << 31);

// One kv head of an encoded run.
struct HeadRun {
  RunShape shape;
  size_t kv_head = 0;
  const CodecTables* tables = nullptr;
  const std::byte* encoded = nullptr;  // of the whole run
};

// Memory that a codec may fill in LoadTables as it likes: rvq8 keeps its codebooks there.
inline constexpr size_t kWordOwnBytes = size_t{256} << 10;

// What the tables of one kv head say, as decoding to words wants it. Codecs use of it what they
// need.
struct WordTables {
  alignas(32) int16_t key_scales[kMaxWordChannels];   // in 128ths of a step
  alignas(32) int16_t key_offsets[kMaxWordChannels];  // in steps
  float key_steps[kMaxWordChannels];
  int8_t key_levels[16];
  int8_t value_levels[16];
  float value_step;  // what a value's word is worth, times the scale of the token
  std::byte* own;    // [kWordOwnBytes], aligned to a cache line
};

// Outliers of the tokens of one call, [tokens, num_outliers]. A dim that is not there (of damaged
// bytes) is none.
struct OutlierRows {
  uint8_t* dims;
  float* values;
};

class WordDecoder {
 public:
  virtual size_t num_outliers(size_t head_dim) const = 0;
  virtual void LoadTables(const HeadRun& run, WordTables* tables) const = 0;
  // words: [num_tokens, head_dim]; scales: [num_tokens]. REQUIRES: head_dim % 64 == 0, num_tokens
  // <= kWordTokens.
  virtual void DecodeKeyWords(const HeadRun& run,
                              const WordTables& tables,
                              size_t first_token,
                              size_t num_tokens,
                              int16_t* words,
                              float* scales,
                              const OutlierRows& outliers) const = 0;
  virtual void DecodeValueWords(const HeadRun& run,
                                const WordTables& tables,
                                size_t first_token,
                                size_t num_tokens,
                                int16_t* words,
                                const OutlierRows& outliers) const = 0;
  // scales (value_step included), offsets: [num_tokens].
  virtual void LoadValueParams(const HeadRun& run,
                               const WordTables& tables,
                               size_t first_token,
                               size_t num_tokens,
                               float* scales,
                               float* offsets) const = 0;

  // What tells the coordinates of a run's values from others: those of runs for which it is equal
  // are summed up together. Null: values are in none of their own.
  virtual const void* ValueCoordinates(const HeadRun& /*run*/) const { return nullptr; }
  // out += the values that `sums` of weight * (word * scale + offset) stand for, where the weights
  // add up to `weight`. [head_dim]
  virtual void MapValues(const HeadRun& /*run*/,
                         const WordTables& /*tables*/,
                         const float* /*sums*/,
                         float /*weight*/,
                         float* /*out*/) const {}

 protected:
  ~WordDecoder() = default;
};

// Null: the codec offers none.
inline const WordDecoder* WordDecoderOf(const Codec& codec) {
  return dynamic_cast<const WordDecoder*>(&codec);
}

}  // namespace varve
