// Pages for the tests of token policies: random keys and values, and whatever a test plants.
#pragma once

#include <algorithm>
#include <cmath>
#include <set>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "kvstore/tokens/token_policy.h"
#include "proto/base/rng.h"

namespace varve {

struct TestPage {
  int32_t num_tokens = 32;
  int32_t num_kv_heads = 2;
  int32_t num_qo_heads = 4;
  int32_t head_dim = 8;
  int32_t layer = 2;
  int32_t num_layers = 4;
  std::vector<float> k;     // [num_tokens, num_kv_heads, head_dim]
  std::vector<float> v;     // [num_tokens, num_kv_heads, head_dim]
  std::vector<float> mass;  // [num_qo_heads, num_tokens]
  int32_t num_queries = 32;
  std::vector<float> query_norms = std::vector<float>(4, 3.0F);  // [num_qo_heads]
  const Codec* codec = FindCodec(CodecId::kInt8).value();

  explicit TestPage(uint64_t seed, int32_t tokens = 32, int32_t dim = 8)
      : num_tokens(tokens), head_dim(dim) {
    Rng rng(seed);
    const auto floats = static_cast<size_t>(num_tokens * num_kv_heads * head_dim);
    for (size_t i = 0; i < floats; ++i) {
      k.push_back(rng.NextNormal());
      v.push_back(rng.NextNormal());
    }
    for (int32_t i = 0; i < num_qo_heads * num_tokens; ++i) {
      mass.push_back(static_cast<float>(rng.NextDouble()));
    }
  }

  float* Key(int32_t token, int32_t head) {
    return k.data() + static_cast<size_t>((token * num_kv_heads + head) * head_dim);
  }
  float* Value(int32_t token, int32_t head) {
    return v.data() + static_cast<size_t>((token * num_kv_heads + head) * head_dim);
  }
  float& Mass(int32_t qo_head, int32_t token) {
    return mass[static_cast<size_t>(qo_head * num_tokens + token)];
  }
  PageTokens Tokens() const {
    return {num_tokens,
            num_kv_heads,
            num_qo_heads,
            head_dim,
            0.35F,
            k.data(),
            v.data(),
            mass,
            num_queries,
            query_norms};
  }
  TokenBudget Budget(double keep) const {
    return {keep, layer, num_layers, num_tokens, codec, num_kv_heads, head_dim};
  }

  KeptTokens Choose(const TokenPolicy& policy, double keep) const {
    KeptTokens kept;
    policy.Choose(Tokens(), Budget(keep), kept);
    return kept;
  }
};

// What one kv head keeps, of a policy without further classes.
inline std::set<int32_t> KeptOf(const KeptTokens& kept, int32_t head) {
  const auto* first = kept.indices.data() + static_cast<ptrdiff_t>(head) * kept.num_kept;
  return {first, first + kept.num_kept};
}

// What one kv head has in a class, of a policy with further classes.
inline std::set<int32_t> ClassOf(const TestPage& page,
                                 const KeptTokens& kept,
                                 size_t token_class,
                                 int32_t head) {
  ptrdiff_t before = 0;
  for (size_t c = 0; c < token_class; ++c) {
    before += kept.class_sizes[c];
  }
  const int32_t size = kept.class_sizes[token_class];
  const auto* first =
      kept.indices.data() + before * page.num_kv_heads + static_cast<ptrdiff_t>(head) * size;
  return {first, first + size};
}

inline const TokenPolicy& PolicyNamed(const std::string& name) {
  KvPolicy policy;
  policy.tokens = name;
  policy.keep = 0.5;
  return **FindTokenPolicy(policy);
}

}  // namespace varve
