#include "kvstore/demotion_plan.h"

#include <algorithm>
#include <limits>

namespace varve {
namespace {

constexpr float kAlwaysHot = std::numeric_limits<float>::infinity();

struct RankedPage {
  float score = 0.0F;
  uint32_t context = 0;
  int32_t layer = 0;
  uint32_t index = 0;
};

// What is left of a budget on the way down the ranks: once a page does not fit, no later one does.
struct Room {
  double left = 0.0;

  bool Takes(double bytes) {
    left = bytes <= left ? left - bytes : -1.0;
    return left >= 0.0;
  }
};

class Planner {
 public:
  Planner(std::span<const LadderContext> contexts, const RungBudgets& budgets)
      : contexts_(contexts), budgets_(budgets) {
    Rank();
  }

  std::vector<Demotion> Plan(size_t num_max) {
    const bool is_over = HasWork(1.0);
    std::vector<Demotion> plan;
    if (!is_over && budgets_.excess == 0) {
      return plan;
    }
    std::vector<Rung> targets;
    Walk(is_over ? kLowWatermark : 1.0, [&](const RankedPage& /*page*/, Rung target) {
      targets.push_back(target);
      return true;
    });
    auto excess = static_cast<double>(budgets_.excess);
    for (size_t i = ranked_.size(); i-- > 0 && plan.size() < num_max;) {
      const RankedPage& page = ranked_[i];
      const bool to_the_end = excess > 0.0 && page.score != kAlwaysHot;
      const Rung target =
          contexts_[page.context].policy->EncodedAs(to_the_end ? Rung::kCold : targets[i]);
      if (GoesDown(page, target)) {
        excess -= static_cast<double>(PageOf(page).bytes) - BytesOn(page, target);
        plan.push_back({page.context, page.layer, page.index, target});
      }
    }
    std::stable_sort(plan.begin(), plan.end(), [](const Demotion& a, const Demotion& b) {
      return a.context < b.context;
    });
    return plan;
  }

 private:
  const LadderPage& PageOf(const RankedPage& page) const {
    return contexts_[page.context].ladder->page(page.layer, page.index);
  }
  double BytesOn(const RankedPage& page, Rung rung) const {
    const LadderPage& now = PageOf(page);
    const auto& sizes = contexts_[page.context].page_bytes;
    return rung <= now.rung ? static_cast<double>(now.bytes)
                            : static_cast<double>(now.bytes) *
                                  static_cast<double>(sizes[static_cast<size_t>(rung)]) /
                                  static_cast<double>(sizes[static_cast<size_t>(now.rung)]);
  }
  bool GoesDown(const RankedPage& page, Rung target) const {
    const LadderPage& now = PageOf(page);
    return !now.is_last && now.rung < target;
  }

  void Rank() {
    for (size_t c = 0; c < contexts_.size(); ++c) {
      const LadderContext& context = contexts_[c];
      for (int32_t layer = 0; layer < context.ladder->num_layers(); ++layer) {
        const int64_t pages = std::min(context.num_pages, context.ladder->num_pages(layer));
        for (int64_t index = 0; index < pages; ++index) {
          const bool stays = context.is_pinned || index < context.num_sink_pages;
          const double worth = context.ladder->Importance(layer, index) /
                               (static_cast<double>(context.page_bytes[0]) * context.age);
          ranked_.push_back({stays ? kAlwaysHot : static_cast<float>(worth),
                             static_cast<uint32_t>(c),
                             layer,
                             static_cast<uint32_t>(index)});
        }
      }
    }
    // Of equals, the newer page is the better one, in all layers alike.
    std::sort(ranked_.begin(), ranked_.end(), [](const RankedPage& a, const RankedPage& b) {
      if (a.score != b.score) {
        return a.score > b.score;
      }
      if (a.context != b.context) {
        return a.context < b.context;
      }
      return a.index != b.index ? a.index > b.index : a.layer < b.layer;
    });
  }

  // Calls visit(page, rung) from the best page on, until it returns false. A page takes room on the
  // rung that it stands on or on a lower one: what went down once makes nobody else go.
  template <typename Visit>
  void Walk(double share, const Visit& visit) const {
    Room hot{static_cast<double>(budgets_.hot) * share};
    Room between{static_cast<double>(budgets_.warm) * share};
    Room& warm = budgets_.warm > 0 ? between : hot;
    for (const RankedPage& page : ranked_) {
      constexpr auto kOverhead = static_cast<double>(MemoryTier::kRecordOverheadBytes);
      Rung rung = PageOf(page).rung;
      if (rung == Rung::kHot && !hot.Takes(BytesOn(page, Rung::kHot) + kOverhead) &&
          page.score != kAlwaysHot) {
        rung = Rung::kWarm;
      }
      const Rung warm_as = contexts_[page.context].policy->EncodedAs(Rung::kWarm);
      if (rung == Rung::kWarm && !warm.Takes(BytesOn(page, warm_as) + kOverhead)) {
        rung = Rung::kCold;
      }
      if (!visit(page, rung)) {
        return;
      }
    }
  }

  bool HasWork(double share) const {
    bool has_work = false;
    Walk(share, [&](const RankedPage& page, Rung target) {
      has_work = GoesDown(page, contexts_[page.context].policy->EncodedAs(target));
      return !has_work;
    });
    return has_work;
  }

  std::span<const LadderContext> contexts_;
  const RungBudgets budgets_;
  std::vector<RankedPage> ranked_;  // the best first
};

}  // namespace

uint64_t PlanBytes(std::span<const LadderContext> contexts) {
  uint64_t pages = 0;
  for (const LadderContext& context : contexts) {
    for (int32_t layer = 0; layer < context.ladder->num_layers(); ++layer) {
      pages += static_cast<uint64_t>(context.ladder->num_pages(layer));
    }
  }
  // The ranks grow by doubling.
  return pages * (2 * sizeof(RankedPage) + 2 * sizeof(Rung));
}

std::vector<Demotion> PlanDemotions(std::span<const LadderContext> contexts,
                                    const RungBudgets& budgets,
                                    size_t num_max) {
  return Planner(contexts, budgets).Plan(num_max);
}

}  // namespace varve
