// What is remembered of each page of a context whose policy has a ladder: its size, the rung that
// its record stands on, and how much attention it gets. Only of the sealed pages of global layers,
// as far as they are this store's: window layers hold few.
//
// Importance: the share of the sequence's attention that a page had, summed over decode steps with
// a half-life of kHalfLifeSteps. A new page starts with the mean of its layer.
//
// Pages enter in order and are counted by their place among the owned ones
// (PageGrid::CountOwned).
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "kvstore/memory_tier.h"
#include "proto/worker_group.h"

namespace varve {

struct LadderPage {
  uint32_t bytes = 0;  // of the record
  Rung rung = Rung::kHot;
  bool is_last = false;  // no lower rung makes it smaller, or it cannot be read: it stays
  float mass = 0.0F;
};

class PageLadder {
 public:
  static constexpr double kHalfLifeSteps = 256;

  explicit PageLadder(int32_t num_layers) : layers_(static_cast<size_t>(num_layers)) {}

  int32_t num_layers() const { return static_cast<int32_t>(layers_.size()); }
  int64_t num_pages(int32_t layer) const { return std::ssize(at(layer).pages); }
  const LadderPage& page(int32_t layer, int64_t index) const {
    return at(layer).pages[static_cast<size_t>(index)];
  }
  // The page's share of attention relative to the mean of its layer; 1 before any was seen.
  float Importance(int32_t layer, int64_t index) const;

  // Room for `num_pages` pages of a layer in all. kBudgetExceeded; what was there stays.
  Result<void> Reserve(MemoryTier& memory,
                       int32_t layer,
                       int64_t num_pages,
                       uint64_t keep_free = 0);
  // REQUIRES: room for it.
  void Add(int32_t layer, uint64_t bytes, Rung rung);
  void Set(int32_t layer, int64_t index, uint64_t bytes, Rung rung);
  void MarkLast(int32_t layer, int64_t index);
  // Forgets the pages of a layer from `num_pages` on.
  void Truncate(int32_t layer, int64_t num_pages);

  // A decode step of a sequence is seen in one layer: first that it begins, then the share of its
  // attention that a page had, in [0, 1]; a page may come several times.
  void BeginObservation(int32_t layer);
  void Observe(int32_t layer, int64_t index, float share);

  // Of all layers, by rung.
  const std::array<RungUsage, kNumRungs>& usage() const { return usage_; }

 private:
  struct Layer {
    std::vector<LadderPage> pages;
    double mass = 0.0;    // of all pages
    double weight = 1.0;  // of the step at hand: grows, so that what was before need not shrink
    MemoryCharge charge;
  };

  Layer& at(int32_t layer) { return layers_[static_cast<size_t>(layer)]; }
  const Layer& at(int32_t layer) const { return layers_[static_cast<size_t>(layer)]; }
  void Count(const LadderPage& page, int64_t times);

  std::vector<Layer> layers_;
  std::array<RungUsage, kNumRungs> usage_{};
};

}  // namespace varve
