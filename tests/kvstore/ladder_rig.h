// What tests of contexts with a ladder set up, and how they look at them.
#pragma once

#include <map>
#include <utility>

#include "tests/kvstore/store_rig.h"

namespace varve {

inline KvPolicy Ladder(const std::string& warm = "int4", const std::string& cold = "int2") {
  KvPolicy policy = SmallPolicy();
  policy.warm_codec = warm;
  policy.cold_codec = cold;
  return policy;
}

class LadderRig : public StoreRig {
 protected:
  static constexpr uint64_t kContext = 1;
  static constexpr SequenceId kIngest{10};
  static constexpr SequenceId kAsker{20};

  // Heads of 32: pages of 16 tokens in int8 take about 2.3 KB, in int4 1.4, in int2 0.9.
  LadderRig() { geometry_ = MakeGeometry(2, 32, {0, 0}); }

  void OpenAsker(int64_t base_tokens) {
    ASSERT_OK(group_->OpenSequence(kAsker, Behind(kContext, base_tokens)));
    ASSERT_OK(group_->Step(kAsker, kAsker.value, 1));
  }
  // Every position of the context is there once, near its number; returns how many are in a codec.
  std::map<CodecId, int64_t> CheckContext(SequenceId reader, int64_t base_tokens) {
    std::map<CodecId, int64_t> tokens;
    for (int32_t layer = 0; layer < 2; ++layer) {
      const auto seen = ReadAll(reader, layer);
      EXPECT_OK(seen);
      if (!seen.has_value()) {
        return tokens;
      }
      EXPECT_GE(std::ssize(*seen), base_tokens);
      for (int64_t position = 0; position < base_tokens; ++position) {
        const SeenToken& token = (*seen)[static_cast<size_t>(position)];
        EXPECT_EQ(token.position, position);
        ++tokens[token.codec];
        for (size_t c = 0; c < token.k.size(); ++c) {
          const auto channel = static_cast<int32_t>(c);
          EXPECT_NEAR(
              token.k[c], KeyAt(kContext, layer, position, channel), CodecSlack(token.codec));
          EXPECT_NEAR(
              token.v[c], ValueAt(kContext, layer, position, channel), CodecSlack(token.codec));
        }
      }
    }
    return tokens;
  }
  ContextUsage Usage() {
    ContextUsage sum;
    for (int rank = 0; rank < group_->num_workers(); ++rank) {
      const ContextUsage one = group_->store(rank).GetContextUsage(ContextId{kContext}).value();
      sum.disk_bytes += one.disk_bytes;
      sum.num_pages += one.num_pages;
      for (size_t rung = 0; rung < kNumRungs; ++rung) {
        sum.rungs[rung].pages += one.rungs[rung].pages;
        sum.rungs[rung].bytes += one.rungs[rung].bytes;
      }
    }
    return sum;
  }
  uint64_t Failures(DemotionFailure reason) {
    return group_->store(0).Stats().demotion_failures[static_cast<size_t>(reason)];
  }
};

}  // namespace varve
