#include <algorithm>
#include <array>
#include <string>
#include <vector>

#include "kernels/codec/codec.h"
#include "kernels/codec/codecs.h"
#include "proto/base/check.h"
#include "proto/base/hash.h"

namespace varve {

std::span<const Codec* const> AllCodecs() {
  // One line per codec: this is the list. In the order in which tables show them.
  static const std::array kCodecs = {
      F32Codec(),   Bf16Codec(),       Int8Codec(),       Fp8Codec(),        Int4Codec(),
      Int3Codec(),  Int2Codec(),       Rot4Codec(),       Rot3Codec(),       Rot2Codec(),
      Kivi4Codec(), Kivi2Codec(),      Kivi4G32Codec(),   Kivi2G32Codec(),   Klt4Codec(),
      Klt3Codec(),  Klt2Codec(),       Klt18Codec(),      Nuq4Codec(),       Nuq3Codec(),
      Nuq2Codec(),  Nuq4SparseCodec(), Nuq3SparseCodec(), Nuq2SparseCodec(), Skvq4Codec(),
      Skvq2Codec(), ThinkCodec(),      Deco4Codec(),      LorcCodec(),       Rvq8LargeCodec(),
      Rvq8Codec(),  Rvq4Codec(),       Pca10Codec(),      Pca16Codec()};
  return kCodecs;
}

Result<const Codec*> FindCodec(CodecId id) {
  for (const Codec* codec : AllCodecs()) {
    if (codec->id() == id) {
      return codec;
    }
  }
  return Error{ErrorCode::kCodecMismatch,
               "codec id " + std::to_string(static_cast<unsigned>(id)) +
                   " is not known to this build: the page was written by a newer one"};
}

Result<const Codec*> FindCodec(std::string_view name) {
  std::string known;
  for (const Codec* codec : AllCodecs()) {
    if (codec->name() == name) {
      return codec;
    }
    known += known.empty() ? "" : ", ";
    known += codec->name();
  }
  return Error{ErrorCode::kInvalidArgument,
               "there is no codec '" + std::string(name) + "'; there are: " + known};
}

uint64_t CodecTables::HashOf(std::span<const float> values) {
  return Hash64(std::as_bytes(values));
}

CodecTables Codec::Calibrate(const CalibrationSample& /*sample*/) const {
  VARVE_UNREACHABLE("a codec without tables was asked to make some");
}

size_t Codec::TableFloats(size_t /*num_kv_heads*/, size_t /*head_dim*/) const {
  VARVE_UNREACHABLE("a codec without tables was asked for their size");
}

void Codec::Decode(const RunShape& shape,
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

void Codec::DecodeHead(const RunShape& /*shape*/,
                       int32_t /*kv_head*/,
                       int32_t /*first_token*/,
                       int32_t /*num_tokens*/,
                       std::span<const std::byte> /*encoded*/,
                       const RunContext& /*context*/,
                       float* /*k*/,
                       float* /*v*/) const {
  VARVE_UNREACHABLE("a codec that attention reads as it is was asked to decode one head");
}

RopePositions RunContext::PositionsOf(size_t kv_head, size_t first_token) const {
  if (token_indices == nullptr) {
    return {first_position + static_cast<int64_t>(first_token), nullptr};
  }
  const size_t index = first_token - static_cast<size_t>(first_index);
  return {first_position, token_indices + kv_head * static_cast<size_t>(num_indices) + index};
}

double Codec::BitsPerValue(const RunShape& shape, const CodecTables* tables) const {
  const double values = 2.0 * shape.num_kv_heads * shape.token_capacity * shape.head_dim;
  return 8.0 * static_cast<double>(EncodedBytes(shape, tables)) / values;
}

}  // namespace varve
