// What the tests of pca and pca10 share: tokens whose heads have something in common.
#pragma once

#include <cmath>
#include <span>
#include <vector>

#include "kernels/codec/pca_block.h"
#include "tests/kernels/codec_cases.h"

namespace varve {

inline constexpr const char* kPcaNames[] = {"pca", "pca10"};

inline const Codec& NamedCodec(const char* name) {
  return *FindCodec(name).value();
}

// Tokens of which every channel is a mix of a few factors that all heads share, and of noise.
struct Mixed {
  CalibrationSample sample;
  Tokens tokens;  // further ones
};

inline Mixed MakeMixed(const RunShape& shape, size_t num_factors, float noise, uint64_t seed) {
  constexpr size_t kSampled = 1500;
  Rng rng(seed);
  const size_t width = TokenValues(shape);
  std::vector<float> mix(2 * width * num_factors);
  for (float& value : mix) {
    value = rng.NextNormal();
  }
  Mixed made;
  made.sample = {
      .num_kv_heads = shape.num_kv_heads, .head_dim = shape.head_dim, .num_tokens = kSampled};
  for (int32_t head = 0; head < shape.num_kv_heads; ++head) {
    for (int32_t i = 0; i < shape.head_dim * shape.head_dim; ++i) {
      made.sample.q_moment.push_back(i % (shape.head_dim + 1) == 0 ? 1.0 : 0.0);
    }
  }
  const auto draw = [&](std::vector<float>* x, const float* directions) {
    std::vector<float> factors(num_factors);
    for (size_t f = 0; f < num_factors; ++f) {
      factors[f] = rng.NextNormal() * 2.0F / static_cast<float>(1 + f);
    }
    for (size_t i = 0; i < width; ++i) {
      float value = 1.0F + noise * rng.NextNormal();
      for (size_t f = 0; f < num_factors; ++f) {
        value += factors[f] * directions[i * num_factors + f];
      }
      x->push_back(value);
    }
  };
  for (size_t t = 0; t < kSampled; ++t) {
    draw(&made.sample.k, mix.data());
    draw(&made.sample.v, mix.data() + width * num_factors);
  }
  for (int32_t t = 0; t < shape.token_capacity; ++t) {
    draw(&made.tokens.k, mix.data());
    draw(&made.tokens.v, mix.data() + width * num_factors);
  }
  return made;
}

inline std::vector<std::byte> EncodeWith(const Codec& codec,
                                         const RunShape& shape,
                                         int32_t num_tokens,
                                         const Tokens& tokens,
                                         const RunContext& context) {
  std::vector<std::byte> bytes(codec.EncodedBytes(shape), std::byte{0xee});
  codec.Encode(
      shape, 0, num_tokens, tokens.k.data(), tokens.v.data(), TokenValues(shape), context, bytes);
  return bytes;
}

inline Tokens DecodeWith(const Codec& codec,
                         const RunShape& shape,
                         std::span<const std::byte> bytes,
                         const RunContext& context) {
  Tokens tokens;
  tokens.k.resize(TokenValues(shape) * shape.token_capacity);
  tokens.v.resize(tokens.k.size());
  codec.Decode(shape, 0, shape.token_capacity, bytes, context, tokens.k.data(), tokens.v.data());
  return tokens;
}

inline double MeanSquare(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0.0;
  for (size_t i = 0; i < a.size(); ++i) {
    sum += std::pow(static_cast<double>(a[i]) - b[i], 2);
  }
  return sum / static_cast<double>(a.size());
}

}  // namespace varve
