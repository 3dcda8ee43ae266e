#include "ops/cli/bench/scale_stream.h"

#include <cmath>

#include <gtest/gtest.h>

namespace varve::cli {
namespace {

constexpr ScaleShape kShape{.num_qo_heads = 4, .num_kv_heads = 2, .head_dim = 64};
constexpr int64_t kTokens = 2 * ScaleStream::kBlockTokens;

struct Stream {
  std::vector<float> k;
  std::vector<float> v;
};

Stream Make(const ScaleStream& stream, int64_t tokens) {
  Stream all;
  const size_t floats = stream.width() * ScaleStream::kTopicTokens;
  for (int64_t topic = 0; topic < tokens / ScaleStream::kTopicTokens; ++topic) {
    all.k.resize(all.k.size() + floats);
    all.v.resize(all.v.size() + floats);
    stream.MakeTopic(
        topic, all.k.data() + all.k.size() - floats, all.v.data() + all.v.size() - floats);
  }
  return all;
}

// Attention of the query head over all of it, in double.
std::vector<float> Attend(const Stream& all, const std::vector<float>& q, size_t head) {
  const size_t width = 128;
  const size_t kv_head = head / 2;
  std::vector<double> sums(64, 0.0);
  double total = 0;
  for (size_t at = kv_head * 64; at < all.k.size(); at += width) {
    double score = 0;
    for (size_t i = 0; i < 64; ++i) {
      score += static_cast<double>(all.k[at + i]) * q[head * 64 + i] / 8.0;
    }
    const double weight = std::exp(score);
    total += weight;
    for (size_t i = 0; i < 64; ++i) {
      sums[i] += weight * all.v[at + i];
    }
  }
  std::vector<float> o;
  for (const double sum : sums) {
    o.push_back(static_cast<float>(sum / total));
  }
  return o;
}

TEST(ScaleStream, IsTheSameForTheSameSeedWhereverItBegins) {
  const ScaleStream one(kShape, 3);
  const ScaleStream other(kShape, 3);
  const size_t floats = one.width() * ScaleStream::kTopicTokens;
  Stream a{std::vector<float>(floats), std::vector<float>(floats)};
  Stream b = a;
  Stream c = a;
  one.MakeTopic(70, a.k.data(), a.v.data());
  other.MakeTopic(2, b.k.data(), b.v.data());
  other.MakeTopic(70, b.k.data(), b.v.data());
  EXPECT_EQ(a.k, b.k);
  EXPECT_EQ(a.v, b.v);
  EXPECT_EQ(one.Queries(kTokens, 5), other.Queries(kTokens, 5));
  ScaleStream(kShape, 4).MakeTopic(70, c.k.data(), c.v.data());
  EXPECT_NE(a.k, c.k);
}

TEST(ScaleStream, AttentionFindsTheNeedlesOfEveryStepAndOnlyThem) {
  const ScaleStream stream(kShape, 1);
  const Stream all = Make(stream, kTokens);
  for (uint64_t step = 0; step < 4; ++step) {
    const std::vector<float> q = stream.Queries(kTokens, step);
    std::vector<float> o;
    for (size_t head = 0; head < 4; ++head) {
      const std::vector<float> one = Attend(all, q, head);
      o.insert(o.end(), one.begin(), one.end());
    }
    EXPECT_EQ(stream.NumFound(kTokens, step, o.data()), 2) << step;
    // What another step's needles are looked for with finds others.
    EXPECT_NE(q, stream.Queries(kTokens, step + 1));
    std::fill(o.begin(), o.begin() + 64, 0.0F);
    EXPECT_EQ(stream.NumFound(kTokens, step, o.data()), 1) << step;
  }
}

}  // namespace
}  // namespace varve::cli
