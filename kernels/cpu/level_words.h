// Rows of packed codes (row_block.h) of 2, 3 or 4 bits as words (word_decoder.h), where each code
// stands for a level; with groups of channels, of 2 or 4 bits.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/codec/word_decoder.h"

namespace varve {

// codes: [num_tokens, PackedBytes(bits, head_dim)]; out: [num_tokens, head_dim].
// REQUIRES: head_dim is a multiple of 64.
//
// Keys: level of the code * scale of the channel + offset of the channel.
void KeyLevelWords(size_t bits,
                   const std::byte* codes,
                   const WordTables& tables,
                   size_t num_tokens,
                   size_t head_dim,
                   int16_t* out);
// Values: level of the code.
void ValueLevelWords(size_t bits,
                     const std::byte* codes,
                     const WordTables& tables,
                     size_t num_tokens,
                     size_t head_dim,
                     int16_t* out);

// Codes of 4 bits in equal steps (int_block.h), as levels of half a step about their middle: value
// = level * scale + offset.
void LoadStepLevels(WordTables* tables);  // value_levels
// As the rows have them, half, which need no alignment: [num_tokens]. level_scales, level_offsets:
// those of the levels, out.
void LoadStepParams(const std::byte* scales,
                    const std::byte* offsets,
                    size_t num_tokens,
                    float* level_scales,
                    float* level_offsets);

// Channels in groups, for each of which a token has a scale and an offset.
inline constexpr size_t kMaxLevelGroups = 8;

struct GroupedLevels {
  alignas(32) uint8_t group_bytes[2 * kMaxWordChannels];  // of each channel: 2 * group, and 1 more
  alignas(32) int16_t centres[kMaxWordChannels];          // 32767ths of the largest
  int8_t levels[16];
};

struct GroupedToken {
  alignas(16) int16_t scales[kMaxLevelGroups];  // 128ths of a step
  alignas(16) int16_t offsets[kMaxLevelGroups];
  int16_t centre;  // what the largest is, but for a 32768th
};

// Level of the code * scale of the group + offset of the group + centre of the channel. Of values a
// kGroupedValueSteps-th of it.
inline constexpr int kGroupedValueSteps = 4;
void GroupedLevelWords(size_t bits,
                       bool is_key,
                       const std::byte* codes,
                       const GroupedLevels& channels,
                       const GroupedToken* tokens,
                       size_t num_tokens,
                       size_t head_dim,
                       int16_t* out);

}  // namespace varve
