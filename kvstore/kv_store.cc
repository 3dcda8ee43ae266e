#include <algorithm>

#include <fmt/format.h>

#include "kvstore/kv_store_impl.h"
#include "proto/base/clock.h"

namespace varve {
namespace {

// What an open sequence costs beside its runs, per layer and altogether.
constexpr uint64_t kSequenceBytes = 1024;
constexpr uint64_t kSequenceLayerBytes = 64;

}  // namespace

Result<std::unique_ptr<KvStore>> KvStore::Open(const KvStoreOptions& options, DiskTier* disk) {
  const KvGeometry& geometry = options.geometry;
  if (geometry.num_kv_heads < 1 || geometry.head_dim < 1 || geometry.layer_windows.empty() ||
      geometry.num_kv_heads > UINT16_MAX || geometry.head_dim > UINT16_MAX ||
      geometry.num_layers() > UINT16_MAX || geometry.num_qo_heads % geometry.num_kv_heads != 0) {
    return Error{ErrorCode::kInvalidArgument,
                 fmt::format("a KV geometry of {} heads of {} in {} layers is out of range",
                             geometry.num_kv_heads,
                             geometry.head_dim,
                             geometry.num_layers())};
  }
  if (options.shard.num_workers < 1 || options.shard.rank < 0 ||
      options.shard.rank >= options.shard.num_workers) {
    return Error{ErrorCode::kInvalidArgument,
                 fmt::format("shard {} of {} workers does not exist",
                             options.shard.rank,
                             options.shard.num_workers)};
  }
  return std::unique_ptr<KvStore>(std::make_unique<KvStoreImpl>(options, disk));
}

KvStoreImpl::KvStoreImpl(const KvStoreOptions& options, DiskTier* disk)
    : options_(options),
      disk_(disk),
      host_("host", options.host_budget_bytes, disk),
      device_(
          options.device_budget_bytes == 0
              ? nullptr
              : std::make_unique<MemoryTier>("device", options.device_budget_bytes, disk, &host_)),
      memory_(device_ == nullptr ? host_ : *device_),
      sealer_(options.geometry),
      chooser_(options.geometry),
      demoter_(options.geometry, disk) {}

Result<SequenceState*> KvStoreImpl::FindSequence(SequenceId sequence) {
  const auto found = sequences_.find(sequence);
  if (found == sequences_.end()) {
    return Error{ErrorCode::kNotFound, fmt::format("sequence {} is not open", sequence.value)};
  }
  return &found->second;
}

SequenceState& KvStoreImpl::OpenedSequence(SequenceId sequence) {
  const auto found = sequences_.find(sequence);
  VARVE_CHECK(found != sequences_.end());
  return found->second;
}

Result<void> KvStoreImpl::EnsureWorkspace(const ResolvedPolicy& policy) {
  const uint64_t bytes = sealer_.WorkspaceBytes(policy);
  if (bytes > workspace_.bytes()) {
    VARVE_TRY(MemoryCharge more,
              memory_.Reserve(bytes - workspace_.bytes(), "the workspace for sealing pages"));
    more.Release();
    workspace_.Release();
    VARVE_TRY(workspace_, memory_.Reserve(bytes, "the workspace for sealing pages"));
    sealer_.Reserve(policy);
  }
  return {};
}

Result<void> KvStoreImpl::OpenSequence(SequenceId sequence, const OpenSequenceOptions& options) {
  return WithoutDemotions([&] { return TryOpenSequence(sequence, options); });
}

Result<void> KvStoreImpl::TryOpenSequence(SequenceId sequence, const OpenSequenceOptions& options) {
  if (sequences_.contains(sequence)) {
    return Error{ErrorCode::kAlreadyExists,
                 fmt::format("sequence {} is open already", sequence.value)};
  }
  if (options.base && options.context) {
    return Error{ErrorCode::kInvalidArgument,
                 "a sequence reads a context or is its ingest, not both"};
  }
  SequenceState state;
  state.id = sequence;
  VARVE_TRY(
      state.charge,
      memory_.Reserve(kSequenceBytes + kSequenceLayerBytes * static_cast<uint64_t>(num_layers()),
                      "a sequence"));
  state.runs.resize(static_cast<size_t>(num_layers()));
  state.window_pages.resize(static_cast<size_t>(num_layers()));
  VARVE_RETURN_IF_ERROR(options.context ? OpenIngest(state, options) : OpenPrivate(state, options));
  if (state.context != nullptr && state.is_ingest) {
    state.context->ingest = sequence;
  } else if (state.context != nullptr) {
    state.context->snapshot_tails.insert(state.base_tail);
    state.context->snapshot_tokens.insert(state.base_tokens);
  }
  sequences_.emplace(sequence, std::move(state));
  return {};
}

Result<void> KvStoreImpl::OpenPrivate(SequenceState& state, const OpenSequenceOptions& options) {
  KvPolicy policy = options.policy;
  uint64_t grid_owner = state.id.value;
  if (options.base) {
    VARVE_TRY(state.context, FindContext(*options.base));
    const ContextState& context = *state.context;
    VARVE_RETURN_IF_ERROR(CheckSnapshot(context, options.base_tokens));
    policy.page_tokens =
        context.committed.policy.page_tokens;  // one grid for the context and what stands behind it
    grid_owner = context.committed.grid_owner().value;
    state.model_hash = context.committed.model_hash;
    state.base_tokens = options.base_tokens;
    state.reads_every_page = options.reads_every_page;
    state.selective = options.selective;
    state.base_length = context.committed.num_tokens;
    state.base_tail = context.committed.committed_tail();
  } else if (options.base_tokens != 0) {
    return Error{ErrorCode::kInvalidArgument, "base_tokens without a base context"};
  }
  VARVE_TRY(state.policy, ResolvedPolicy::Resolve(policy, options_.geometry));
  VARVE_RETURN_IF_ERROR(EnsureWorkspace(state.policy));
  state.grid = PageGrid(policy, options_.shard, grid_owner);
  state.length = state.base_tokens;
  state.sealed_end.assign(static_cast<size_t>(num_layers()), state.own_first_page());
  return {};
}

Result<void> KvStoreImpl::OpenIngest(SequenceState& state, const OpenSequenceOptions& options) {
  VARVE_TRY(state.context, FindContext(*options.context));
  const ContextState& context = *state.context;
  if (context.ingest) {
    return Error{ErrorCode::kConflict,
                 fmt::format("context {} is being written by sequence {}",
                             options.context->value,
                             context.ingest->value)};
  }
  state.is_ingest = true;
  state.policy = context.policy;
  VARVE_RETURN_IF_ERROR(EnsureWorkspace(state.policy));
  state.grid = context.grid;
  state.model_hash = context.committed.model_hash;
  state.length = context.committed.num_tokens;
  state.sealed_end.assign(static_cast<size_t>(num_layers()), state.grid.SealedEnd(state.length));
  return LoadTails(state);
}

// The unsealed pages of the committed state become runs that grow again.
Result<void> KvStoreImpl::LoadTails(SequenceState& state) {
  const PageSegment tails = CommittedSegment(*state.context, PageSegment::Source::kTail);
  for (int32_t layer = 0; layer < num_layers(); ++layer) {
    const int64_t first =
        std::max(tails.first_page, state.grid.FirstReachable(state.length, window(layer)));
    for (int64_t page = state.grid.NextOwned(first); page < tails.end_page;
         page = state.grid.NextOwned(page + 1)) {
      const auto row = static_cast<uint16_t>(layer);
      const PageIdentity identity = tails.IdentityOf(page, row, sealer_.ShapeOf(1));
      VARVE_TRY(auto record,
                LoadRecord(cursor_deps(),
                           tails.IdOf(page, row),
                           identity,
                           sealer_.TailBytes(state.policy, identity)));
      VARVE_TRY(const PageRecord* parsed, record->Use());
      VARVE_TRY(MemoryCharge charge,
                memory_.Reserve(RunBytes(state, page), "the unsealed tail of a context"));
      UnsealedRun run = NewRun(state, page, std::move(charge));
      sealer_.ReadTail(state.policy, *parsed, run);
      state.runs[static_cast<size_t>(layer)].emplace(page, std::move(run));
    }
  }
  return {};
}

Result<void> KvStoreImpl::CloseSequence(SequenceId sequence) {
  VARVE_TRY(SequenceState * state, FindSequence(sequence));
  Result<void> closed;
  if (state->is_ingest) {
    closed = CloseIngest(*state);
  } else {
    counters_.num_pages -= NumSealedPages(*state);
    memory_.EraseOwner(PageKey::Space::kScratch, sequence.value);
    if (disk_ != nullptr) {
      closed = disk_->DeleteScratch(sequence);
    }
    if (state->context != nullptr) {
      ContextState& context = *state->context;
      context.snapshot_tails.erase(context.snapshot_tails.find(state->base_tail));
      context.snapshot_tokens.erase(context.snapshot_tokens.find(state->base_tokens));
      Result<void> released = ReleaseUnneeded(context);
      closed = closed ? std::move(released) : std::move(closed);
    }
  }
  sequences_.erase(sequence);
  return closed;
}

Result<void> KvStoreImpl::BeginStep(SequenceId sequence,
                                    int64_t first_position,
                                    int32_t num_tokens) {
  VARVE_TRY(SequenceState * state, FindSequence(sequence));
  if (num_tokens < 1) {
    return Error{ErrorCode::kInvalidArgument, fmt::format("a step of {} tokens", num_tokens)};
  }
  if (state->step_tokens != 0 || first_position != state->length) {
    return Error{ErrorCode::kConflict,
                 fmt::format("sequence {} is {} tokens long{}: a step cannot begin at {}",
                             sequence.value,
                             state->length,
                             state->step_tokens != 0 ? " and in a step" : "",
                             first_position)};
  }
  memory_.Tick();
  if (ObservesMass(sequence)) {
    NoteUse(*state->context);
  }
  state->step_tokens = num_tokens;
  const int64_t end_page = state->grid.NumPages(first_position + num_tokens);
  Result<void> reserved = WithoutDemotions([&] { return TryBeginStep(*state, end_page); });
  if (!reserved) {
    AbortStep(sequence);
  }
  return reserved;
}

Result<void> KvStoreImpl::TryBeginStep(SequenceState& state, int64_t end_page) {
  // Room must remain to read pages back, two at a time, or the step could fail half-way.
  const uint64_t keep_free = disk_ == nullptr ? 0 : 2 * sealer_.WorkspaceBytes(state.policy);
  VARVE_RETURN_IF_ERROR(FillKeyIndexes(state, keep_free));
  VARVE_RETURN_IF_ERROR(FillKeySketches(state, keep_free));
  VARVE_RETURN_IF_ERROR(ReserveRuns(state, end_page, keep_free));
  VARVE_RETURN_IF_ERROR(ReserveKeyIndexes(state, end_page, keep_free));
  return ReserveLadder(state, end_page, keep_free);
}

Result<void> KvStoreImpl::ReserveRuns(SequenceState& state, int64_t end_page, uint64_t keep_free) {
  for (auto& runs : state.runs) {
    int64_t page = state.grid.NextOwned(state.grid.PageOf(state.length));
    for (; page < end_page; page = state.grid.NextOwned(page + 1)) {
      if (!runs.contains(page)) {
        VARVE_TRY(
            MemoryCharge charge,
            memory_.Reserve(RunBytes(state, page), "the unsealed tail of a sequence", keep_free));
        runs.emplace(page, NewRun(state, page, std::move(charge)));
      }
    }
  }
  return {};
}

void KvStoreImpl::AbortStep(SequenceId sequence) {
  SequenceState& state = OpenedSequence(sequence);
  state.step_tokens = 0;
  for (auto& runs : state.runs) {
    std::erase_if(runs,
                  [&](const auto& entry) { return entry.second.first_position >= state.length; });
  }
}

void KvStoreImpl::Append(SequenceId sequence,
                         int32_t layer,
                         int64_t first_position,
                         int32_t num_tokens,
                         const float* k,
                         const float* v,
                         size_t token_stride) {
  SequenceState& state = OpenedSequence(sequence);
  VARVE_CHECK(first_position >= state.length &&
              first_position + num_tokens <= state.length + state.step_tokens);
  auto& runs = state.runs[static_cast<size_t>(layer)];
  const int64_t end = first_position + num_tokens;
  int64_t page = state.grid.NextOwned(state.grid.PageOf(first_position));
  for (; state.grid.FirstPosition(page) < end; page = state.grid.NextOwned(page + 1)) {
    UnsealedRun& run = runs.at(page);
    const int64_t from = std::max(first_position, run.first_position);
    const int64_t to = std::min(end, run.first_position + run.token_capacity);
    const size_t skip = static_cast<size_t>(from - first_position) * token_stride;
    state.policy.exact->Encode(sealer_.ShapeOf(run.token_capacity),
                               static_cast<int32_t>(from - run.first_position),
                               static_cast<int32_t>(to - from),
                               k + skip,
                               v + skip,
                               token_stride,
                               {},
                               run.bytes);
  }
}

PageSegment KvStoreImpl::OwnSegment(const SequenceState& state,
                                    int32_t layer,
                                    PageSegment::Source source) const {
  PageSegment segment;
  segment.source = source;
  segment.space = state.space();
  segment.owner = state.owner();
  if (state.is_ingest) {
    segment.shared = state.context->shared_ranges;
  }
  segment.model_hash = state.model_hash;
  segment.grid = state.grid;
  segment.policy = state.policy;
  segment.first_position = state.base_tokens;
  segment.length = state.length + state.step_tokens;
  segment.visible_end = segment.length;
  const int64_t sealed_end = state.sealed_end[static_cast<size_t>(layer)];
  const bool sealed = source == PageSegment::Source::kSealed;
  segment.first_page = sealed ? state.own_first_page() : sealed_end;
  segment.end_page = sealed ? sealed_end : state.grid.NumPages(segment.length);
  segment.runs = sealed ? nullptr : &state.runs[static_cast<size_t>(layer)];
  return segment;
}

// The context as of its snapshot: sealed pages, then the tails of the snapshot's version.
void KvStoreImpl::AddBaseSegments(const SequenceState& state,
                                  int64_t low_position,
                                  std::vector<PageSegment>& segments) const {
  if (state.is_ingest || low_position >= state.base_tokens) {
    return;
  }
  for (const auto source : {PageSegment::Source::kSealed, PageSegment::Source::kTail}) {
    PageSegment segment = CommittedSegment(*state.context, source);
    const int64_t sealed_end = segment.grid.SealedEnd(state.base_length);
    const bool sealed = source == PageSegment::Source::kSealed;
    if (!sealed) {
      segment.owner = state.base_tail.owner.value;
      segment.tail_version = state.base_tail.version;
    }
    segment.length = state.base_length;
    segment.visible_end = state.base_tokens;
    segment.first_page = std::max(segment.grid.PageOf(low_position), sealed ? 0 : sealed_end);
    segment.end_page = segment.grid.NumPages(state.base_tokens);
    segment.end_page = sealed ? std::min(segment.end_page, sealed_end) : segment.end_page;
    segments.push_back(std::move(segment));
  }
}

std::unique_ptr<PageCursor> KvStoreImpl::Read(SequenceId sequence,
                                              int32_t layer,
                                              int64_t first_query,
                                              int64_t last_query,
                                              const float* q,
                                              size_t q_stride) {
  SequenceState& state = OpenedSequence(sequence);
  VARVE_CHECK(first_query >= 0 && first_query <= last_query &&
              last_query < state.length + state.step_tokens);
  const int64_t low =
      window(layer) == 0 ? 0 : std::max<int64_t>(0, first_query - window(layer) + 1);
  std::vector<PageSegment> segments;
  AddBaseSegments(state, low, segments);
  if (const PageRange selectable = SelectableRange(state, layer);
      selectable.first < selectable.end) {
    LeaveOut(selectable, segments);
  }
  if (q != nullptr && Selects(state) && window(layer) == 0) {
    SelectPages(state, layer, {q, q_stride, last_query - first_query + 1}, segments);
  }
  for (const auto source : {PageSegment::Source::kSealed, PageSegment::Source::kUnsealed}) {
    PageSegment segment = OwnSegment(state, layer, source);
    segment.visible_end = last_query + 1;
    if (segment.visible_end <= state.base_tokens) {
      continue;  // nothing of its own yet
    }
    segment.first_page = std::max(segment.first_page, segment.grid.PageOf(low));
    segment.end_page = std::min(segment.end_page, segment.grid.NumPages(segment.visible_end));
    segments.push_back(std::move(segment));
  }
  return MakePageCursor(cursor_deps(), static_cast<uint16_t>(layer), std::move(segments));
}

Result<void> KvStoreImpl::EndStep(SequenceId sequence) {
  VARVE_TRY(SequenceState * state, FindSequence(sequence));
  VARVE_CHECK(state->step_tokens > 0);
  state->length += state->step_tokens;
  state->step_tokens = 0;
  for (int32_t layer = 0; layer < num_layers(); ++layer) {
    const int64_t reachable = state->grid.FirstReachable(state->length, window(layer));
    auto& runs = state->runs[static_cast<size_t>(layer)];
    runs.erase(runs.begin(), runs.lower_bound(reachable));
  }
  VARVE_RETURN_IF_ERROR(SealOld(*state));
  return state->is_ingest ? ReleaseWindowPages(*state->context->own) : ReleaseWindowPages(*state);
}

}  // namespace varve
