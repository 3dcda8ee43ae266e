// What codecs share that code the keys, and the values, of one kv head of a run as one block each:
// the walk over heads, and the rotary embedding for those that keep keys as they were before it.
//
// For each kv head: block of the keys, block of the values. Blocks need no alignment.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/codec/codec.h"
#include "kernels/codec/word_decoder.h"

namespace varve {

class HeadCodec : public Codec {
 public:
  uint16_t version() const override { return 1; }
  bool appendable() const final { return false; }
  size_t EncodedBytes(const RunShape& shape, const CodecTables* tables) const final;
  // Inputs are sanitized (f16_block.h). Tokens that the run has room for but does not hold are
  // zero, so that equal tokens give equal bytes.
  void Encode(const RunShape& shape,
              int32_t first_token,
              int32_t num_tokens,
              const float* k,
              const float* v,
              size_t token_stride,
              const RunContext& context,
              std::span<std::byte> out) const final;
  void DecodeHead(const RunShape& shape,
                  int32_t kv_head,
                  int32_t first_token,
                  int32_t num_tokens,
                  std::span<const std::byte> encoded,
                  const RunContext& context,
                  float* k,
                  float* v) const final;

 protected:
  // One side of one kv head.
  struct Block {
    size_t head_dim = 0;
    size_t token_capacity = 0;
    size_t kv_head = 0;
    const CodecTables* tables = nullptr;
  };
  static Block BlockOf(const HeadRun& run);
  const std::byte* KeysOf(const HeadRun& run) const;
  const std::byte* ValuesOf(const HeadRun& run) const;

  virtual bool keys_before_rope() const { return false; }
  // The bytes of a block, or the most that tables make them.
  virtual size_t KeyBytes(size_t head_dim, size_t token_capacity) const = 0;
  virtual size_t ValueBytes(size_t head_dim, size_t token_capacity) const = 0;
  // With the block's tables, the same for all kv heads. For codecs that are sized_by_tables().
  virtual size_t KeyBytesOf(const Block& block) const {
    return KeyBytes(block.head_dim, block.token_capacity);
  }
  virtual size_t ValueBytesOf(const Block& block) const {
    return ValueBytes(block.head_dim, block.token_capacity);
  }
  // x: [num_tokens, head_dim], sanitized. `out` is zero.
  virtual void EncodeKeys(const Block& block,
                          size_t num_tokens,
                          const float* x,
                          std::byte* out) const = 0;
  virtual void EncodeValues(const Block& block,
                            size_t num_tokens,
                            const float* x,
                            std::byte* out) const = 0;
  // x: [num_tokens, head_dim], out.
  virtual void DecodeKeys(const Block& block,
                          const std::byte* encoded,
                          size_t first_token,
                          size_t num_tokens,
                          float* x) const = 0;
  virtual void DecodeValues(const Block& block,
                            const std::byte* encoded,
                            size_t first_token,
                            size_t num_tokens,
                            float* x) const = 0;
};

}  // namespace varve
