// The search of rvq_search.h: codewords lie across the lanes, so that each score is a sum over the
// channels in order however many lanes there are.
#include "kernels/cpu/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/codec/rvq_search.cc"
// clang-format off
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// clang-format on

#include <algorithm>
#include <limits>
#include <vector>

#include "kernels/codec/rvq_search.h"
#include "proto/base/check.h"

#ifndef VARVE_KERNELS_CODEC_RVQ_SEARCH_SHARED_
#define VARVE_KERNELS_CODEC_RVQ_SEARCH_SHARED_
namespace varve {

inline constexpr size_t kRvqPanel = 32;  // codewords of a panel: what is scored at once
inline constexpr size_t kRvqRows = 4;    // vectors that share the codewords in registers
inline constexpr size_t kRvqBlock = 16;  // vectors that share a panel in the nearest cache

// A codebook as the search reads it: panels of [32 channels, kRvqPanel codewords], and |c|^2 of
// each codeword.
struct RvqPanels {
  std::vector<float> panels;
  std::vector<float> norms;
};

// The best codeword so far at each place of the panels.
struct RvqBest {
  alignas(64) float score[kRvqPanel];
  alignas(64) int32_t panel[kRvqPanel];
};

}  // namespace varve
#endif

HWY_BEFORE_NAMESPACE();
namespace varve::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// rows: [kRvqRows, 32], -2 times the vectors.
HWY_INLINE void ScoreRvqPanel(const float* panel,
                              const float* norms,
                              int32_t number,
                              const float* rows,
                              RvqBest* best) {
  const hn::CappedTag<float, kRvqPanel / 2> d;
  const hn::RebindToSigned<decltype(d)> d32;
  using V = hn::Vec<decltype(d)>;
  constexpr size_t kVectors = 2;
  const size_t lanes = hn::Lanes(d);
  for (size_t place = 0; place < kRvqPanel; place += kVectors * lanes) {
    V sum[kRvqRows][kVectors];
    for (size_t v = 0; v < kVectors; ++v) {
      const V norm = hn::LoadU(d, norms + place + v * lanes);
      for (auto& row : sum) {
        row[v] = norm;
      }
    }
    for (size_t i = 0; i < kRvqGroup; ++i) {
      const V first = hn::LoadU(d, panel + i * kRvqPanel + place);
      const V second = hn::LoadU(d, panel + i * kRvqPanel + place + lanes);
#pragma GCC unroll 4
      for (size_t r = 0; r < kRvqRows; ++r) {
        const V x = hn::Set(d, rows[r * kRvqGroup + i]);
        // Not MulAdd: targets without FMA would score otherwise.
        sum[r][0] = hn::Add(sum[r][0], hn::Mul(x, first));
        sum[r][1] = hn::Add(sum[r][1], hn::Mul(x, second));
      }
    }
    for (size_t r = 0; r < kRvqRows; ++r) {
      for (size_t v = 0; v < kVectors; ++v) {
        float* score = best[r].score + place + v * lanes;
        int32_t* at = best[r].panel + place + v * lanes;
        const V before = hn::LoadU(d, score);
        const auto is_less = hn::Lt(sum[r][v], before);
        hn::StoreU(hn::IfThenElse(is_less, sum[r][v], before), d, score);
        hn::StoreU(
            hn::IfThenElse(hn::RebindMask(d32, is_less), hn::Set(d32, number), hn::LoadU(d32, at)),
            d32,
            at);
      }
    }
  }
}

