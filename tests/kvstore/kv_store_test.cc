#include "kvstore/kv_store.h"

#include <algorithm>
#include <cmath>

#include "kernels/codec/codec.h"
#include "tests/kvstore/kv_support.h"
#include "tests/support/result_matchers.h"

namespace varve {
namespace {

KvPolicy SmallPolicy(std::string codec = "bf16") {
  KvPolicy policy;
  policy.codec = std::move(codec);
  policy.page_tokens = 16;
  policy.sink_tokens = 4;
  policy.recent_window_tokens = 16;
  return policy;
}

OpenSequenceOptions Private(const KvPolicy& policy) {
  OpenSequenceOptions options;
  options.policy = policy;
  return options;
}

// Every position in [first, end) is seen once, with its own numbers; lossy codecs may be off by
// `tolerance`.
void ExpectTokens(const std::vector<SeenToken>& seen,
                  uint64_t salt,
                  int32_t layer,
                  int64_t first,
                  int64_t end,
                  float tolerance = 0) {
  ASSERT_EQ(static_cast<int64_t>(seen.size()), end - first);
  for (size_t i = 0; i < seen.size(); ++i) {
    const int64_t position = first + static_cast<int64_t>(i);
    ASSERT_EQ(seen[i].position, position);
    const float slack = seen[i].codec == CodecId::kInt8 ? tolerance : 0;
    for (size_t c = 0; c < seen[i].k.size(); ++c) {
      ASSERT_NEAR(seen[i].k[c], KeyAt(salt, layer, position, static_cast<int32_t>(c)), slack)
          << position;
      ASSERT_NEAR(seen[i].v[c], ValueAt(salt, layer, position, static_cast<int32_t>(c)), slack)
          << position;
    }
  }
}

TEST(KvStoreTest, ReadsBackWhatWasAppendedOverAnyNumberOfWorkers) {
  for (const int workers : {1, 2, 3, 8}) {
    StoreGroup group(MakeGeometry(2, 8, {0, 0}), workers, 0, nullptr);
    const SequenceId sequence{7};
    ASSERT_OK(group.OpenSequence(sequence, Private(SmallPolicy("int8"))));
    for (const int32_t tokens : {1, 15, 40, 1, 33, 64}) {
      ASSERT_OK(group.Step(sequence, 5, tokens));
    }
    EXPECT_EQ(group.Length(sequence), 154);
    for (int32_t layer = 0; layer < 2; ++layer) {
      auto seen = group.Read(sequence, layer, 153, 153);
      ASSERT_OK(seen);
      ExpectTokens(*seen, 5, layer, 0, 154, 0.02F);
    }
    ASSERT_OK(group.CloseSequence(sequence));
    EXPECT_EQ(group.Length(sequence), -1);
  }
}

}  // namespace
}  // namespace varve
