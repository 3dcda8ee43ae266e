// Random runs of tokens for codecs, and what each codec promises for them.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <vector>

#include "kernels/codec/codec.h"
#include "kernels/codec/fp8_block.h"
#include "kernels/codec/int8_block.h"
#include "kernels/codec/int_block.h"
#include "proto/base/rng.h"

namespace varve {

inline constexpr RunShape kShapes[] = {{1, 8, 1},
                                       {2, 64, 128},
                                       {3, 80, 33},
                                       {1, 256, 40},
                                       {2, 20, 7}};

struct Tokens {
  std::vector<float> k;
  std::vector<float> v;
};

// `kind`: 0 normal, 1 heavy tailed, 2 constant, 3 tiny, 4 huge, 5 zeros.
inline Tokens MakeTokens(const RunShape& shape, int kind, uint64_t seed) {
  Rng rng(seed);
  const auto value = [&rng, kind]() -> float {
    const float x = rng.NextNormal();
    switch (kind) {
      case 1:
        return x * x * x * std::exp(3.0F * rng.NextNormal());
      case 2:
        return 0.75F;
      case 3:
        return x * 1e-38F;
      case 4:
        return x * 1e37F;
      case 5:
        return 0.0F;
      default:
        return x;
    }
  };
  Tokens tokens;
  const size_t count =
      static_cast<size_t>(shape.token_capacity) * shape.num_kv_heads * shape.head_dim;
  for (size_t i = 0; i < count; ++i) {
    tokens.k.push_back(value());
    tokens.v.push_back(value());
  }
  return tokens;
}

inline size_t TokenValues(const RunShape& shape) {
  return static_cast<size_t>(shape.num_kv_heads) * shape.head_dim;
}

inline std::vector<std::byte> EncodeAll(const Codec& codec,
                                        const RunShape& shape,
                                        const Tokens& tokens) {
  std::vector<std::byte> out(codec.EncodedBytes(shape), std::byte{0xee});
  codec.Encode(shape,
               0,
               shape.token_capacity,
               tokens.k.data(),
               tokens.v.data(),
               TokenValues(shape),
               nullptr,
               out);
  return out;
}

inline Tokens DecodeAll(const Codec& codec,
                        const RunShape& shape,
                        std::span<const std::byte> encoded) {
  Tokens tokens;
  tokens.k.resize(TokenValues(shape) * shape.token_capacity);
  tokens.v.resize(tokens.k.size());
  codec.Decode(shape, 0, shape.token_capacity, encoded, nullptr, tokens.k.data(), tokens.v.data());
  return tokens;
}

struct RowRange {
  double smallest = 0.0;
  double largest = 0.0;
  double magnitude = 0.0;  // largest
  double norm = 0.0;
};

template <typename Sanitize>
RowRange RangeOf(std::span<const float> row, Sanitize sanitize) {
  RowRange range{.smallest = INFINITY, .largest = -INFINITY};
  for (const float value : row) {
    const double x = sanitize(value);
    range.smallest = std::min(range.smallest, x);
    range.largest = std::max(range.largest, x);
    range.magnitude = std::max(range.magnitude, std::fabs(x));
    range.norm += x * x;
  }
  range.norm = std::sqrt(range.norm);
  return range;
}

inline constexpr double kHalfStep = 3e-8;  // of the subnormal halves

// How far codecs may be off, of a row with this range, for the value `x` of it.
inline double IntBound(int bits, const RowRange& row) {
  const double offset_error = std::fabs(row.smallest) / 2048.0 + kHalfStep;
  const double range = row.largest - row.smallest + offset_error;
  const double scale = range / ((1 << bits) - 1) * (1.0 + 1.0 / 1024.0) + 2 * kHalfStep;
  return scale / 2.0 + offset_error;
}

inline double Fp8Bound(const RowRange& row, double x) {
  const double scale = row.magnitude / kFp8Largest * (1.0 + 1.0 / 1024.0) + 2 * kHalfStep;
  return std::fabs(x) / 16.0 * (1.0 + 1e-6) + scale / 1024.0;
}

// What a codec promises for one value of a row of `head_dim` values.
inline double ErrorBound(const Codec& codec, std::span<const float> row, float value) {
  const RowRange whole = RangeOf(row, [](float x) { return x; });
  const RowRange range = RangeOf(row, F16Sanitize);
  const double x = F16Sanitize(value);
  const double cut = std::fabs(value - x);
  switch (codec.id()) {
    case CodecId::kF32:
      return 0.0;
    case CodecId::kBf16:
      return std::fabs(value) / 256.0 + 1e-40;
    case CodecId::kInt8:
      return whole.magnitude / 127.0 * (1.0 + 1.0 / 128.0) / 2.0 * (1.0 + 1e-6) + 1e-40;
    case CodecId::kFp8:
      return cut + Fp8Bound(range, x);
    case CodecId::kInt4:
      return cut + IntBound(4, range);
    case CodecId::kInt3:
      return cut + IntBound(3, range);
    case CodecId::kInt2:
      return cut + IntBound(2, range);
    case CodecId::kRot4:
    case CodecId::kRot3:
    case CodecId::kRot2:
      return cut + range.norm * 1.001 + 1e-15;
  }
  return NAN;
}

}  // namespace varve
