// The ladder: which pages stand where, and their way down, between the steps.
#include <algorithm>

#include "kvstore/demotion_plan.h"
#include "kvstore/kv_store_impl.h"
#include "proto/base/clock.h"
#include "proto/base/units.h"

namespace varve {
namespace {

// Fewer bytes are not worth a write, where there are more.
constexpr uint64_t kBatchBytes = 512 * kKiB;
// Of a plan; what is left is found by the next one.
constexpr size_t kPlanPagesMax = 4096;
// After a failed write, or without memory for a batch.
constexpr int64_t kRetryUs = 1'000'000;
// A context's age doubles when nobody read it for a minute.
constexpr double kAgeUs = 60e6;
// Shares of the disk budget: above the first, pages go down until the second is enough.
constexpr double kHighFill = 0.95;
constexpr double kLowFill = 0.85;
constexpr int64_t kPressureUs = 5'000'000;  // between two plans for it

uint64_t RoomForPages(const MemoryTier& tier) {
  return tier.budget() == 0 ? UINT64_MAX : tier.budget() - 2 * tier.read_share();
}

// What is above `low` of a budget, if more than `high` of it is in use.
uint64_t Excess(uint64_t used, uint64_t budget, double high, double low) {
  const auto limit = static_cast<double>(budget);
  return static_cast<double>(used) <= high * limit ? 0 : used - static_cast<uint64_t>(low * limit);
}

}  // namespace

Result<void> KvStoreImpl::ReserveDemoter(const ResolvedPolicy& policy) {
  if (!policy.has_ladder()) {
    return {};
  }
  const uint64_t bytes = demoter_.WorkspaceBytes(policy);
  if (bytes > demoter_workspace_.bytes()) {
    VARVE_TRY(MemoryCharge charge, host_.Reserve(bytes, "the workspace for demoting pages"));
    if (demoter_.is_busy()) {
      ApplyDemotions(demoter_.Take(false));
    }
    demoter_workspace_ = std::move(charge);
    demoter_.Reserve(policy);
  }
  return {};
}

// After a restart: sizes are in the disk tier's index, and say the rung where they can. Where they
// do not, a page counts as hot until it has been looked at.
Result<void> KvStoreImpl::FillLadder(PageOwner& owner) {
  if (owner.ladder == nullptr) {
    return {};
  }
  for (int32_t layer = 0; layer < num_layers(); ++layer) {
    if (window(layer) > 0) {
      continue;
    }
    const auto row = static_cast<uint16_t>(layer);
    PageLadder& ladder = *owner.ladder;
    const PageSegment sealed = SealedOf(owner, owner.sealed_end[row]);
    const PageGrid& grid = sealed.grid;
    VARVE_RETURN_IF_ERROR(ladder.Reserve(host_, layer, LadderIndex(owner, grid, sealed.end_page)));
    VARVE_TRY(const auto found, disk_->ListLayerPageBytes(ContextId{owner.id}, row));
    auto next = found.begin();
    for (int64_t page = PageAt(owner, grid, ladder.num_pages(layer)); page < sealed.end_page;
         page = grid.NextOwned(page + 1)) {
      while (next != found.end() && next->first.page < static_cast<uint64_t>(page)) {
        ++next;
      }
      const bool is_there = next != found.end() && next->first.page == static_cast<uint64_t>(page);
      const uint64_t bytes = is_there ? next->second : 0;
      const PageIdentity identity = sealed.IdentityOf(page, row, sealer_.ShapeOf(1));
      ladder.Add(layer, bytes, sealer_.RungOf(sealed.policy, identity, bytes).value_or(Rung::kHot));
      if (!is_there) {
        ladder.MarkLast(layer, ladder.num_pages(layer) - 1);
      }
    }
  }
  return {};
}

Result<void> KvStoreImpl::ReserveLadder(const SequenceState& state,
                                        int64_t end_page,
                                        uint64_t keep_free) {
  if (!state.is_ingest || state.context->own->ladder == nullptr) {
    return {};
  }
  const PageOwner& own = *state.context->own;
  for (int32_t layer = 0; layer < num_layers(); ++layer) {
    if (window(layer) == 0) {
      VARVE_RETURN_IF_ERROR(
          own.ladder->Reserve(host_, layer, LadderIndex(own, state.grid, end_page), keep_free));
    }
  }
  return {};
}

void KvStoreImpl::AddToLadder(const SequenceState& state,
                              int32_t layer,
                              int64_t page,
                              uint64_t record_bytes) {
  if (!state.is_ingest || state.context->own->ladder == nullptr || window(layer) > 0) {
    return;
  }
  PageLadder& ladder = *state.context->own->ladder;
  const int64_t index = LadderIndex(*state.context->own, state.grid, page);
  if (index < ladder.num_pages(layer)) {
    ladder.Set(layer, index, record_bytes, Rung::kHot);  // sealed again
  } else {
    ladder.Add(layer, record_bytes, Rung::kHot);
  }
}

bool KvStoreImpl::ObservesMass(SequenceId sequence) const {
  const auto found = sequences_.find(sequence);
  return found != sequences_.end() && found->second.context != nullptr &&
         !found->second.is_ingest && found->second.context->policy.has_ladder();
}

void KvStoreImpl::NoteUse(const ContextState& context) {
  const int64_t now_us = SystemClock().NowUs();
  for (const OwnedRange& range : context.shared) {
    range.owner->last_read_us = now_us;
  }
  context.own->last_read_us = now_us;
}

void KvStoreImpl::ObserveMass(SequenceId sequence,
                              int32_t layer,
                              std::span<const int64_t> pages,
                              std::span<const float> shares) {
  VARVE_CHECK(pages.size() == shares.size());
  const SequenceState& state = OpenedSequence(sequence);
  const ContextState& context = *state.context;
  const int64_t base_end = context.grid.PageOf(state.base_tokens);
  const auto observe = [&](const PageOwner& owner, int64_t end_page) {
    const int64_t num_pages = owner.ladder->num_pages(layer);
    if (num_pages == 0) {
      return;
    }
    owner.ladder->BeginObservation(layer);
    for (size_t i = 0; i < pages.size(); ++i) {
      const int64_t index = LadderIndex(owner, context.grid, pages[i]);
      if (pages[i] >= owner.first_page && pages[i] < end_page && index < num_pages) {
        owner.ladder->Observe(layer, index, shares[i]);
      }
    }
  };
  for (const OwnedRange& range : context.shared) {
    observe(*range.owner, std::min(range.end_page, base_end));
  }
  observe(*context.own, base_end);
}

bool KvStoreImpl::Maintain() {
  if (demoter_.is_busy()) {
    std::optional<DemotionBatch> batch = demoter_.TryTake();
    if (!batch) {
      return true;
    }
    ApplyDemotions(std::move(*batch));
  }
  const int64_t now_us = SystemClock().NowUs();
  if (now_us < next_batch_us_) {
    return plan_is_due_ || !plan_.empty();
  }
  if (plan_.empty()) {
    PlanLadder(now_us);
  }
  return StartDemotions(now_us);
}

LadderContext KvStoreImpl::LadderOf(const PageOwner& owner, int64_t now_us) const {
  const ContextState& reader = *owner.readers.front();
  LadderContext ladder{.ladder = owner.ladder.get(), .policy = &reader.policy};
  int64_t end_page = owner.first_page;
  for (const ContextState* one : owner.readers) {
    end_page =
        std::max(end_page, std::min(RangeOf(*one, owner).end_page, one->committed.sealed_pages()));
    ladder.is_pinned = ladder.is_pinned || one->committed.attributes.pinned;
  }
  ladder.num_pages = LadderIndex(owner, reader.grid, end_page);
  const int64_t sinks_end = reader.grid.NumPages(reader.policy.policy.sink_tokens);
  ladder.num_sink_pages = LadderIndex(owner, reader.grid, std::max(sinks_end, owner.first_page));
  ladder.age = 1.0 + static_cast<double>(now_us - owner.last_read_us) / kAgeUs;
  const RunShape shape = sealer_.ShapeOf(reader.policy.policy.page_tokens);
  for (size_t rung = 0; rung < kNumRungs; ++rung) {
    const Codec& codec = *reader.policy.rung_codecs[rung];
    ladder.page_bytes[rung] = codec.EncodedBytes(shape, sealer_.ContextOf(codec, 0, 0).tables);
  }
  return ladder;
}

void KvStoreImpl::PlanLadder(int64_t now_us) {
  // 1. What there is to rank, and for how much of it there is room.
  std::vector<LadderContext> contexts;
  std::vector<uint64_t> ids;
  uint64_t bytes = 0;
  for (const auto& [id, owner] : owners_) {
    if (owner->ladder == nullptr) {
      continue;
    }
    contexts.push_back(LadderOf(*owner, now_us));
    ids.push_back(id);
    for (const RungUsage& rung : owner->ladder->usage()) {
      bytes += rung.bytes + static_cast<uint64_t>(rung.pages) * MemoryTier::kRecordOverheadBytes;
    }
  }
  RungBudgets budgets;
  if (disk_ == nullptr) {
    // Nothing can leave memory: what is there has to shrink.
    budgets.excess = Excess(memory_.used(), RoomForPages(memory_), 1.0, kLowWatermark);
    if (device_ != nullptr && budgets.excess > 0) {
      budgets.excess = Excess(host_.used(), RoomForPages(host_), 1.0, kLowWatermark);
    }
  } else {
    budgets.hot = RoomForPages(memory_);
    budgets.warm = device_ == nullptr ? 0 : RoomForPages(host_);
    const TierBytes disk = contexts.empty() ? TierBytes() : disk_->GetStats().bytes;
    budgets.excess = disk.budget == 0 ? 0 : Excess(disk.used, disk.budget, kHighFill, kLowFill);
    budgets.excess /= static_cast<uint64_t>(options_.shard.num_workers);
  }
  const bool is_pressed = budgets.excess > 0 && (plan_is_due_ || now_us >= next_pressure_us_);
  if (!is_pressed && (!plan_is_due_ || bytes <= budgets.hot)) {
    plan_is_due_ = false;
    return;
  }
  // 2. Ranks.
  plan_is_due_ = false;
  next_pressure_us_ = now_us + kPressureUs;
  const Result<MemoryCharge> scratch =
      host_.Reserve(PlanBytes(contexts), "the ranks of the pages of contexts with a ladder");
  if (!scratch) {
    return PauseDemotions(now_us);
  }
  for (const Demotion& demotion : PlanDemotions(contexts, budgets, kPlanPagesMax)) {
    plan_.push_back({ids[demotion.context], demotion});
  }
  plan_is_due_ = plan_.size() == kPlanPagesMax;
  std::reverse(plan_.begin(), plan_.end());  // taken from the back
}

void KvStoreImpl::PauseDemotions(int64_t now_us) {
  ++ladder_counters_.failures[static_cast<size_t>(DemotionFailure::kBudget)];
  plan_.clear();
  plan_is_due_ = true;
  next_batch_us_ = now_us + kRetryUs;
}

// The next pages of the plan that have one owner, as many as make a batch.
bool KvStoreImpl::StartDemotions(int64_t now_us) {
  DemotionBatch batch;
  uint64_t bytes = 0;
  while (!plan_.empty() && bytes < std::min(kBatchBytes, host_.read_share())) {
    const PlannedDemotion next = plan_.back();
    const auto found = owners_.find(next.owner);
    if (!batch.items.empty() && batch.owner != next.owner) {
      break;
    }
    if (found == owners_.end()) {
      plan_.pop_back();
      continue;
    }
    Result<DemotionItem> item = ItemOf(*found->second, next.demotion);
    if (!item) {
      if (batch.items.empty()) {
        PauseDemotions(now_us);
        return false;
      }
      break;
    }
    plan_.pop_back();
    batch.owner = next.owner;
    batch.policy = found->second->readers.front()->policy;
    bytes += item->record_bytes;
    batch.items.push_back(std::move(*item));
  }
  if (batch.items.empty()) {
    return false;
  }
  demoter_.Start(std::move(batch));
  return true;
}

Result<DemotionItem> KvStoreImpl::ItemOf(const PageOwner& owner, const Demotion& demotion) {
  const PageSegment sealed = SealedOf(owner, 0);
  const auto layer = static_cast<uint16_t>(demotion.layer);
  const int64_t page = PageAt(owner, sealed.grid, demotion.index);
  DemotionItem item;
  item.id = sealed.IdOf(page, layer);
  item.identity = sealed.IdentityOf(page, layer, sealer_.ShapeOf(1));
  item.layer = demotion.layer;
  item.index = demotion.index;
  item.rung = demotion.rung;
  item.record_bytes = owner.ladder->page(demotion.layer, demotion.index).bytes;
  item.resident = memory_.Peek(item.id);
  const uint64_t copies = item.resident == nullptr ? 2 : 1;
  VARVE_TRY(item.charge,
            host_.Reserve(copies * item.record_bytes + MemoryTier::kRecordOverheadBytes,
                          "pages on their way to a lower rung",
                          disk_ == nullptr ? 0 : 2 * sealer_.WorkspaceBytes(sealed.policy)));
  return item;
}

void KvStoreImpl::ApplyDemotions(DemotionBatch batch) {
  bool is_written = true;
  const auto found = owners_.find(batch.owner);
  for (DemotionItem& item : batch.items) {
    item.resident.reset();
    if (found != owners_.end()) {
      is_written = ApplyDemotion(*found->second, item) && is_written;
    }
  }
  const double idle = 1.0 / options_.demotion_cpu_share - 1.0;
  next_batch_us_ =
      SystemClock().NowUs() +
      (is_written ? static_cast<int64_t>(idle * static_cast<double>(batch.cpu_us)) : kRetryUs);
  plan_is_due_ = plan_is_due_ || !is_written;
  PublishRungs();
}

bool KvStoreImpl::ApplyDemotion(PageOwner& owner, DemotionItem& item) {
  PageLadder& ladder = *owner.ladder;
  switch (item.outcome) {
    case DemotionItem::Outcome::kReplaced: {
      const auto rung = static_cast<size_t>(item.rung);
      ++ladder_counters_.demotions[rung];
      ladder_counters_.demoted_bytes[rung] += item.record_bytes;
      counters_.disk_bytes_written += disk_ == nullptr ? 0 : item.record.size();
      ladder.Set(item.layer, item.index, item.record.size(), item.rung);
      if (!item.key_centroids.empty()) {
        ReplaceInKeyIndexes(owner, item);
      }
      // It takes the place that the old record has in memory, if that has one, in the tier below.
      if (memory_.Erase(item.id) != MemoryTier::Erased::kAbsent) {
        item.charge.ShrinkTo(item.record.size() + MemoryTier::kRecordOverheadBytes);
        memory_.Insert(item.id,
                       std::make_shared<ResidentPage>(
                           std::move(item.record), item.identity, std::move(item.charge)),
                       disk_ != nullptr);
      }
      return true;
    }
    case DemotionItem::Outcome::kAsItIs:
      ladder.Set(item.layer, item.index, item.record_bytes, item.stands_on);
      if (item.stands_on < item.rung) {
        ladder.MarkLast(item.layer, item.index);
      }
      return true;
    case DemotionItem::Outcome::kGone:
      ladder.MarkLast(item.layer, item.index);
      return true;
    case DemotionItem::Outcome::kFailed:
      ++ladder_counters_.failures[static_cast<size_t>(item.failure)];
      if (item.failure == DemotionFailure::kRead) {
        ladder.MarkLast(item.layer, item.index);  // a reader will meet the error itself
      }
      return item.failure != DemotionFailure::kWrite;
  }
  VARVE_UNREACHABLE("an unknown outcome of a demotion");
}

void KvStoreImpl::ReplaceInKeyIndexes(const PageOwner& owner, const DemotionItem& item) {
  for (ContextState* reader : owner.readers) {
    const int64_t page = PageAt(owner, reader->grid, item.index);
    const int64_t index = reader->grid.CountOwned(0, page);
    if (!reader->key_indexes.empty() && page < RangeOf(*reader, owner).end_page) {
      KeyIndex& keys = reader->key_indexes[static_cast<size_t>(item.layer)];
      if (index < keys.num_pages()) {
        keys.Replace(index, item.key_centroids);
      }
    }
  }
}

void KvStoreImpl::PublishRungs() {
  std::array<RungUsage, kNumRungs> sum{};
  for (const auto& [id, owner] : owners_) {
    for (size_t rung = 0; owner->ladder != nullptr && rung < kNumRungs; ++rung) {
      sum[rung].pages += owner->ladder->usage()[rung].pages;
      sum[rung].bytes += owner->ladder->usage()[rung].bytes;
    }
  }
  for (size_t rung = 0; rung < kNumRungs; ++rung) {
    ladder_counters_.pages[rung] = sum[rung].pages;
    ladder_counters_.bytes[rung] = sum[rung].bytes;
  }
}

}  // namespace varve
