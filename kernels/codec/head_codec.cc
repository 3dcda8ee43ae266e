#include "kernels/codec/head_codec.h"

#include <cstring>
#include <vector>

#include "kernels/codec/gather_rows.h"
#include "proto/base/check.h"

namespace varve {

HeadCodec::Block HeadCodec::BlockOf(const HeadRun& run) {
  return {static_cast<size_t>(run.shape.head_dim),
          static_cast<size_t>(run.shape.token_capacity),
          run.kv_head,
          run.tables};
}

const std::byte* HeadCodec::KeysOf(const HeadRun& run) const {
  const Block block = BlockOf(run);
  return run.encoded + run.kv_head * (KeyBytesOf(block) + ValueBytesOf(block));
}

const std::byte* HeadCodec::ValuesOf(const HeadRun& run) const {
  return KeysOf(run) + KeyBytesOf(BlockOf(run));
}

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
  for (size_t head = 0; head < static_cast<size_t>(shape.num_kv_heads); ++head) {
    const Block block{head_dim, static_cast<size_t>(shape.token_capacity), head, context.tables};
    const size_t key_bytes = KeyBytesOf(block);
    std::byte* at = out.data() + head * (key_bytes + ValueBytesOf(block));
    GatherRows(k + head * head_dim, tokens, token_stride, head_dim, rows.data());
    if (keys_before_rope()) {
      UndoRope(context, head, tokens, head_dim, rows.data());
    }
    EncodeKeys(block, tokens, rows.data(), at);
    GatherRows(v + head * head_dim, tokens, token_stride, head_dim, rows.data());
    EncodeValues(block, tokens, rows.data(), at + key_bytes);
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
    TurnRows(*context.rope, context.PositionsOf(kv_head, first_token), num_tokens, k);
  }
  DecodeValues(block, at + key_bytes, first_token, num_tokens, v);
}

}  // namespace varve
