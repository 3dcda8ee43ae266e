#include "kernels/codec/head_codec.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "kernels/codec/f16_block.h"
#include "proto/base/check.h"

namespace varve {
namespace {

// Where tokens [first_token, ...) of one head stand.
RopePositions PositionsOf(const RunContext& context, size_t kv_head, size_t first_token) {
  if (context.token_indices == nullptr) {
    return {context.first_position + static_cast<int64_t>(first_token), nullptr};
  }
  const size_t index = first_token - static_cast<size_t>(context.first_index);
  return {context.first_position,
          context.token_indices + kv_head * static_cast<size_t>(context.num_indices) + index};
}

}  // namespace

size_t HeadCodec::EncodedBytes(const RunShape& shape, const CodecTables* tables) const {
  const Block block{
      static_cast<size_t>(shape.head_dim), static_cast<size_t>(shape.token_capacity), 0, tables};
  return shape.num_kv_heads * (KeyBytesOf(block) + ValueBytesOf(block));
}

void HeadCodec::Encode(const RunShape& shape,
                       int32_t first_token,
                       int32_t num_tokens,
                       const float* k,
                       const float* v,
                       size_t token_stride,
                       const RunContext& context,
                       std::span<std::byte> out) const {
  VARVE_CHECK(out.size() == EncodedBytes(shape, context.tables));
  VARVE_CHECK(first_token == 0 && num_tokens >= 0 && num_tokens <= shape.token_capacity);
  VARVE_CHECK(!needs_tables() || context.tables != nullptr);
  VARVE_CHECK(context.rope == nullptr ||
              context.rope->head_dim() == static_cast<size_t>(shape.head_dim));
  const size_t head_dim = shape.head_dim;
  const size_t tokens = num_tokens;
  std::memset(out.data(), 0, out.size());
  std::vector<float> rows(tokens * head_dim);
  const auto gather = [&](const float* source) {
    for (size_t t = 0; t < tokens; ++t) {
      std::transform(source + t * token_stride,
                     source + t * token_stride + head_dim,
                     rows.data() + t * head_dim,
                     F16Sanitize);
    }
  };
  for (size_t head = 0; head < static_cast<size_t>(shape.num_kv_heads); ++head) {
    const Block block{head_dim, static_cast<size_t>(shape.token_capacity), head, context.tables};
    const size_t key_bytes = KeyBytesOf(block);
    std::byte* at = out.data() + head * (key_bytes + ValueBytesOf(block));
    gather(k + head * head_dim);
    if (keys_before_rope() && context.rope != nullptr) {
      TurnRowsBack(*context.rope, PositionsOf(context, head, 0), tokens, rows.data());
      std::transform(rows.begin(), rows.end(), rows.begin(), F16Sanitize);  // a turn can stretch
    }
    EncodeKeys(block, tokens, rows.data(), at);
    gather(v + head * head_dim);
    EncodeValues(block, tokens, rows.data(), at + key_bytes);
  }
}

void HeadCodec::Decode(const RunShape& shape,
                       int32_t first_token,
                       int32_t num_tokens,
                       std::span<const std::byte> encoded,
                       const RunContext& context,
                       float* k,
                       float* v) const {
  const size_t head_dim = shape.head_dim;
  const size_t token_values = shape.num_kv_heads * head_dim;
  std::vector<float> head_k(num_tokens * head_dim);
  std::vector<float> head_v(head_k.size());
  for (int32_t head = 0; head < shape.num_kv_heads; ++head) {
    DecodeHead(
        shape, head, first_token, num_tokens, encoded, context, head_k.data(), head_v.data());
    for (size_t t = 0; t < static_cast<size_t>(num_tokens); ++t) {
      const size_t target = t * token_values + head * head_dim;
      std::copy_n(head_k.data() + t * head_dim, head_dim, k + target);
      std::copy_n(head_v.data() + t * head_dim, head_dim, v + target);
    }
  }
}

void HeadCodec::DecodeHead(const RunShape& shape,
                           int32_t kv_head,
                           int32_t first_token,
                           int32_t num_tokens,
                           std::span<const std::byte> encoded,
                           const RunContext& context,
                           float* k,
                           float* v) const {
  VARVE_CHECK(encoded.size() == EncodedBytes(shape, context.tables));
  VARVE_CHECK(first_token >= 0 && num_tokens >= 0);
  VARVE_CHECK(first_token + num_tokens <= shape.token_capacity);
  VARVE_CHECK(!needs_tables() || context.tables != nullptr);
  const size_t head_dim = shape.head_dim;
  const size_t capacity = shape.token_capacity;
  const Block block{head_dim, capacity, static_cast<size_t>(kv_head), context.tables};
  const size_t key_bytes = KeyBytesOf(block);
  const std::byte* at = encoded.data() + kv_head * (key_bytes + ValueBytesOf(block));
  DecodeKeys(block, at, first_token, num_tokens, k);
  if (keys_before_rope() && context.rope != nullptr) {
    TurnRows(*context.rope, PositionsOf(context, kv_head, first_token), num_tokens, k);
  }
  DecodeValues(block, at + key_bytes, first_token, num_tokens, v);
}

const HeadCodec* FindHeadCodec(CodecId id) {
  const Result<const Codec*> found = FindCodec(id);
  VARVE_CHECK(found.has_value());
  const auto* codec = dynamic_cast<const HeadCodec*>(*found);
  VARVE_CHECK(codec != nullptr);
  return codec;
}

}  // namespace varve
