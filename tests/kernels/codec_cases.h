// Random runs of tokens for codecs, and what each codec promises for them.
#pragma once

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <map>
#include <span>
#include <tuple>
#include <vector>

#include "kernels/codec/codec.h"
#include "kernels/codec/fp8_block.h"
#include "kernels/codec/int8_block.h"
#include "kernels/codec/int_block.h"
#include "proto/base/rng.h"

namespace varve {

inline constexpr RunShape kShapes[] = {{1, 8, 1},
                                       {2, 64, 70},
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

// All of kShapes, but the large ones for rvq8-2k, which compares each group with 16,384 codewords.
inline std::vector<RunShape> ShapesFor(const Codec& codec) {
  std::vector<RunShape> shapes(std::begin(kShapes), std::end(kShapes));
  if (codec.id() == CodecId::kRvq8Large) {
    std::erase_if(shapes, [](const RunShape& shape) {
      return TokenValues(shape) * shape.token_capacity > 1000;
    });
  }
  return shapes;
}

// Tables for codecs that need some, made from normal numbers; the same at every call.
inline const CodecTables* TablesFor(const Codec& codec, int32_t num_kv_heads, int32_t head_dim) {
  static std::map<std::tuple<CodecId, int32_t, int32_t>, CodecTables> tables;
  if (!codec.needs_tables()) {
    return nullptr;
  }
  // Large codebooks take long to make; those that fit every shape are made once.
  if (codec.TableFloats(1, 8) == codec.TableFloats(2, 64)) {
    num_kv_heads = 2;
    head_dim = 64;
  }
  const std::tuple key{codec.id(), num_kv_heads, head_dim};
  if (!tables.contains(key)) {
    Rng rng(77);
    // Searching codebooks is slow, and these need not be good.
    const size_t num_tokens = codec.name().starts_with("rvq") ? 100 : 300;
    CalibrationSample sample{.num_kv_heads = num_kv_heads,
                             .head_dim = head_dim,
                             .num_tokens = static_cast<int64_t>(num_tokens),
                             .has_rope = true};
    const auto width = static_cast<size_t>(num_kv_heads * head_dim);
    for (size_t i = 0; i < width * num_tokens; ++i) {
      const float channel = 1.0F + static_cast<float>(i % width % 5);
      sample.k.push_back(channel * rng.NextNormal() + 0.5F * channel);
      sample.v.push_back(rng.NextNormal());
    }
    for (int32_t head = 0; head < num_kv_heads; ++head) {
      for (int32_t row = 0; row < head_dim; ++row) {
        for (int32_t column = 0; column < head_dim; ++column) {
          sample.q_moment.push_back(row == column ? 1.0 + row % 3 : 0.1);
        }
      }
    }
    tables[key] = codec.Calibrate(sample);
  }
  return &tables[key];
}

// The keys of these runs were rotated, by positions that need all digits.
inline RunContext ContextFor(const Codec& codec, const RunShape& shape) {
  static std::map<int32_t, Rope> ropes;
  auto rope = ropes.find(shape.head_dim);
  if (rope == ropes.end()) {
    RopeSpec spec;
    for (int32_t i = 0; i < shape.head_dim / 2; ++i) {
      spec.inv_freq.push_back(std::pow(10'000.0, -2.0 * i / shape.head_dim));
    }
    rope = ropes.emplace(shape.head_dim, Rope(spec)).first;
  }
  return {.tables = TablesFor(codec, shape.num_kv_heads, shape.head_dim),
          .rope = shape.head_dim % 2 == 0 ? &rope->second : nullptr,
          .first_position = 9'999'872};
}

inline std::vector<std::byte> EncodeAll(const Codec& codec,
                                        const RunShape& shape,
                                        const Tokens& tokens) {
  std::vector<std::byte> out(codec.EncodedBytes(shape, ContextFor(codec, shape).tables),
                             std::byte{0xee});
  codec.Encode(shape,
               0,
               shape.token_capacity,
               tokens.k.data(),
               tokens.v.data(),
               TokenValues(shape),
               ContextFor(codec, shape),
               out);
  return out;
}

inline Tokens DecodeAll(const Codec& codec,
                        const RunShape& shape,
                        std::span<const std::byte> encoded) {
  Tokens tokens;
  tokens.k.resize(TokenValues(shape) * shape.token_capacity);
  tokens.v.resize(tokens.k.size());
  codec.Decode(shape,
               0,
               shape.token_capacity,
               encoded,
               ContextFor(codec, shape),
               tokens.k.data(),
               tokens.v.data());
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

inline float LargestMagnitude(const std::vector<float>& x) {
  float largest = 0.0F;
  for (const float value : x) {
    largest = std::max(largest, std::fabs(value));
  }
  return largest;
}

// The ranges of the values that a codec looks at together when it codes one of them: its row, its
// token, its channel over the run, or the whole run.
struct Surroundings {
  RowRange whole;
  RowRange sanitized;  // as half-precision codecs see them
};

// Which of them value `index` of [tokens, heads, head_dim] has.
inline size_t SurroundingsOf(const Codec& codec, const RunShape& shape, bool is_key, size_t index) {
  if (codec.id() == CodecId::kThink || codec.id() == CodecId::kDeco4) {
    return 0;
  }
  if (is_key && codec.name().starts_with("kivi")) {
    return index % TokenValues(shape);
  }
  return index / (codec.name().starts_with("pca") ? TokenValues(shape) : shape.head_dim);
}

// x: [tokens, heads, head_dim]
inline std::vector<Surroundings> AllSurroundings(const Codec& codec,
                                                 const RunShape& shape,
                                                 bool is_key,
                                                 const std::vector<float>& x) {
  std::map<size_t, std::vector<float>> rows;
  for (size_t i = 0; i < x.size(); ++i) {
    rows[SurroundingsOf(codec, shape, is_key, i)].push_back(x[i]);
  }
  std::vector<Surroundings> all;
  for (const auto& [index, row] : rows) {
    all.push_back({RangeOf(row, [](float value) { return value; }), RangeOf(row, F16Sanitize)});
  }
  return all;
}

// What a codec promises for one value among these.
inline double ErrorBound(const Codec& codec, const Surroundings& around, float value) {
  const RowRange& whole = around.whole;
  const RowRange& range = around.sanitized;
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
    case CodecId::kKivi4:
    case CodecId::kKivi4G32:
      return cut + IntBound(4, range);
    case CodecId::kKivi2:
    case CodecId::kKivi2G32:
      return cut + IntBound(2, range);
    // In coordinates in which a key's norm may be stretched by what its tables were made for.
    case CodecId::kNuq4:
    case CodecId::kNuq3:
    case CodecId::kNuq2:
    case CodecId::kNuq4Sparse:
    case CodecId::kNuq3Sparse:
    case CodecId::kNuq2Sparse:
    case CodecId::kSkvq4:
    case CodecId::kSkvq2:
    case CodecId::kKlt4:
    case CodecId::kKlt3:
    case CodecId::kKlt2:
    case CodecId::kKlt18:
    case CodecId::kPca:
    case CodecId::kPcaFine:
    case CodecId::kLorc:
      return cut + 12.0 * (range.norm + 10.0) + 1e-15;
    // What a run has in common decides, before RoPE.
    case CodecId::kThink:
    case CodecId::kDeco4:
      return cut + 6.0 * range.magnitude + 1e-6;
    // The codewords of the tables are about as long as scaled groups are.
    case CodecId::kRvq8:
    case CodecId::kRvq4:
    case CodecId::kRvq8Large:
      return cut + 2.0 * range.norm + 1e-6;
    case CodecId::kRot4:
    case CodecId::kRot3:
    case CodecId::kRot2:
      return cut + range.norm * 1.001 + 1e-15;
  }
  return NAN;
}

}  // namespace varve
