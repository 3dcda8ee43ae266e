#include "kernels/codec/row_codec.h"

#include <cstring>

#include "proto/base/check.h"

namespace varve {
namespace {

// Param number `index` of token `token`, in the params of one side.
size_t ParamOffset(size_t params, size_t index, size_t token, size_t token_capacity) {
  return params + (index * token_capacity + token) * sizeof(uint16_t);
}

}  // namespace

size_t RowCodec::EncodedBytes(const RunShape& shape, const CodecTables* /*tables*/) const {
  return shape.num_kv_heads * RowHeadBytes(Format(shape.head_dim), shape.token_capacity);
}

void RowCodec::Encode(const RunShape& shape,
                      int32_t first_token,
                      int32_t num_tokens,
                      const float* k,
                      const float* v,
                      size_t token_stride,
                      const RunContext& /*context*/,
                      std::span<std::byte> out) const {
  VARVE_CHECK(out.size() == EncodedBytes(shape, nullptr));
  VARVE_CHECK(first_token == 0 && num_tokens >= 0 && num_tokens <= shape.token_capacity);
  const size_t head_dim = shape.head_dim;
  const RowFormat format = Format(head_dim);
  std::memset(out.data(), 0, out.size());
  for (size_t head = 0; head < static_cast<size_t>(shape.num_kv_heads); ++head) {
    const RowLayout at = RowLayoutOfHead(format, head, shape.token_capacity);
    const auto encode = [&](size_t token, const float* x, size_t codes, size_t params) {
      uint16_t values[kMaxParams];
      EncodeRow(x, head_dim, out.data() + codes + token * format.row_bytes, values);
      for (size_t i = 0; i < format.num_params; ++i) {
        std::memcpy(out.data() + ParamOffset(params, i, token, shape.token_capacity),
                    values + i,
                    sizeof(uint16_t));
      }
    };
    for (size_t token = 0; token < static_cast<size_t>(num_tokens); ++token) {
      const size_t source = token * token_stride + head * head_dim;
      encode(token, k + source, at.k_codes, at.k_params);
      encode(token, v + source, at.v_codes, at.v_params);
    }
  }
}

void RowCodec::Decode(const RunShape& shape,
                      int32_t first_token,
                      int32_t num_tokens,
                      std::span<const std::byte> encoded,
                      const RunContext& /*context*/,
                      float* k,
                      float* v) const {
  VARVE_CHECK(encoded.size() == EncodedBytes(shape, nullptr));
  VARVE_CHECK(first_token >= 0 && num_tokens >= 0);
  VARVE_CHECK(first_token + num_tokens <= shape.token_capacity);
  const size_t head_dim = shape.head_dim;
  const size_t token_values = shape.num_kv_heads * head_dim;
  const RowFormat format = Format(head_dim);
  for (size_t head = 0; head < static_cast<size_t>(shape.num_kv_heads); ++head) {
    const RowLayout at = RowLayoutOfHead(format, head, shape.token_capacity);
    const auto decode = [&](size_t token, size_t codes, size_t params, float* row) {
      uint16_t values[kMaxParams];
      for (size_t i = 0; i < format.num_params; ++i) {
        std::memcpy(values + i,
                    encoded.data() + ParamOffset(params, i, token, shape.token_capacity),
                    sizeof(uint16_t));
      }
      DecodeRow(encoded.data() + codes + token * format.row_bytes, values, head_dim, row);
    };
    for (size_t index = 0; index < static_cast<size_t>(num_tokens); ++index) {
      const size_t token = first_token + index;
      const size_t target = index * token_values + head * head_dim;
      decode(token, at.k_codes, at.k_params, k + target);
      decode(token, at.v_codes, at.v_params, v + target);
    }
  }
}

}  // namespace varve
