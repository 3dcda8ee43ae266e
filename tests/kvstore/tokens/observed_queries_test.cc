#include "kvstore/tokens/observed_queries.h"

#include <cmath>

#include <gtest/gtest.h>

#include "proto/base/rng.h"

namespace varve {
namespace {

KvGeometry Geometry(float softcap = 0) {
  return {.num_kv_heads = 2,
          .head_dim = 8,
          .layer_windows = {0},
          .num_qo_heads = 4,
          .sm_scale = 0.4F,
          .attn_softcap = softcap};
}

// Numbers that bf16 holds exactly, so that a reference needs no rounding of its own.
std::vector<float> Numbers(uint64_t seed, size_t count) {
  Rng rng(seed);
  std::vector<float> numbers(count);
  for (float& number : numbers) {
    number = static_cast<float>(static_cast<int>(rng.Below(64)) - 32) / 16;
  }
  return numbers;
}

// The definition, in double.
std::vector<double> ReferenceMass(const KvGeometry& geometry,
                                  const std::vector<float>& q,
                                  int64_t first_query,
                                  int64_t end_query,
                                  const ObservedKeys& keys) {
  std::vector<double> mass(static_cast<size_t>(geometry.num_qo_heads * keys.num_tokens));
  for (int64_t position = first_query; position < end_query; ++position) {
    for (int32_t head = 0; head < geometry.num_qo_heads; ++head) {
      std::vector<double> weights(static_cast<size_t>(keys.num_tokens));
      double sum = 0;
      for (int32_t t = 0; t < keys.num_tokens; ++t) {
        const int64_t at = keys.first_position + t;
        if (at > position || (keys.window > 0 && at <= position - keys.window)) {
          continue;
        }
        double score = 0;
        for (int32_t d = 0; d < geometry.head_dim; ++d) {
          score +=
              static_cast<double>(q[static_cast<size_t>(
                  ((position - first_query) * geometry.num_qo_heads + head) * geometry.head_dim +
                  d)]) *
              keys.k[(t * geometry.num_kv_heads + head / 2) * geometry.head_dim + d];
        }
        score *= geometry.sm_scale;
        const double cap = geometry.attn_softcap;
        weights[static_cast<size_t>(t)] = std::exp(cap > 0 ? cap * std::tanh(score / cap) : score);
        sum += weights[static_cast<size_t>(t)];
      }
      for (int32_t t = 0; sum > 0 && t < keys.num_tokens; ++t) {
        mass[static_cast<size_t>(head * keys.num_tokens + t)] +=
            weights[static_cast<size_t>(t)] / sum;
      }
    }
  }
  return mass;
}

void ExpectMass(const KvGeometry& geometry,
                int64_t first_query,
                int64_t end_query,
                int64_t window) {
  const size_t row = static_cast<size_t>(geometry.num_qo_heads * geometry.head_dim);
  const std::vector<float> k = Numbers(1, 40 * 2 * 8);
  const std::vector<float> q = Numbers(2, static_cast<size_t>(end_query - first_query) * row);
  const ObservedKeys keys{.first_position = 100, .num_tokens = 40, .window = window, .k = k.data()};
  ObservedQueries queries(first_query, end_query, row);
  // In two steps that do not fit the wanted range, with a gap between tokens.
  const size_t stride = row + 3;
  std::vector<float> spaced(static_cast<size_t>(end_query - first_query) * stride);
  for (size_t i = 0; i < q.size(); ++i) {
    spaced[i / row * stride + i % row] = q[i];
  }
  const auto half = static_cast<int32_t>((end_query - first_query) / 2);
  queries.Observe(first_query, half, spaced.data(), stride);
  queries.Observe(first_query + half,
                  static_cast<int32_t>(end_query - first_query) - half,
                  spaced.data() + static_cast<size_t>(half) * stride,
                  stride);
  MassMeter meter(geometry);
  std::vector<float> mass(static_cast<size_t>(geometry.num_qo_heads * 40), 99.0F);
  meter.Measure(queries, keys, mass);
  const std::vector<double> want = ReferenceMass(geometry, q, first_query, end_query, keys);
  for (size_t i = 0; i < mass.size(); ++i) {
    ASSERT_NEAR(mass[i], want[i], 1e-4) << i;
  }
}

TEST(ObservedQueries, MassIsTheSoftmaxOverWhatEachQuerySeesOfThePage) {
  ExpectMass(Geometry(), 120, 190, 0);  // causal inside the page, more than one block of queries
  ExpectMass(Geometry(5.0F), 130, 150, 0);
  ExpectMass(Geometry(), 130, 190, 25);  // the last queries no longer see the page at all
}

TEST(ObservedQueries, KeepsTheWantedRangeOnlyAndCountsFromTheFirstThatCame) {
  ObservedQueries queries(10, 14, 2);
  const float q[] = {1, 1, 2, 2, 3, 3, 4, 4};
  queries.Observe(4, 4, q, 2);
  EXPECT_EQ(queries.first_seen(), queries.end_seen());
  queries.Observe(11, 2, q, 2);  // 10 came before a restart
  EXPECT_EQ(queries.first_seen(), 11);
  EXPECT_EQ(queries.end_seen(), 13);
  queries.Observe(13, 4, q, 2);
  EXPECT_EQ(queries.end_seen(), 14);
  EXPECT_EQ(queries.Row(12)[0], 0x4000);  // 2.0
  EXPECT_EQ(queries.Row(13)[0], 0x3f80);  // 1.0
}

TEST(ObservedQueries, AStepThatIsRepeatedReplacesItsQueries) {
  ObservedQueries queries(10, 14, 1);
  const float first[] = {1, 2};
  const float again[] = {4};
  queries.Observe(10, 2, first, 1);
  queries.Observe(11, 1, again, 1);
  EXPECT_EQ(queries.Row(11)[0], 0x4080);  // 4.0
  EXPECT_EQ(queries.end_seen(), 12);
}

TEST(ObservedQueries, NothingObservedIsNoMass) {
  MassMeter meter(Geometry());
  const std::vector<float> k = Numbers(1, 40 * 2 * 8);
  std::vector<float> mass(160, 99.0F);
  meter.Measure(ObservedQueries(), {.num_tokens = 40, .k = k.data()}, mass);
  EXPECT_EQ(mass, std::vector<float>(160));
}

TEST(QueryNorms, AreThoseThatTheShareDoesNotExceed) {
  const KvGeometry geometry = Geometry();
  constexpr size_t kRow = 4 * 8;
  ObservedQueries queries(100, 111, kRow);
  std::vector<float> q(11 * kRow);
  for (size_t i = 0; i < 11; ++i) {
    for (size_t head = 0; head < 4; ++head) {
      // Norms 0 to 10 in another order, times 1, 2, 3, 4 for the heads.
      q[i * kRow + head * 8 + i % 8] = static_cast<float>((i * 7 % 11) * (head + 1)) * -1.0F;
    }
  }
  queries.Observe(100, 11, q.data(), kRow);
  std::vector<float> norms(4);
  QueryNorms(queries, geometry, 0.9, norms);
  EXPECT_EQ(norms, (std::vector<float>{9, 18, 27, 36}));
  QueryNorms(queries, geometry, 0, norms);
  EXPECT_EQ(norms, std::vector<float>(4));
  QueryNorms(queries, geometry, 1, norms);
  EXPECT_EQ(norms, (std::vector<float>{10, 20, 30, 40}));
  QueryNorms(ObservedQueries(), geometry, 0.9, norms);
  EXPECT_EQ(norms, std::vector<float>(4));
}

TEST(QueryNorms, WhatIsNotANumberIsLongest) {
  const KvGeometry geometry{
      .num_kv_heads = 1, .head_dim = 2, .layer_windows = {0}, .num_qo_heads = 1};
  ObservedQueries queries(0, 3, 2);
  const float q[] = {3, 4, NAN, 1, 0, 1};
  queries.Observe(0, 3, q, 2);
  std::vector<float> norms(1);
  QueryNorms(queries, geometry, 0.5, norms);
  EXPECT_EQ(norms[0], 5.0F);
  QueryNorms(queries, geometry, 1, norms);
  EXPECT_EQ(norms[0], INFINITY);
}

}  // namespace
}  // namespace varve
