// What `varve bench scale` attends over: keys and values of a stream of tokens of any length, made
// from a seed block by block, and queries for it.
//
// Keys are normal numbers. Those of 1,024 neighbouring tokens, a topic, have a part in common, so
// that pages differ in what they get of a query's attention, as those of a model do. In every
// block of 64K tokens each kv head has one needle: a key that is parallel to the query that looks
// for it. Of the q heads of a kv head the first looks for a needle (its score is such that it has a
// fair part of the mass among ten million tokens), the second for it and much else, the others for
// nothing: their attention is spread.
//
// Threads: everything is const.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace varve::cli {

struct ScaleShape {
  int32_t num_qo_heads = 32;
  int32_t num_kv_heads = 8;
  int32_t head_dim = 128;
};

class ScaleStream {
 public:
  static constexpr int64_t kTopicTokens = 1024;
  static constexpr int64_t kBlockTokens = int64_t{64} << 10;

  ScaleStream(const ScaleShape& shape, uint64_t seed);

  // Floats of a token's keys, and of its values.
  size_t width() const { return width_; }

  // Keys and values of the topic's tokens, each [kTopicTokens, num_kv_heads, head_dim].
  void MakeTopic(int64_t topic, float* k, float* v) const;

  // Queries of a step over the first `tokens` tokens, [num_qo_heads, head_dim]. Steps look for
  // needles of different blocks. REQUIRES: tokens >= kBlockTokens.
  std::vector<float> Queries(int64_t tokens, uint64_t step) const;

  // How many of the needles that the step's queries look for are what attention returned: the
  // output of their heads points the way of the needle's value. o: [num_qo_heads, head_dim].
  int64_t NumFound(int64_t tokens, uint64_t step, const float* o) const;

 private:
  int64_t BlockOf(int64_t tokens, uint64_t step, size_t kv_head) const;
  // [head_dim], normal. which: 0 the needle's key, 1 its value.
  std::vector<float> Needle(int64_t block, size_t kv_head, uint64_t which) const;
  int64_t NeedlePosition(int64_t block, size_t kv_head) const;

  const ScaleShape shape_;
  const uint64_t seed_;
  const size_t width_;
  std::vector<float> normals_;  // from which everything ordinary is cut
};

}  // namespace varve::cli