// The lowest number of those with the least score.
HWY_INLINE uint16_t BestCodeword(const RvqBest& best) {
  const hn::CappedTag<float, kRvqPanel / 2> d;
  const hn::RebindToSigned<decltype(d)> d32;
  auto least = hn::Load(d, best.score);
  for (size_t place = hn::Lanes(d); place < kRvqPanel; place += hn::Lanes(d)) {
    least = hn::Min(least, hn::Load(d, best.score + place));
  }
  least = hn::MinOfLanes(d, least);
  auto lowest = hn::Set(d32, std::numeric_limits<int32_t>::max());
  for (size_t place = 0; place < kRvqPanel; place += hn::Lanes(d)) {
    const auto is_least = hn::RebindMask(d32, hn::Eq(hn::Load(d, best.score + place), least));
    const auto number =
        hn::Add(hn::Mul(hn::Load(d32, best.panel + place), hn::Set(d32, int32_t{kRvqPanel})),
                hn::Iota(d32, static_cast<int32_t>(place)));
    lowest = hn::Min(lowest, hn::IfThenElse(is_least, number, lowest));
  }
  return static_cast<uint16_t>(hn::GetLane(hn::MinOfLanes(d32, lowest)));
}

// rows: [kRvqBlock, 32], -2 times the vectors; best: [kRvqBlock], scratch; nearest: [kRvqBlock].
void FindInRvqBlock(const RvqPanels& codebook,
                    const float* rows,
                    RvqBest* best,
                    uint16_t* nearest) {
  for (size_t r = 0; r < kRvqBlock; ++r) {
    std::fill_n(best[r].score, kRvqPanel, std::numeric_limits<float>::infinity());
    std::fill_n(best[r].panel, kRvqPanel, 0);
  }
  const size_t num_panels = codebook.norms.size() / kRvqPanel;
  for (size_t p = 0; p < num_panels; ++p) {
    for (size_t r = 0; r < kRvqBlock; r += kRvqRows) {
      ScoreRvqPanel(codebook.panels.data() + p * kRvqPanel * kRvqGroup,
                    codebook.norms.data() + p * kRvqPanel,
                    static_cast<int32_t>(p),
                    rows + r * kRvqGroup,
                    best + r);
    }
  }
  for (size_t r = 0; r < kRvqBlock; ++r) {
    nearest[r] = BestCodeword(best[r]);
  }
}

}  // namespace varve::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace varve {

HWY_EXPORT(FindInRvqBlock);

namespace {

RvqPanels MakePanels(const float* codebook, size_t num_entries) {
  RvqPanels made;
  made.panels.resize(num_entries * kRvqGroup);
  made.norms.resize(num_entries);
  for (size_t entry = 0; entry < num_entries; ++entry) {
    const float* codeword = codebook + entry * kRvqGroup;
    float* panel =
        made.panels.data() + entry / kRvqPanel * kRvqPanel * kRvqGroup + entry % kRvqPanel;
    float norm = 0.0F;
    for (size_t i = 0; i < kRvqGroup; ++i) {
      panel[i * kRvqPanel] = codeword[i];
      norm += codeword[i] * codeword[i];
    }
    made.norms[entry] = norm;
  }
  return made;
}

}  // namespace

void FindNearestCodewords(const float* codebook,
                          size_t num_entries,
                          const float* vectors,
                          size_t num_vectors,
                          uint16_t* nearest) {
  VARVE_CHECK(num_entries % kRvqPanel == 0 && num_entries <= 65'536);
  const RvqPanels panels = MakePanels(codebook, num_entries);
  RvqBest best[kRvqBlock];
  for (size_t begin = 0; begin < num_vectors; begin += kRvqBlock) {
    const size_t count = std::min(kRvqBlock, num_vectors - begin);
    alignas(64) float rows[kRvqBlock * kRvqGroup] = {};
    for (size_t i = 0; i < count * kRvqGroup; ++i) {
      rows[i] = -2.0F * vectors[begin * kRvqGroup + i];
    }
    uint16_t of_block[kRvqBlock];
    HWY_DYNAMIC_DISPATCH(FindInRvqBlock)(panels, rows, best, of_block);
    std::copy_n(of_block, count, nearest + begin);
  }
}

}  // namespace varve
#endif  // HWY_ONCE
