// Contexts whose requests choose pages, and what they should choose, worked out the slow way.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <set>

#include "kernels/dense.h"
#include "kvstore/page_grid.h"
#include "proto/base/rng.h"
#include "tests/kvstore/store_rig.h"

namespace varve {

inline float RoundToBf16(float value) {
  uint16_t bits;
  NarrowToBf16(&value, 1, &bits);
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}

class PageSelectionTest : public StoreRig {
 protected:
  static constexpr SequenceId kIngest{1001};
  static constexpr SequenceId kAsker{1002};
  static constexpr uint64_t kContext = 7;
  static constexpr int32_t kGlobal = 0;  // layers
  static constexpr int32_t kWindow = 1;
  static constexpr int32_t kKvHeads = 2;
  static constexpr int32_t kDim = 8;
  static constexpr int32_t kGroup = 2;
  static constexpr size_t kQueryFloats = size_t{kKvHeads} * kGroup * kDim;

  PageSelectionTest() {
    geometry_.layer_windows = {0, 40, 0};
    geometry_.num_qo_heads = kKvHeads * kGroup;
  }

  // Pages of 16 tokens have one cluster: its centroid is the mean of the keys, whatever k-means
  // does, and with exact keys a test can say which page is chosen.
  static KvPolicy Selective(double keep, std::string codec = "f32") {
    KvPolicy policy = SmallPolicy(std::move(codec));
    policy.tokens = "clusterkv";
    policy.keep = keep;
    return policy;
  }
  static OpenSequenceOptions Asking(int64_t base_tokens, double keep) {
    OpenSequenceOptions options = Behind(kContext, base_tokens);
    options.policy = Selective(keep);
    return options;
  }
  std::vector<float> Query(uint64_t seed) const {
    Rng rng(seed);
    std::vector<float> q(kQueryFloats);
    for (float& x : q) {
      x = rng.NextNormal();
    }
    return q;
  }

  // The first positions of what the stores read for the newest token of a sequence.
  Result<std::set<int64_t>> ReadPages(SequenceId sequence, int32_t layer, const float* q) {
    std::set<int64_t> pages;
    const int64_t last = group_->Length(sequence) - 1;
    for (int rank = 0; rank < group_->num_workers(); ++rank) {
      auto cursor = group_->store(rank).Read(sequence, layer, last, last, q, kQueryFloats);
      while (true) {
        VARVE_TRY(const auto views, cursor->Next());
        if (views.empty()) {
          break;
        }
        for (const KvView& view : views) {
          pages.insert(view.first_position / 16);
        }
      }
    }
    return pages;
  }
  float PageScore(int64_t page, int32_t layer, int32_t kv_head, const std::vector<float>& q) {
    float score = -1e9F;
    for (int32_t g = 0; g < kGroup; ++g) {
      float product = 0;
      for (int32_t d = 0; d < kDim; ++d) {
        float mean = 0;
        for (int64_t t = 16 * page; t < 16 * (page + 1); ++t) {
          mean += KeyAt(kContext, layer, t, kv_head * kDim + d) / 16;
        }
        product += RoundToBf16(mean) * q[static_cast<size_t>((kv_head * kGroup + g) * kDim + d)];
      }
      score = std::max(score, product);
    }
    return score;
  }
  // What a worker chooses of the pages [1, end), said the slow way.
  std::set<int64_t> ExpectedOf(int rank,
                               int64_t end,
                               double keep,
                               int32_t layer,
                               const std::vector<float>& q) {
    const PageGrid grid(Selective(keep), {rank, group_->num_workers()}, kContext);
    std::vector<int64_t> left;
    for (int64_t page = 1; page < end; ++page) {
      if (grid.Owns(page)) {
        left.push_back(page);
      }
    }
    const auto count = static_cast<size_t>(std::ceil(keep * static_cast<double>(left.size())));
    std::set<int64_t> chosen;
    for (int32_t turn = 0; chosen.size() < count; ++turn) {
      const auto best = std::max_element(left.begin(), left.end(), [&](int64_t a, int64_t b) {
        return PageScore(a, layer, turn % kKvHeads, q) < PageScore(b, layer, turn % kKvHeads, q);
      });
      chosen.insert(*best);
      left.erase(best);
    }
    return chosen;
  }
  // The page with the sinks and everything from `end` on is read by all means.
  void ExpectChoice(int64_t end, double keep, int32_t layer, uint64_t seed) {
    const std::vector<float> q = Query(seed);
    std::set<int64_t> want = {0};
    for (int rank = 0; rank < group_->num_workers(); ++rank) {
      want.merge(ExpectedOf(rank, end, keep, layer, q));
    }
    for (int64_t page = end; page * 16 < group_->Length(kAsker); ++page) {
      want.insert(page);
    }
    const auto read = ReadPages(kAsker, layer, q.data());
    ASSERT_OK(read);
    EXPECT_EQ(*read, want) << "query " << seed;
  }
  void OpenAsker(int64_t base_tokens, double keep, int32_t own_tokens = 1) {
    ASSERT_OK(group_->OpenSequence(kAsker, Asking(base_tokens, keep)));
    ASSERT_OK(group_->Step(kAsker, 5, own_tokens));
  }
};

}  // namespace varve
