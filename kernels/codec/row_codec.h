// What codecs that code each row by itself (row_block.h) share: the walk over heads and tokens.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/codec/codec.h"
#include "kernels/codec/row_block.h"

namespace varve {

class RowCodec : public Codec {
 public:
  uint16_t version() const override { return 1; }
  bool appendable() const final { return false; }
  size_t EncodedBytes(const RunShape& shape, const CodecTables* tables) const final;
  // Tokens that the run has room for but does not hold are zero, so that equal tokens give equal
  // bytes.
  void Encode(const RunShape& shape,
              int32_t first_token,
              int32_t num_tokens,
              const float* k,
              const float* v,
              size_t token_stride,
              const RunContext& context,
              std::span<std::byte> out) const final;
  void Decode(const RunShape& shape,
              int32_t first_token,
              int32_t num_tokens,
              std::span<const std::byte> encoded,
              const RunContext& context,
              float* k,
              float* v) const final;

 protected:
  static constexpr size_t kMaxParams = 2;

  virtual RowFormat Format(size_t head_dim) const = 0;
  // One row: `codes` is zero and has row_bytes, `params` has num_params.
  virtual void EncodeRow(const float* x,
                         size_t head_dim,
                         std::byte* codes,
                         uint16_t* params) const = 0;
  virtual void DecodeRow(const std::byte* codes,
                         const uint16_t* params,
                         size_t head_dim,
                         float* out) const = 0;
};

}  // namespace varve
