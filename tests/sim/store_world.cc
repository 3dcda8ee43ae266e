#include "tests/sim/store_world.h"

#include <algorithm>
#include <filesystem>
#include <thread>

#include <fmt/format.h>

#include "tests/kvstore/store_rig.h"
#include "tests/sim/virtual_clock.h"

namespace varve {
namespace {

constexpr size_t kContextsMax = 4;
constexpr size_t kReadersMax = 3;
constexpr int64_t kTokensMax = 500;
constexpr int kYieldsMax = 50'000'000;  // of the demoter's thread: far more than it ever takes

}  // namespace

StoreWorld::StoreWorld(const Options& options) : options_(options), rng_(options.seed) {
  disk_->LieAboutSyncs(options.syncs_lie);
}

StoreWorld::~StoreWorld() {
  if (env_ != nullptr) {
    env_->HoldCompactions();
  }
  group_.reset();
  tier_.reset();
  std::error_code ignored;
  std::filesystem::remove_all("world", ignored);
}

std::string StoreWorld::Run() {
  ResetVirtualTime();
  Restart();
  for (int i = 0; i < options_.num_operations && broken_.empty(); ++i) {
    if (fault_left_ > 0 && --fault_left_ == 0) {
      disk_->Fail(SimDisk::Fault::kNone);
    }
    Act();
    AdvanceVirtualTime(static_cast<int64_t>(rng_.Below(100'000)));
    if (broken_.empty() && (wants_restart_ || disk_->is_stopped())) {
      Restart();
    }
  }
  if (broken_.empty()) {
    Restart();
  }
  return broken_;
}

void StoreWorld::Broken(std::string what) {
  if (broken_.empty()) {
    broken_ = std::move(what);
  }
}

bool StoreWorld::Try(const Result<void>& result, std::string_view what) {
  // Whether a compaction or a reader lets go of a file last decides who deletes it.
  env_->Settle();
  if (result) {
    return true;
  }
  if (result.error().code == ErrorCode::kBudgetExceeded) {
    return false;  // refused, and nothing has changed
  }
  if (!disk_->is_stopped() && !had_fault_) {
    Broken(fmt::format("{}: {}", what, result.error().ToString()));
  }
  wants_restart_ = true;
  return false;
}

StoreWorld::Context* StoreWorld::PickContext(uint64_t& id) {
  if (contexts_.empty()) {
    return nullptr;
  }
  auto found = contexts_.begin();
  std::advance(found, static_cast<ptrdiff_t>(rng_.Below(contexts_.size())));
  id = found->first;
  return &found->second;
}

void StoreWorld::Act() {
  env_->Settle();
  uint64_t id = 0;
  Context* context = PickContext(id);
  const uint64_t what = rng_.Below(100);
  if (context == nullptr || (what < 10 && contexts_.size() < kContextsMax)) {
    Create();
  } else if (what < 45) {
    Ingest(id, *context);
  } else if (what < 65) {
    Read();
  } else if (what < 70) {
    SpillPrivate();
  } else if (what < 80) {
    Maintain();
  } else if (what < 85) {
    Delete(id);
  } else if (what < 97) {
    Break();
  } else {
    wants_restart_ = true;
  }
}

void StoreWorld::Create() {
  const uint64_t id = next_id_++;
  Context context;
  context.policy = SmallPolicy();
  context.policy.cold_codec = rng_.Below(2) == 0 ? "int4" : "";
  if (Try(group_->CreateContext(Version(id, 0, 0, context.policy)), "create")) {
    contexts_.emplace(id, std::move(context));
  }
}

void StoreWorld::Ingest(uint64_t id, Context& context) {
  if (context.tokens > kTokensMax) {
    return Delete(id);
  }
  if (!context.ingest) {
    const SequenceId sequence{next_sequence_++};
    if (!Try(group_->OpenSequence(sequence, IngestOf(id)), "open an ingest")) {
      return;
    }
    context.ingest = sequence;
  }
  for (uint64_t steps = 1 + rng_.Below(3); steps > 0 && goes_on(); --steps) {
    const auto tokens = static_cast<int32_t>(1 + rng_.Below(60));
    if (!Try(group_->Step(*context.ingest, id, tokens), "ingest")) {
      Close(*context.ingest);
      context.ingest.reset();
      return;
    }
  }
  if (goes_on() && rng_.Below(2) == 0) {
    Commit(id, context);
  }
  if (goes_on() && context.ingest && rng_.Below(3) == 0) {
    Close(*context.ingest);
    context.ingest.reset();
  }
}

void StoreWorld::Commit(uint64_t id, Context& context) {
  const ContextManifest manifest =
      Version(id, context.version + 1, group_->Length(*context.ingest), context.policy);
  if (!Try(group_->Prepare(*context.ingest, manifest), "prepare a commit")) {
    Close(*context.ingest);
    context.ingest.reset();
    return;
  }
  context.trying_tokens = manifest.num_tokens;
  if (!Try(tier_->CommitManifest(manifest, MakeAppend(context.tokens, manifest.num_tokens)),
           "commit")) {
    wants_restart_ = true;  // only a restart tells whether it counts
    return;
  }
  if (disk_->is_stopped()) {
    return;
  }
  context.trying_tokens = -1;
  context.version = manifest.version;
  context.tokens = manifest.num_tokens;
  ++counts_.commits;
  Try(group_->Finish(manifest), "finish a commit");
}

void StoreWorld::Delete(uint64_t id) {
  Context& context = contexts_.at(id);
  for (const Reader& reader : readers_) {
    if (reader.context == id) {
      Close(reader.sequence);
    }
  }
  std::erase_if(readers_, [id](const Reader& reader) { return reader.context == id; });
  if (context.ingest) {
    Close(*context.ingest);
    context.ingest.reset();
  }
  context.is_deleting = true;
  if (goes_on() && Try(group_->DeleteContext(ContextId{id}), "delete") && goes_on()) {
    contexts_.erase(id);
  }
}

void StoreWorld::Read() {
  uint64_t id = 0;
  const Context* context = PickContext(id);
  if (readers_.size() < kReadersMax && context->tokens > 0 && rng_.Below(2) == 0) {
    OpenReader(id);
  }
  if (readers_.empty() || !goes_on()) {
    return;
  }
  const size_t at = rng_.Below(readers_.size());
  ReadOn(readers_[at]);
  if (goes_on() && rng_.Below(3) == 0) {
    Close(readers_[at].sequence);
    readers_.erase(readers_.begin() + static_cast<ptrdiff_t>(at));
  }
}

void StoreWorld::OpenReader(uint64_t id) {
  const Reader reader{SequenceId{next_sequence_++}, id, contexts_.at(id).tokens, 0};
  if (Try(group_->OpenSequence(reader.sequence, Behind(id, reader.base_tokens)), "open a reader")) {
    readers_.push_back(reader);
  }
}

void StoreWorld::Close(SequenceId sequence) {
  Try(group_->CloseSequence(sequence), "close");
}

void StoreWorld::ReadOn(Reader& reader) {
  bool ran = false;
  const Result<void> stepped = group_->Step(reader.sequence, reader.sequence.value, 1, [&] {
    ran = true;
    for (int32_t layer = 0; layer < group_->geometry().num_layers() && goes_on(); ++layer) {
      CheckLayer(reader, layer);
    }
  });
  if (ran) {
    ++reader.own_tokens;
    ++counts_.reads;
  }
  Try(stepped, "a reader's step");
}

void StoreWorld::CheckLayer(const Reader& reader, int32_t layer) {
  const int64_t last = reader.base_tokens + reader.own_tokens;
  const int64_t window = group_->geometry().layer_windows[static_cast<size_t>(layer)];
  const int64_t low = window == 0 ? 0 : std::max<int64_t>(0, last - window + 1);
  std::vector<SeenToken> seen;
  for (int rank = 0; rank < group_->num_workers(); ++rank) {
    auto part =
        ReadStore(group_->store(rank), group_->geometry(), reader.sequence, layer, last, last);
    if (!part) {
      Try(part.error(), fmt::format("read context {} layer {}", reader.context, layer));
      return;
    }
    std::move(part->begin(), part->end(), std::back_inserter(seen));
  }
  std::sort(seen.begin(), seen.end(), [](const auto& a, const auto& b) {
    return a.position < b.position;
  });
  if (seen.empty() || seen.front().position > low || seen.back().position != last) {
    return Broken(fmt::format(
        "context {} layer {}: not all of {} to {} is seen", reader.context, layer, low, last));
  }
  for (size_t i = 0; i < seen.size(); ++i) {
    const SeenToken& token = seen[i];
    const bool own = token.position >= reader.base_tokens;
    const uint64_t salt = own ? reader.sequence.value : reader.context;
    bool right = token.position == seen[0].position + static_cast<int64_t>(i);
    for (const int32_t channel : {0, 5, 63}) {
      const auto at = static_cast<size_t>(channel);
      const float slack = CodecSlack(token.codec);
      right = right &&
              std::abs(token.k[at] - KeyAt(salt, layer, token.position, channel)) <= slack &&
              std::abs(token.v[at] - ValueAt(salt, layer, token.position, channel)) <= slack;
    }
    if (!right) {
      return Broken(fmt::format("context {} layer {} position {} is not what was written",
                                reader.context,
                                layer,
                                token.position));
    }
  }
}

void StoreWorld::SpillPrivate() {
  const Reader reader{SequenceId{next_sequence_++}, 0, 0, 120};
  if (!Try(group_->OpenSequence(reader.sequence, Private(SmallPolicy())), "open a sequence")) {
    return;
  }
  for (int step = 0; step < 3 && goes_on(); ++step) {
    if (!Try(group_->Step(reader.sequence, reader.sequence.value, 40), "a private step")) {
      return Close(reader.sequence);
    }
  }
  Reader last = reader;
  if (goes_on()) {
    ReadOn(last);
  }
  Close(reader.sequence);
}

// The demoter's thread is waited for, without letting time go on: what happens does not depend on
// how often it is asked.
void StoreWorld::Maintain() {
  AdvanceVirtualTime(2'000'000);
  const auto failures = [](const WorkerStats& stats) {
    return stats.demotion_failures[0] + stats.demotion_failures[1] + stats.demotion_failures[2];
  };
  for (int rank = 0; rank < group_->num_workers(); ++rank) {
    KvStore& store = group_->store(rank);
    const WorkerStats before = store.Stats();
    int yields = 0;
    while (store.Maintain() && failures(store.Stats()) == failures(before)) {
      std::this_thread::yield();
      if (++yields == kYieldsMax) {
        return Broken("demotion does not end");
      }
    }
    counts_.demotions += static_cast<int>(store.Stats().demotions[2] - before.demotions[2]);
  }
}

void StoreWorld::Break() {
  const uint64_t how = rng_.Below(10);
  if (how < 7) {
    disk_->StopAt(static_cast<int64_t>(1 + rng_.Below(120)));
    power_fails_ = rng_.Below(2) == 0;
    return;
  }
  had_fault_ = true;
  fault_left_ = static_cast<int>(1 + rng_.Below(5));
  disk_->Fail(how < 9 ? SimDisk::Fault::kWrites : SimDisk::Fault::kReads);
}

}  // namespace varve
