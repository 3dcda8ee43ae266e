// Rows of the klt codecs (klt_block.h) as words (word_decoder.h). A key takes as many products of
// 16 bits as it has channels times dimensions with bits, 16 times what four queries cost that read
// it if those are half of 128: these codecs save bytes, not time. Values stay rotated; what is
// summed up of them is turned back once.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/codec/klt_block.h"
#include "kernels/codec/word_basis.h"
#include "kernels/codec/word_decoder.h"

namespace varve {

// Groups of as many bits.
struct KltSpan {
  uint8_t bits;
  uint8_t num_groups;
};

// One side of a kv head: what its codes stand for.
struct KltLevelWords {
  KltSpan spans[kMaxWordChannels / kKltGroup];
  size_t num_spans;
  float step;  // what a level's word is worth, times the scale of the token
  int16_t words[kKltLevels];
  // The same of up to four bits, in halves for look-ups in registers: [bits - 1][code].
  uint8_t low_bytes[4][16];
  uint8_t high_bytes[4][16];
};

// Made once for the tables of a kv head, in memory of WordTables::own.
struct KltWords {
  KltLevelWords keys;
  KltLevelWords values;
  WordBasis basis;
  int16_t* coefficients;  // [kWordTokens, head_dim]
};

// Bytes of `own` that KltWords and what it points to take.
constexpr size_t KltOwnBytes(size_t head_dim) {
  return sizeof(KltWords) + WordBasisPanelBytes(head_dim) +
         kWordTokens * head_dim * sizeof(int16_t);
}

static_assert(KltOwnBytes(kMaxWordChannels) <= kWordOwnBytes);

// REQUIRES: head_dim is a multiple of 64.
void LoadKltWords(const KltTables<const float>& tables, size_t head_dim, WordTables* out);

// codes: [num_tokens, row_bytes]; scales: KltScaleCode, [num_tokens]; words: [num_tokens,
// head_dim], out; steps: [num_tokens], out.
void DecodeKltKeyWords(const WordTables& tables,
                       const std::byte* codes,
                       const std::byte* scales,
                       size_t row_bytes,
                       size_t num_tokens,
                       size_t head_dim,
                       int16_t* words,
                       float* steps);
void DecodeKltValueWords(const WordTables& tables,
                         const std::byte* codes,
                         size_t row_bytes,
                         size_t num_tokens,
                         size_t head_dim,
                         int16_t* words);
// scales: [num_tokens], out, of the words.
void LoadKltValueScales(const WordTables& tables,
                        const std::byte* codes,
                        size_t num_tokens,
                        float* scales);
// out += what `sums` of rotated values stand for. [head_dim]
void MapKltValues(const KltTables<const float>& tables,
                  size_t head_dim,
                  const float* sums,
                  float* out);

}  // namespace varve
