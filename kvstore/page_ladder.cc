#include "kvstore/page_ladder.h"

#include <algorithm>
#include <cmath>

namespace varve {
namespace {

// The weight of a step grows up to here; then all masses are scaled, once in thousands of steps.
constexpr double kLargestWeight = 1e12;

}  // namespace

float PageLadder::Importance(int32_t layer, int64_t index) const {
  const Layer& row = at(layer);
  const double mean = row.mass / static_cast<double>(row.pages.size());
  return mean > 0.0 ? static_cast<float>(page(layer, index).mass / mean) : 1.0F;
}

Result<void> PageLadder::Reserve(MemoryTier& memory,
                                 int32_t layer,
                                 int64_t num_pages,
                                 uint64_t keep_free) {
  Layer& row = at(layer);
  const size_t wanted = std::max<size_t>(static_cast<size_t>(num_pages), row.pages.size());
  if (wanted <= row.pages.capacity()) {
    return {};
  }
  const size_t capacity = std::max(wanted, row.pages.capacity() * 3 / 2);
  VARVE_TRY(MemoryCharge charge,
            memory.Reserve(capacity * sizeof(LadderPage), "the ladder of a context", keep_free));
  row.pages.reserve(capacity);
  row.charge = std::move(charge);
  return {};
}

void PageLadder::Count(const LadderPage& page, int64_t times) {
  RungUsage& usage = usage_[static_cast<size_t>(page.rung)];
  usage.pages += times;
  usage.bytes += static_cast<uint64_t>(times) * page.bytes;
}

void PageLadder::Add(int32_t layer, uint64_t bytes, Rung rung) {
  Layer& row = at(layer);
  VARVE_CHECK(row.pages.size() < row.pages.capacity() && bytes <= UINT32_MAX);
  LadderPage page{.bytes = static_cast<uint32_t>(bytes), .rung = rung};
  page.mass = row.pages.empty()
                  ? 0.0F
                  : static_cast<float>(row.mass / static_cast<double>(row.pages.size()));
  row.mass += page.mass;
  row.pages.push_back(page);
  Count(page, 1);
}

void PageLadder::Set(int32_t layer, int64_t index, uint64_t bytes, Rung rung) {
  VARVE_CHECK(bytes <= UINT32_MAX);
  LadderPage& page = at(layer).pages[static_cast<size_t>(index)];
  Count(page, -1);
  page.bytes = static_cast<uint32_t>(bytes);
  page.rung = rung;
  Count(page, 1);
}

void PageLadder::MarkLast(int32_t layer, int64_t index) {
  at(layer).pages[static_cast<size_t>(index)].is_last = true;
}

void PageLadder::Truncate(int32_t layer, int64_t num_pages) {
  Layer& row = at(layer);
  while (std::ssize(row.pages) > num_pages) {
    Count(row.pages.back(), -1);
    row.mass -= row.pages.back().mass;
    row.pages.pop_back();
  }
  row.mass = row.pages.empty() ? 0.0 : std::max(0.0, row.mass);
}

void PageLadder::BeginObservation(int32_t layer) {
  Layer& row = at(layer);
  row.weight *= std::exp2(1.0 / kHalfLifeSteps);
  if (row.weight > kLargestWeight) {
    row.mass = 0.0;
    for (LadderPage& page : row.pages) {
      page.mass = static_cast<float>(page.mass / row.weight);
      row.mass += page.mass;
    }
    row.weight = 1.0;
  }
}

void PageLadder::Observe(int32_t layer, int64_t index, float share) {
  Layer& row = at(layer);
  const auto mass = static_cast<float>(row.weight * share);
  row.pages[static_cast<size_t>(index)].mass += mass;
  row.mass += mass;
}

}  // namespace varve
