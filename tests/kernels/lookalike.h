// Keys, values and queries as models make them, for codecs that live off what those have in common.
#pragma once

#include <cmath>
#include <vector>

#include "kernels/codec/codec.h"
#include "proto/base/rng.h"
#include "tests/kernels/codec_cases.h"

namespace varve {

// Keys as models make them: few directions, a mean, channels of different size, some heavy tails;
// queries that look at some of them.
struct Lookalike {
  CalibrationSample sample;
  Tokens tokens;  // after the sample's, before RoPE
  std::vector<double> q_deviation;
};

inline Lookalike MakeLookalike(uint64_t seed, const RunShape& shape) {
  constexpr size_t kRank = 16;
  constexpr size_t kSampled = 2000;
  Rng rng(seed);
  const size_t width = TokenValues(shape);
  std::vector<float> directions(width * kRank);
  std::vector<float> mean(width);
  for (float& value : directions) {
    value = rng.NextNormal();
  }
  for (float& value : mean) {
    value = 3.0F * rng.NextNormal();
  }
  Lookalike made;
  made.sample = {.num_kv_heads = shape.num_kv_heads,
                 .head_dim = shape.head_dim,
                 .num_tokens = kSampled,
                 .has_rope = true};
  const auto head_dim = static_cast<size_t>(shape.head_dim);
  for (size_t i = 0; i < head_dim; ++i) {
    made.q_deviation.push_back(i % (head_dim / 2) % 4 == 0 ? 2.0 : 0.5);
  }
  for (int32_t head = 0; head < shape.num_kv_heads; ++head) {
    for (size_t row = 0; row < head_dim; ++row) {
      for (size_t column = 0; column < head_dim; ++column) {
        made.sample.q_moment.push_back(row == column ? std::pow(made.q_deviation[row], 2) : 0.0);
      }
    }
  }
  const auto draw = [&](std::vector<float>* k, std::vector<float>* v) {
    for (size_t head = 0; head < width; head += head_dim) {
      float factors[kRank];
      for (size_t r = 0; r < kRank; ++r) {
        factors[r] = rng.NextNormal() * 2.0F / static_cast<float>(1 + r);
      }
      for (size_t i = head; i < head + head_dim; ++i) {
        float x = mean[i] + 0.2F * rng.NextNormal();
        for (size_t r = 0; r < kRank; ++r) {
          x += factors[r] * directions[i * kRank + r];
        }
        x += rng.Below(100) == 0 ? 4.0F * rng.NextNormal() : 0.0F;
        k->push_back(x);
        v->push_back(rng.NextNormal() * (rng.Below(100) == 0 ? 8.0F : 1.0F));
      }
    }
  };
  for (size_t t = 0; t < kSampled; ++t) {
    draw(&made.sample.k, &made.sample.v);
  }
  for (int32_t t = 0; t < shape.token_capacity; ++t) {
    draw(&made.tokens.k, &made.tokens.v);
  }
  return made;
}

// Mean square of the error of q.k, over queries like the sample's.
inline double ScoreError(const Codec& codec, const RunShape& shape, const Lookalike& made) {
  CodecTables tables;
  RunContext context;
  if (codec.needs_tables()) {
    tables = codec.Calibrate(made.sample);
    context.tables = &tables;
  }
  Tokens weighted = made.tokens;
  std::vector<std::byte> bytes(codec.EncodedBytes(shape, context.tables));
  codec.Encode(shape,
               0,
               shape.token_capacity,
               made.tokens.k.data(),
               made.tokens.v.data(),
               TokenValues(shape),
               context,
               bytes);
  codec.Decode(
      shape, 0, shape.token_capacity, bytes, context, weighted.k.data(), weighted.v.data());
  double sum = 0.0;
  for (size_t i = 0; i < weighted.k.size(); ++i) {
    const double difference = static_cast<double>(weighted.k[i]) - made.tokens.k[i];
    sum += std::pow(difference * made.q_deviation[i % shape.head_dim], 2);
  }
  return sum / shape.token_capacity / shape.num_kv_heads;
}

}  // namespace varve
