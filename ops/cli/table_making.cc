#include "ops/cli/table_making.h"

#include <algorithm>
#include <atomic>
#include <memory>

#include <fmt/format.h>

#include "kernels/thread_team.h"
#include "proto/base/file.h"
#include "worker/calibration.h"
#include "worker/local_worker_group.h"
#include "worker/sensitivity.h"

namespace varve::cli {
namespace {

constexpr uint64_t kHostBytes = uint64_t{16} << 30;  // a budget, not an allocation
constexpr int64_t kStepTokens = 256;

int64_t CountTokens(const std::vector<std::vector<int32_t>>& sequences) {
  int64_t total = 0;
  for (const std::vector<int32_t>& tokens : sequences) {
    total += static_cast<int64_t>(tokens.size());
  }
  return total;
}

// Runs the sequences through the model while its probe looks on.
Result<void> Observe(LocalWorkerGroup& group,
                     const std::vector<std::vector<int32_t>>& sequences,
                     const TableProgress& progress) {
  const int64_t total = CountTokens(sequences);
  uint64_t step = 0;
  int64_t done = 0;
  for (size_t i = 0; i < sequences.size(); ++i) {
    const SequenceId sequence{i + 1};
    VARVE_RETURN_IF_ERROR(group.OpenSequence(sequence, {}));
    const auto length = static_cast<int64_t>(sequences[i].size());
    for (int64_t first = 0; first < length; first += kStepTokens) {
      const int64_t end = std::min(first + kStepTokens, length);
      // All logits: else the last layer would compute no queries.
      VARVE_TRY(const StepResult result,
                group.Step(
                    {.epoch = {1},
                     .step = ++step,
                     .work = {{.sequence = sequence,
                               .first_position = first,
                               .tokens = {sequences[i].begin() + first, sequences[i].begin() + end},
                               .return_all_logits = true}}}));
      if (result.results[0].error) {
        return *result.results[0].error;
      }
      progress("tokens", done += end - first, total);
    }
    VARVE_RETURN_IF_ERROR(group.CloseSequence(sequence));
  }
  return {};
}

CodecTableSet Calibrate(const std::vector<CalibrationSample>& samples,
                        const std::vector<const Codec*>& codecs,
                        int num_threads,
                        const TableProgress& progress) {
  std::vector<CodecTables> made(samples.size() * codecs.size());
  const auto total = static_cast<int64_t>(made.size());
  std::atomic<int64_t> done{0};
  ThreadTeam team(num_threads);
  team.ParallelFor(made.size(), [&](size_t i, int thread) {
    made[i] = codecs[i % codecs.size()]->Calibrate(samples[i / codecs.size()]);
    ++done;
    if (thread == 0) {
      progress("tables", std::min<int64_t>(done, total - 1), total);
    }
  });
  progress("tables", total, total);
  CodecTableSet set;
  for (size_t i = 0; i < made.size(); ++i) {
    set.Add(codecs[i % codecs.size()]->id(),
            static_cast<int32_t>(i / codecs.size()),
            std::move(made[i]));
  }
  return set;
}

}  // namespace

std::vector<std::vector<int32_t>> CutSequences(std::span<const int32_t> tokens,
                                               std::optional<int32_t> bos,
                                               int64_t sequence_tokens) {
  std::vector<std::vector<int32_t>> sequences;
  const auto length = static_cast<size_t>(sequence_tokens);
  for (size_t first = 0; first < tokens.size(); first += length) {
    std::vector<int32_t>& sequence = sequences.emplace_back();
    if (bos) {
      sequence.push_back(*bos);
    }
    const auto own = tokens.subspan(first, std::min(length, tokens.size() - first));
    sequence.insert(sequence.end(), own.begin(), own.end());
  }
  return sequences;
}

Result<MadeTables> MakeCodecTables(const TableMaking& making, const TableProgress& progress) {
  const int64_t total = CountTokens(making.sequences);
  if (total < kLeastCalibrationTokens) {
    return Error{ErrorCode::kInvalidArgument,
                 fmt::format("the texts have {} tokens; at least {} are needed, 4,096 or more are "
                             "good",
                             total,
                             kLeastCalibrationTokens)};
  }
  VARVE_TRY(const std::string config_text, ReadFile(making.model_dir + "/config.json"));
  VARVE_TRY(const ModelConfig config, ParseModelConfig(config_text));
  CalibrationCollector collector(config);
  VARVE_TRY(const std::unique_ptr<LocalWorkerGroup> group,
            LocalWorkerGroup::Open({.model_dir = making.model_dir,
                                    .use_tables = false,
                                    .num_workers = 1,
                                    .num_threads = making.threads,
                                    .host_budget_bytes = kHostBytes,
                                    .max_step_tokens = kStepTokens,
                                    .probe = &collector}));
  std::optional<Sensitivity> sensitivity;
  if (!making.sensitivity_file.empty()) {
    VARVE_TRY(sensitivity,
              Sensitivity::Open(
                  making.sensitivity_file, config, group->model().model_hash, making.sequences));
  }
  VARVE_RETURN_IF_ERROR(Observe(*group, making.sequences, progress));
  std::vector<CalibrationSample> samples = collector.Take();
  if (sensitivity) {
    sensitivity->FillIn(KvPolicy().sink_tokens, &samples);
  }
  return MadeTables{Calibrate(samples, making.codecs, making.threads, progress),
                    group->model().model_hash};
}

}  // namespace varve::cli
