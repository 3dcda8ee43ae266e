#include "worker/local_worker_group.h"

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <mutex>
#include <thread>

#include <fmt/format.h>

#include "proto/base/clock.h"
#include "proto/base/file.h"
#include "proto/base/hash.h"
#include "proto/base/log.h"
#include "proto/base/units.h"
#include "worker/codec_tables.h"

namespace varve {
namespace {

constexpr uint64_t kMaxConfigBytes = uint64_t{1} << 24;
constexpr int kMaxWorkers = 256;
// A batch of half a megabyte takes tens of milliseconds of a core, and is a tenth of the time.
constexpr std::chrono::milliseconds kMaintenancePeriod{50};
constexpr double kDemotionCpuShare = 0.1;  // of one core, all workers together

std::string NameOf(const std::string& directory) {
  const std::filesystem::path path = std::filesystem::path(directory).lexically_normal();
  return path.has_filename() ? path.filename().string() : path.parent_path().filename().string();
}

Result<void> CheckOptions(const LocalWorkerGroupOptions& options) {
  const auto check = [](bool holds, std::string_view what) {
    return holds ? Result<void>() : Error{ErrorCode::kInvalidArgument, std::string(what)};
  };
  VARVE_RETURN_IF_ERROR(check(
      options.weights == "auto" || options.weights == "int8",
      fmt::format("weights '{}'; there are auto (as they are stored) and int8", options.weights)));
  VARVE_RETURN_IF_ERROR(
      check(options.num_workers >= 1 && options.num_workers <= kMaxWorkers,
            fmt::format("{} workers; there can be 1 to {}", options.num_workers, kMaxWorkers)));
  VARVE_RETURN_IF_ERROR(
      check(options.num_threads >= 0,
            fmt::format("{} threads; there must be 0 or more", options.num_threads)));
  VARVE_RETURN_IF_ERROR(
      check(options.max_step_tokens >= 1 && options.max_step_tokens <= 65536,
            fmt::format("{} tokens per step; there can be 1 to 65536", options.max_step_tokens)));
  return check(
      options.max_step_sequences >= 1 && options.max_step_sequences <= 4096,
      fmt::format("{} sequences per step; there can be 1 to 4096", options.max_step_sequences));
}

int NumThreads(const LocalWorkerGroupOptions& options) {
  const int cores = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  return options.num_threads > 0 ? options.num_threads : cores;
}

void ConvertWeights(const LocalWorkerGroupOptions& options, ModelWeights& weights) {
  const Clock& clock = SystemClock();
  const int64_t begin_us = clock.NowUs();
  const uint64_t stored_bytes = weights.bytes;
  ThreadTeam team(NumThreads(options));
  HoldInInt8(weights, team);
  spdlog::info("weights held in int8: {} in memory, {} as stored; converted in {:.1f} s",
               FormatBytes(weights.blocks.count() * sizeof(WeightBlock)),
               FormatBytes(stored_bytes),
               static_cast<double>(clock.NowUs() - begin_us) * 1e-6);
}

}  // namespace

Result<std::unique_ptr<LocalWorkerGroup>> LocalWorkerGroup::Open(
    const LocalWorkerGroupOptions& options) {
  VARVE_RETURN_IF_ERROR(CheckOptions(options));
  VARVE_TRY(const std::string config_text,
            ReadFile(options.model_dir + "/config.json", kMaxConfigBytes));
  VARVE_TRY(ModelConfig config, ParseModelConfig(config_text));
  VARVE_TRY(ModelWeights weights, LoadWeights(options.model_dir, config));
  const uint64_t stored_hash = weights.model_hash;
  if (options.weights == "int8") {
    ConvertWeights(options, weights);
  }
  std::unique_ptr<LocalWorkerGroup> group(
      new LocalWorkerGroup(options, std::move(config), std::move(weights)));
  VARVE_RETURN_IF_ERROR(group->LoadTables(stored_hash));
  VARVE_RETURN_IF_ERROR(group->OpenStores());
  VARVE_RETURN_IF_ERROR(group->RecoverContexts());
  group->StartRanks();
  group->StartMaintenance();
  return group;
}

LocalWorkerGroup::LocalWorkerGroup(const LocalWorkerGroupOptions& options,
                                   ModelConfig config,
                                   ModelWeights weights)
    : options_(options), config_(std::move(config)), weights_(std::move(weights)) {
  description_ = {.name = NameOf(options.model_dir),
                  .architecture = config_.architecture,
                  .vocab_size = config_.vocab_size,
                  .max_positions = config_.max_positions,
                  .num_layers = config_.num_layers,
                  .model_hash = weights_.model_hash,
                  .weight_bytes = weights_.bytes,
                  .weights = options.weights};
}

LocalWorkerGroup::~LocalWorkerGroup() = default;

Result<void> LocalWorkerGroup::LoadTables(uint64_t stored_hash) {
  geometry_ = config_.Geometry();
  if (!options_.use_tables) {
    return {};
  }
  std::string path = options_.tables_file;
  if (path.empty()) {
    path = fmt::format("{}/{}", options_.model_dir, kCodecTablesFile);
    if (!FileExists(path)) {
      return {};
    }
  }
  VARVE_TRY(geometry_.codec_tables, LoadCodecTables(path, config_, stored_hash));
  return {};
}

Result<void> LocalWorkerGroup::OpenStores() {
  if (!options_.data_dir.empty()) {
    VARVE_RETURN_IF_ERROR(MakeDirectories(options_.data_dir));
    VARVE_TRY(disk_,
              DiskTier::Open(
                  {.directory = options_.data_dir, .budget_bytes = options_.disk_budget_bytes}));
  }
  catalog_ = std::make_unique<ContextManifests>(disk_.get());
  const auto num_workers = static_cast<uint64_t>(options_.num_workers);
  for (int32_t rank = 0; rank < options_.num_workers; ++rank) {
    const KvStoreOptions store{
        .geometry = geometry_,
        .shard = {.rank = rank, .num_workers = options_.num_workers},
        .host_budget_bytes = options_.host_budget_bytes / num_workers,
        .device_budget_bytes = options_.device_budget_bytes / num_workers,
        .demotion_cpu_share = kDemotionCpuShare / static_cast<double>(num_workers)};
    VARVE_TRY(std::unique_ptr<KvStore> opened, KvStore::Open(store, disk_.get()));
    stores_.push_back(std::move(opened));
  }
  return {};
}

Result<void> LocalWorkerGroup::RecoverContexts() {
  if (disk_ == nullptr) {
    return {};
  }
  VARVE_TRY(const std::vector<ContextManifest> manifests, disk_->ListManifests());
  for (const ContextManifest& manifest : manifests) {
    catalog_->AddRecovered(manifest);
    if (const Result<void> readable = CheckReadable(manifest); !readable) {
      spdlog::warn("{}; it can be listed and deleted, not read", readable.error().message);
      continue;
    }
    for (const std::unique_ptr<KvStore>& store : stores_) {
      VARVE_RETURN_IF_ERROR(store->RecoverContext(manifest));
    }
  }
  for (const std::unique_ptr<KvStore>& store : stores_) {
    VARVE_RETURN_IF_ERROR(store->FinishRecovery());
  }
  return {};
}

void LocalWorkerGroup::StartRanks() {
  const int num_threads = NumThreads(options_);
  const int num_workers = options_.num_workers;
  group_ = std::make_unique<LocalGroup>(num_workers, num_workers == 1 ? 1 : num_threads);
  for (int rank = 0; rank < num_workers; ++rank) {
    ranks_.push_back(std::make_unique<Rank>(
        RankParts{.config = config_,
                  .weights = weights_,
                  .communicator = group_->communicator(rank),
                  .stream = HostStream(),
                  .store = *stores_[static_cast<size_t>(rank)],
                  .num_threads = std::max(1, num_threads / num_workers),
                  .max_step_tokens =
                      static_cast<int32_t>(options_.max_step_tokens + options_.max_step_sequences),
                  .max_step_sequences = static_cast<int32_t>(options_.max_step_sequences),
                  .probe = rank == 0 ? options_.probe : nullptr,
                  .quality_share = options_.quality_share}));
  }
}

void LocalWorkerGroup::StartMaintenance() {
  maintenance_ = std::make_unique<Ticker>(kMaintenancePeriod, [this] {
    const std::lock_guard guard(stores_mutex_);
    for (const std::unique_ptr<KvStore>& store : stores_) {
      store->Maintain();
    }
  });
}

Result<void> LocalWorkerGroup::CheckPlan(const StepPlan& plan) const {
  if (has_stepped_ && (plan.epoch < epoch_ || (plan.epoch == epoch_ && plan.step <= last_step_))) {
    return Error{ErrorCode::kStaleEpoch,
                 fmt::format("step {} of epoch {} comes after step {} of epoch {}",
                             plan.step,
                             plan.epoch.value,
                             last_step_,
                             epoch_.value)};
  }
  size_t num_tokens = 0;
  for (const SequenceWork& work : plan.work) {
    num_tokens += work.tokens.size();
  }
  const int64_t max_tokens = options_.max_step_tokens + options_.max_step_sequences;
  if (num_tokens > static_cast<size_t>(max_tokens) ||
      plan.work.size() > static_cast<size_t>(options_.max_step_sequences)) {
    return Error{ErrorCode::kInvalidArgument,
                 fmt::format("a step of {} tokens in {} sequences; the limits are {} and {}",
                             num_tokens,
                             plan.work.size(),
                             max_tokens,
                             options_.max_step_sequences)};
  }
  return {};
}

Result<void> LocalWorkerGroup::CheckWork(const SequenceWork& work) const {
  if (work.tokens.empty() || work.first_position < 0) {
    return Error{ErrorCode::kInvalidArgument,
                 fmt::format("sequence {} has {} tokens from position {} on in this step",
                             work.sequence.value,
                             work.tokens.size(),
                             work.first_position)};
  }
  if (work.first_position + static_cast<int64_t>(work.tokens.size()) > config_.max_positions) {
    return Error{ErrorCode::kContextLength,
                 fmt::format("sequence {} would be {} tokens long; the model takes {} ({})",
                             work.sequence.value,
                             work.first_position + static_cast<int64_t>(work.tokens.size()),
                             config_.max_positions,
                             config_.max_positions_because)};
  }
  for (const int32_t token : work.tokens) {
    if (token < 0 || token >= config_.vocab_size) {
      return Error{
          ErrorCode::kInvalidArgument,
          fmt::format("token {} is outside the vocabulary of {}", token, config_.vocab_size)};
    }
  }
  return {};
}

Result<StepResult> LocalWorkerGroup::Step(const StepPlan& plan) {
  const std::lock_guard guard(stores_mutex_);
  VARVE_RETURN_IF_ERROR(CheckPlan(plan));
  has_stepped_ = true;
  epoch_ = plan.epoch;
  last_step_ = plan.step;

  // What is wrong with a sequence by itself keeps it out of the step.
  StepResult result;
  result.results.resize(plan.work.size());
  std::vector<const SequenceWork*> work;
  std::vector<size_t> places;  // in plan.work
  step_sequences_.clear();
  for (size_t i = 0; i < plan.work.size(); ++i) {
    result.results[i].sequence = plan.work[i].sequence;
    Result<void> checked = CheckWork(plan.work[i]);
    if (checked && !step_sequences_.insert(plan.work[i].sequence.value).second) {
      checked = Error{ErrorCode::kInvalidArgument,
                      fmt::format("sequence {} is twice in one step", plan.work[i].sequence.value)};
    }
    if (!checked) {
      result.results[i].error = std::move(checked).error();
      continue;
    }
    work.push_back(&plan.work[i]);
    places.push_back(i);
  }
  if (work.empty()) {
    return result;
  }

  const StepJob job{.epoch = plan.epoch, .step = plan.step, .work = work};
  std::vector<SequenceResult> computed(work.size());
  std::vector<Task> tasks;
  for (const std::unique_ptr<Rank>& rank : ranks_) {
    tasks.push_back(
        RunStep(*rank, job, rank->is_first() ? std::span(computed) : std::span<SequenceResult>()));
  }
  group_->Run(tasks);
  VARVE_RETURN_IF_ERROR(group_->communicator(0).Status());

  for (size_t i = 0; i < work.size(); ++i) {
    SequenceResult& one = result.results[places[i]];
    for (const std::unique_ptr<Rank>& rank : ranks_) {
      if (rank->errors[i] && !one.error) {
        one.error = std::move(rank->errors[i]);
      }
    }
    if (!one.error) {
      one = std::move(computed[i]);
      one.sequence = work[i]->sequence;
      one.page_reads = PageReadsOf(one.sequence);
      for (const std::unique_ptr<Rank>& rank : ranks_) {
        const std::vector<QualitySample>& samples = rank->quality.samples[i];
        one.quality.insert(one.quality.end(), samples.begin(), samples.end());
      }
    }
  }
  return result;
}

std::optional<PageReads> LocalWorkerGroup::PageReadsOf(SequenceId sequence) const {
  std::optional<PageReads> sum;
  for (const std::unique_ptr<KvStore>& store : stores_) {
    if (const std::optional<PageReads> reads = store->SelectedReads(sequence)) {
      sum = sum.value_or(PageReads());
      sum->Add(*reads);
    }
  }
  return sum;
}

std::vector<WorkerStats> LocalWorkerGroup::Stats() {
  std::vector<WorkerStats> stats;
  for (const std::unique_ptr<KvStore>& store : stores_) {
    stats.push_back(store->Stats());
  }
  if (disk_ != nullptr) {
    stats.front().disk_file_bytes_written = disk_->GetStats().file_bytes_written;
  }
  return stats;
}

std::vector<KvStore::HeldPage> LocalWorkerGroup::HeldPages(int worker) {
  const std::lock_guard guard(stores_mutex_);
  return stores_[static_cast<size_t>(worker)]->HeldPages();
}

}  // namespace varve
