#include "ops/cli/bench/attention_group.h"

#include <algorithm>
#include <mutex>

#include <fmt/format.h>

#include "kernels/thread_team.h"
#include "worker/attention.h"

namespace varve::cli {
namespace {

constexpr int64_t kCommitTokens = int64_t{512} << 10;
constexpr uint64_t kModelHash = 1;  // of no model

}  // namespace

struct AttentionGroup::StepWork {
  uint64_t step = 0;
  SequenceWork sequence;
  std::vector<float> qkv;  // [num_qo_heads + 2 * num_kv_heads, head_dim]
};

AttentionGroup::AttentionGroup(AttentionGroupOptions options) : options_(std::move(options)) {}

AttentionGroup::~AttentionGroup() = default;

Result<std::unique_ptr<AttentionGroup>> AttentionGroup::Open(AttentionGroupOptions options) {
  std::unique_ptr<AttentionGroup> group(new AttentionGroup(std::move(options)));
  const AttentionGroupOptions& chosen = group->options_;
  VARVE_TRY(group->disk_, DiskTier::Open({.directory = chosen.data_dir}));
  const auto num_workers = static_cast<uint64_t>(chosen.num_workers);
  for (int32_t rank = 0; rank < chosen.num_workers; ++rank) {
    const KvStoreOptions store{.geometry = chosen.config.Geometry(),
                               .shard = {.rank = rank, .num_workers = chosen.num_workers},
                               .host_budget_bytes = chosen.host_budget_bytes / num_workers,
                               .device_budget_bytes = chosen.device_budget_bytes / num_workers};
    VARVE_TRY(std::unique_ptr<KvStore> opened, KvStore::Open(store, group->disk_.get()));
    group->stores_.push_back(std::move(opened));
  }
  VARVE_RETURN_IF_ERROR(group->OpenContext());
  group->StartRanks();
  return group;
}

Result<void> AttentionGroup::OpenContext() {
  VARVE_TRY(const std::vector<ContextManifest> manifests, disk_->ListManifests());
  uint64_t last_id = 0;
  for (const ContextManifest& found : manifests) {
    last_id = std::max(last_id, found.id.value);
    if (found.name != options_.context_name) {
      continue;
    }
    if (found.policy != options_.policy || found.model_hash != kModelHash) {
      return Error{ErrorCode::kConflict,
                   fmt::format("{} has a context '{}' that keeps its KV otherwise; name another "
                               "directory",
                               options_.data_dir,
                               found.name)};
    }
    manifest_ = found;
  }
  if (manifest_.version > 0) {
    for (const std::unique_ptr<KvStore>& store : stores_) {
      VARVE_RETURN_IF_ERROR(store->RecoverContext(manifest_));
    }
    return {};
  }
  manifest_.id = {last_id + 1};
  manifest_.name = options_.context_name;
  manifest_.policy = options_.policy;
  manifest_.model_hash = kModelHash;
  for (const std::unique_ptr<KvStore>& store : stores_) {
    VARVE_RETURN_IF_ERROR(store->CreateContext(manifest_));
  }
  return {};
}

void AttentionGroup::StartRanks() {
  const int num_workers = options_.num_workers;
  group_ = std::make_unique<LocalGroup>(num_workers, num_workers == 1 ? 1 : options_.num_threads);
  for (int rank = 0; rank < num_workers; ++rank) {
    ranks_.push_back(std::make_unique<Rank>(
        RankParts{.config = options_.config,
                  .weights = weights_,
                  .communicator = group_->communicator(rank),
                  .stream = HostStream(),
                  .store = *stores_[static_cast<size_t>(rank)],
                  .num_threads = std::max(1, options_.num_threads / num_workers),
                  .max_step_tokens = 1,
                  .max_step_sequences = 1}));
  }
}

Result<uint64_t> AttentionGroup::DiskBytes() const {
  uint64_t bytes = 0;
  for (const std::unique_ptr<KvStore>& store : stores_) {
    VARVE_TRY(const ContextUsage usage, store->GetContextUsage(manifest_.id));
    bytes += usage.disk_bytes;
  }
  return bytes;
}

Result<void> AttentionGroup::OpenOnAll(SequenceId sequence, const OpenSequenceOptions& options) {
  for (const std::unique_ptr<KvStore>& store : stores_) {
    VARVE_RETURN_IF_ERROR(store->OpenSequence(sequence, options));
  }
  return {};
}

Result<void> AttentionGroup::Fill(
    int64_t num_tokens,
    int64_t chunk_tokens,
    const std::function<void(int64_t first, float* k, float* v)>& make,
    const std::function<void(int64_t tokens)>& on_commit) {
  if (this->num_tokens() >= num_tokens) {
    return {};
  }
  const SequenceId ingest{++last_sequence_};
  VARVE_RETURN_IF_ERROR(OpenOnAll(ingest, {.context = manifest_.id, .policy = options_.policy}));
  const size_t floats = static_cast<size_t>(chunk_tokens) *
                        static_cast<size_t>(options_.config.num_kv_heads) *
                        static_cast<size_t>(options_.config.head_dim);
  std::vector<float> k(floats);
  std::vector<float> v(floats);
  for (int64_t first = this->num_tokens(); first < num_tokens; first += chunk_tokens) {
    make(first, k.data(), v.data());
    VARVE_RETURN_IF_ERROR(
        FillChunk(ingest, static_cast<int32_t>(chunk_tokens), k.data(), v.data()));
    const int64_t end = first + chunk_tokens;
    if (end - this->num_tokens() >= kCommitTokens || end >= num_tokens) {
      VARVE_RETURN_IF_ERROR(Commit(ingest, end));
      on_commit(end);
    }
  }
  return CloseRequest(ingest);
}

// Each store takes its own tokens of the chunk; the threads take the stores.
Result<void> AttentionGroup::FillChunk(SequenceId ingest,
                                       int32_t chunk_tokens,
                                       const float* k,
                                       const float* v) {
  const size_t width = static_cast<size_t>(options_.config.num_kv_heads) *
                       static_cast<size_t>(options_.config.head_dim);
  std::vector<Result<void>> results(stores_.size());
  ThreadTeam team(std::min(options_.num_threads, options_.num_workers));
  team.ParallelFor(stores_.size(), [&](size_t rank, int /*thread*/) {
    KvStore& store = *stores_[rank];
    results[rank] = [&]() -> Result<void> {
      const int64_t first = store.SequenceLength(ingest);
      VARVE_RETURN_IF_ERROR(store.BeginStep(ingest, first, chunk_tokens));
      store.Append(ingest, /*layer=*/0, first, chunk_tokens, k, v, width);
      return store.EndStep(ingest);
    }();
  });
  for (Result<void>& result : results) {
    VARVE_RETURN_IF_ERROR(std::move(result));
  }
  return {};
}

Result<void> AttentionGroup::Commit(SequenceId ingest, int64_t num_tokens) {
  ContextManifest next = manifest_;
  ++next.version;
  next.num_tokens = num_tokens;
  for (const std::unique_ptr<KvStore>& store : stores_) {
    VARVE_RETURN_IF_ERROR(store->PrepareCommit(ingest, next));
  }
  // There is neither text nor tokens: the context is never read back as such.
  VARVE_RETURN_IF_ERROR(disk_->CommitManifest(next, {}));
  for (const std::unique_ptr<KvStore>& store : stores_) {
    VARVE_RETURN_IF_ERROR(store->FinishCommit(next));
  }
  manifest_ = next;
  return {};
}

Result<SequenceId> AttentionGroup::OpenRequest(int64_t base_tokens,
                                               std::optional<SelectiveAttention> selective) {
  const SequenceId sequence{++last_sequence_};
  VARVE_RETURN_IF_ERROR(OpenOnAll(sequence,
                                  {.base = manifest_.id,
                                   .base_tokens = base_tokens,
                                   .selective = selective,
                                   .policy = options_.policy}));
  return sequence;
}

Result<void> AttentionGroup::CloseRequest(SequenceId sequence) {
  for (const std::unique_ptr<KvStore>& store : stores_) {
    VARVE_RETURN_IF_ERROR(store->CloseSequence(sequence));
  }
  return {};
}

// As RunStep (worker/step.cc) with one sequence and one layer, of which only the attention is left.
Task AttentionGroup::Attend(Rank& rank, const StepWork& work, std::vector<float>& output) {
  const SequenceWork& sequence = work.sequence;
  const auto head_dim = static_cast<size_t>(rank.config.head_dim);
  rank.step = work.step;
  rank.exchange = 0;
  rank.errors.assign(1, std::nullopt);
  rank.begin_failures.assign(1, 0.0F);
  rank.end_failures.assign(1, 0.0F);
  rank.failures.assign(1, 0.0F);
  rank.quality.samples.assign(1, {});
  rank.selective.read_lse.resize(static_cast<size_t>(rank.config.num_qo_heads));
  Result<void> begun = rank.store.BeginStep(sequence.sequence, sequence.first_position, 1);
  if (!begun) {
    rank.FailSequence(0, std::move(begun).error());
    rank.begin_failures[0] = 1.0F;
  }
  co_await rank.communicator.AllReduce(
      rank.stream, rank.NextTag(), rank.begin_failures.data(), 1, rank.failures.data());
  if (rank.failures[0] > 0.0F) {
    if (!rank.errors[0]) {
      rank.store.AbortStep(sequence.sequence);
    }
    co_return;
  }
  const bool is_selective = rank.store.Selective(sequence.sequence) != nullptr;
  rank.batch.parts.assign(1,
                          {.work = &sequence,
                           .num_tokens = 1,
                           .wants_logits = true,
                           .is_selective = is_selective,
                           .chooses_pages = is_selective});
  rank.batch.is_selective = is_selective;
  rank.batch.tokens.assign(1, 0);
  rank.batch.positions.assign(1, sequence.first_position);
  const Range own{rank.qkv_heads.begin * head_dim, rank.qkv_heads.count * head_dim};
  std::copy_n(work.qkv.data() + own.begin, own.count, rank.qkv.data() + own.begin);
  const SharedColumns heads{
      .data = rank.qkv.data(), .rows = 1, .stride = rank.qkv_stride, .widths = rank.qkv_widths};
  co_await rank.communicator.AllGather(rank.stream, rank.NextTag(), heads);
  AttentionOutput attended;
  co_await RunAttention(rank, /*layer=*/0, attended);
  std::copy_n(
      attended.data, rank.heads.count * head_dim, output.data() + rank.heads.begin * head_dim);
  rank.end_failures[0] = rank.errors[0] ? 1.0F : 0.0F;
  co_await rank.communicator.AllReduce(
      rank.stream, rank.NextTag(), rank.end_failures.data(), 1, rank.failures.data());
  if (rank.failures[0] > 0.0F) {
    rank.store.AbortStep(sequence.sequence);
    co_return;
  }
  Result<void> ended = rank.store.EndStep(sequence.sequence);
  if (!ended) {
    rank.FailSequence(0, std::move(ended).error());
  }
}

Result<std::vector<float>> AttentionGroup::Step(SequenceId sequence,
                                                const std::vector<float>& q,
                                                const std::vector<float>& k,
                                                const std::vector<float>& v) {
  StepWork work{.step = ++last_step_, .sequence = {.sequence = sequence, .tokens = {0}}, .qkv = q};
  work.sequence.first_position = stores_.front()->SequenceLength(sequence);
  work.qkv.insert(work.qkv.end(), k.begin(), k.end());
  work.qkv.insert(work.qkv.end(), v.begin(), v.end());
  std::vector<float> output(q.size());
  std::vector<Task> tasks;
  for (const std::unique_ptr<Rank>& rank : ranks_) {
    tasks.push_back(Attend(*rank, work, output));
  }
  group_->Run(tasks);
  VARVE_RETURN_IF_ERROR(group_->communicator(0).Status());
  for (const std::unique_ptr<Rank>& rank : ranks_) {
    if (rank->errors[0]) {
      return *rank->errors[0];
    }
  }
  return output;
}

std::optional<PageReads> AttentionGroup::ReadsOf(SequenceId sequence) const {
  std::optional<PageReads> sum;
  for (const std::unique_ptr<KvStore>& store : stores_) {
    if (const std::optional<PageReads> reads = store->SelectedReads(sequence)) {
      sum = sum.value_or(PageReads());
      sum->Add(*reads);
    }
  }
  return sum;
}

WorkerStats AttentionGroup::Stats() const {
  WorkerStats sum;
  for (const std::unique_ptr<KvStore>& store : stores_) {
    const WorkerStats one = store->Stats();
    sum.device.used += one.device.used;
    sum.host.used += one.host.used;
    sum.page_reads_device += one.page_reads_device;
    sum.page_reads_host += one.page_reads_host;
    sum.page_reads_disk += one.page_reads_disk;
    sum.disk_bytes_read += one.disk_bytes_read;
  }
  return sum;
}

}  // namespace varve::cli
