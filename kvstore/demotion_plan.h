// Which pages go down a rung, and how far: pure, from what is remembered of every page.
//
// All pages of contexts with a ladder are ranked by importance over size and age. The best that fit
// the hot budget are hot, the next that fit the warm budget are warm, the rest are cold; a page
// never goes up, and takes no room on a rung above its own. Contexts that fit are therefore never
// degraded, also not after a restart, when nothing is in memory yet. Pages that hold sinks and
// pages of pinned contexts always come first.
//
// Hysteresis: nothing happens as long as every page stands on the rung that it has at the full
// budgets (the high watermark); when one does not, all go that must so that kLowWatermark of the
// budgets is enough.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "kvstore/page_ladder.h"
#include "kvstore/resolved_policy.h"

namespace varve {

// A context as the plan sees it.
struct LadderContext {
  const PageLadder* ladder = nullptr;
  const ResolvedPolicy* policy = nullptr;
  int64_t num_pages = 0;       // of each layer that may go down: the committed ones
  int64_t num_sink_pages = 0;  // of these, the first, which never do
  bool is_pinned = false;
  double age = 1.0;  // >= 1; grows while nobody reads the context
  // Bytes of a page of all tokens in the codec of each rung: what sizes are estimated by.
  std::array<uint64_t, kNumRungs> page_bytes{};
};

struct RungBudgets {
  uint64_t hot = UINT64_MAX;   // bytes of hot pages and what they cost beside their records
  uint64_t warm = UINT64_MAX;  // likewise; 0: there is no tier between hot and cold
  uint64_t excess = 0;         // bytes that records have to shrink by, all rungs together
};

struct Demotion {
  size_t context = 0;  // of the contexts given
  int32_t layer = 0;
  int64_t index = 0;       // PageLadder's
  Rung rung = Rung::kHot;  // to which it goes
};

inline constexpr double kLowWatermark = 0.9;

// Bytes of memory that PlanDemotions works with.
uint64_t PlanBytes(std::span<const LadderContext> contexts);
// The least important first, at most num_max, those of a context together.
std::vector<Demotion> PlanDemotions(std::span<const LadderContext> contexts,
                                    const RungBudgets& budgets,
                                    size_t num_max);

}  // namespace varve
