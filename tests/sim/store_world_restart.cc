// The end of a process, the next one, and what it must find.
#include <fmt/format.h>

#include "kvstore/record_keys.h"
#include "proto/base/hash.h"
#include "proto/base/units.h"
#include "tests/kvstore/store_rig.h"
#include "tests/sim/store_world.h"

namespace varve {
namespace {

constexpr uint64_t kEmptyTextRecordBytes = 18;

}  // namespace

void StoreWorld::Restart() {
  // 1. The end: in peace, killed, or with the power.
  if (env_ != nullptr) {
    env_->Settle();
    env_->HoldCompactions();
  }
  const uint64_t how = rng_.Below(3);
  if (tier_ != nullptr && how > 0) {
    disk_->Stop();
    power_fails_ = power_fails_ || how == 2;
  }
  const bool was_stopped = disk_->is_stopped();
  readers_.clear();
  for (auto& [id, context] : contexts_) {
    context.ingest.reset();
  }
  group_.reset();
  tier_.reset();
  env_.reset();
  if (was_stopped && power_fails_) {
    disk_->RestartAfterPowerCut(rng_);
    ++counts_.power_cuts;
  } else {
    disk_->Restart();
  }
  power_fails_ = false;
  had_fault_ = false;
  fault_left_ = 0;
  wants_restart_ = false;
  ++counts_.restarts;
  // 2. The next one, which may die while it starts.
  if (rng_.Below(5) == 0) {
    disk_->StopAt(static_cast<int64_t>(1 + rng_.Below(60)));
    power_fails_ = rng_.Below(2) == 0;
  }
  if (Open()) {
    Audit();
  }
  if (broken_.empty() && (wants_restart_ || disk_->is_stopped())) {
    disk_->Stop();
    Restart();
  }
}

bool StoreWorld::Open() {
  env_ = std::make_shared<SimEnv>(disk_);
  DiskTierOptions options;
  options.directory = "world";
  options.memory_bytes = 8 * kMiB;
  options.num_io_threads = 1;
  auto tier = OpenDiskTier(options, env_);
  if (!tier) {
    Try(tier.error(), "open the directory");
    return false;
  }
  tier_ = std::move(tier).value();
  env_->LetJobsRun();
  env_->Settle();
  static constexpr uint64_t kBudgets[] = {0, 192 * kKiB, 256 * kKiB, 512 * kKiB};
  group_ = std::make_unique<StoreGroup>(MakeGeometry(2, 32, {0, 40, 0}),
                                        static_cast<int>(1 + rng_.Below(3)),
                                        kBudgets[rng_.Below(4)],
                                        tier_.get());
  const auto manifests = tier_->ListManifests();
  if (!manifests) {
    Try(manifests.error(), "list the manifests");
    return false;
  }
  CompareManifests(*manifests);
  for (const ContextManifest& manifest : *manifests) {
    if (!goes_on() || !Try(group_->RecoverContext(manifest), "recover")) {
      return false;
    }
  }
  return goes_on() && Try(group_->FinishRecovery(), "finish the recovery") && goes_on();
}

void StoreWorld::CompareManifests(const std::vector<ContextManifest>& manifests) {
  std::map<uint64_t, const ContextManifest*> found;
  for (const ContextManifest& manifest : manifests) {
    found[manifest.id.value] = &manifest;
    if (!contexts_.contains(manifest.id.value)) {
      Broken(fmt::format("context {} was deleted and is back", manifest.id.value));
    }
  }
  for (auto at = contexts_.begin(); at != contexts_.end();) {
    auto& [id, context] = *at;
    const auto is = found.find(id);
    if (is == found.end()) {
      if (context.version > 0 && !context.is_deleting) {
        Broken(
            fmt::format("context {} was committed as version {} and is gone", id, context.version));
      }
      at = contexts_.erase(at);
      continue;
    }
    const ContextManifest& manifest = *is->second;
    const bool as_reported =
        manifest.version == context.version && manifest.num_tokens == context.tokens;
    const bool as_tried =
        manifest.version == context.version + 1 && manifest.num_tokens == context.trying_tokens;
    if (!as_reported && !as_tried) {
      Broken(fmt::format("context {} is at version {} of {} tokens; {} of {} was reported",
                         id,
                         manifest.version,
                         manifest.num_tokens,
                         context.version,
                         context.tokens));
    }
    context.version = manifest.version;
    context.tokens = manifest.num_tokens;
    context.trying_tokens = -1;
    context.is_deleting = false;
    ++at;
  }
}

void StoreWorld::Audit() {
  uint64_t expected_bytes = 0;
  for (auto& [id, context] : contexts_) {
    for (int rank = 0; rank < group_->num_workers(); ++rank) {
      const auto usage = group_->store(rank).GetContextUsage(ContextId{id});
      if (!usage) {
        Try(usage.error(), "count");
        return;
      }
      expected_bytes += usage->disk_bytes;
    }
    expected_bytes += static_cast<uint64_t>(5 * context.tokens) +
                      context.version * 2 * (kEmptyTextRecordBytes + kRecordRowBytes);
    const ContextAppend whole = MakeAppend(0, context.tokens);
    const auto tokens = tier_->ReadTokens(ContextId{id});
    const auto text = tier_->ReadText(ContextId{id});
    if (!tokens || !text) {
      Try(!tokens ? tokens.error() : text.error(), "read the text");
      return;
    }
    if (*tokens != whole.tokens || *text != whole.text) {
      return Broken(fmt::format("context {} has another text", id));
    }
    AuditPages(id, context);
    if (goes_on() && rng_.Below(3) == 0) {
      Misdirect(id, context);
    }
    OpenReader(id);
    if (goes_on() && !readers_.empty()) {
      ReadOn(readers_.back());
      Close(readers_.back().sequence);
    }
    readers_.clear();
    if (!goes_on()) {
      return;
    }
  }
  if (const uint64_t used = tier_->GetStats().bytes.used; used != expected_bytes) {
    Broken(fmt::format("{} bytes are on disk, {} are named", used, expected_bytes));
  }
}

// A sealed page has the same bytes for ever, in whatever process it was made, if no ladder changes
// it.
void StoreWorld::AuditPages(uint64_t id, Context& context) {
  const auto keys = tier_->ListPages(ContextId{id});
  if (!keys) {
    Try(keys.error(), "list pages");
    return;
  }
  const auto records = tier_->GetPages(*keys).get();
  if (!records) {
    Try(records.error(), "read pages");
    return;
  }
  for (size_t i = 0; i < keys->size() && context.policy.cold_codec.empty(); ++i) {
    const uint64_t hash = Hash64(std::span<const std::byte>((*records)[i]));
    const auto [at, is_new] =
        context.page_hashes.emplace(std::pair((*keys)[i].first_layer, (*keys)[i].page), hash);
    if (!is_new && at->second != hash) {
      Broken(fmt::format("{} has other bytes than before", DescribeKey((*keys)[i])));
    }
  }
}

// The disk gives a record of another page, intact: it is refused, not believed.
void StoreWorld::Misdirect(uint64_t id, const Context& context) {
  const PageKey key{PageKey::Space::kContext, id, 0, 0, 0};
  const PageKey other{PageKey::Space::kContext, id, 0, 0, 1};
  const auto records = tier_->GetPages({key, other}).get();
  if (!records || records->at(0).empty() || records->at(1).empty() || context.tokens < 32) {
    return;
  }
  const std::span<const std::byte> right = records->at(0);
  const std::span<const std::byte> wrong = records->at(1);
  if (!Try(tier_->PutPages({&key, 1}, {&wrong, 1}), "misdirect")) {
    return;
  }
  const SequenceId reader{next_sequence_++};
  if (Try(group_->OpenSequence(reader, Behind(id, context.tokens)), "open a reader")) {
    const auto stepped = group_->Step(reader, reader.value, 1, [&] {
      int refusals = 0;
      for (int rank = 0; rank < group_->num_workers(); ++rank) {
        const auto seen = ReadStore(
            group_->store(rank), group_->geometry(), reader, 0, context.tokens, context.tokens);
        refusals += !seen && seen.error().code == ErrorCode::kPageCorrupt ? 1 : 0;
      }
      if (refusals != 1) {
        Broken(fmt::format("{} was believed to be {}", DescribeKey(other), DescribeKey(key)));
      }
    });
    Try(stepped, "a reader's step");
    Close(reader);
    ++counts_.misdirected;
  }
  Try(tier_->PutPages({&key, 1}, {&right, 1}), "put it right");
}

}  // namespace varve
