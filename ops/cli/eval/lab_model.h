// A model under evaluation: worker group, tokenizer, and the few calls of them that the lab makes.
//
// Threads: one caller at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "coordinator/text_model.h"
#include "proto/base/result.h"
#include "worker/local_worker_group.h"

#include "ops/cli/temporary_directory.h"

namespace varve::cli {

class LabModel {
 public:
  // Tokens of the longest step, the first of a static evaluation excepted: Open takes that one.
  static constexpr int64_t kStepTokens = 512;

  struct Options {
    std::string model_dir;
    std::string weights = "auto";
    double outliers = 1;  // other than 1: a copy of the model with such channels (outliers.h)
    uint64_t seed = 1;    // of these channels
    int threads = 1;
    int64_t max_step_tokens = kStepTokens;
    std::string data_dir;  // where contexts are kept; empty: in memory
  };
  // Errors: as LocalWorkerGroup::Open and InjectOutliers.
  static Result<std::unique_ptr<LabModel>> Open(const Options& options);

  const std::string& name() const { return name_; }
  double outliers() const { return outliers_; }
  const ModelConfig& config() const { return group_->config(); }
  const ModelDescription& description() const { return group_->model(); }
  // Whether codecs that need calibrated tables can be measured.
  bool has_tables() const { return group_->codec_tables() != nullptr; }
  const TextModel& text() const { return *text_model_; }
  // The shape of a sealed page of `page_tokens` tokens.
  RunShape PageShape(int32_t page_tokens = KvPolicy().page_tokens) const;

  Result<SequenceId> OpenSequence(const OpenSequenceOptions& options);
  Result<void> CloseSequence(SequenceId sequence) { return group_->CloseSequence(sequence); }

  // Computes these tokens of a sequence. Their logits, [tokens.size(), vocab], if asked for.
  Result<std::vector<float>> Step(SequenceId sequence,
                                  int64_t first_position,
                                  std::span<const int32_t> tokens,
                                  bool with_logits);
  // Computes several sequences' tokens in one step, all with logits. [work.size()]
  Result<std::vector<std::vector<float>>> StepAll(std::vector<SequenceWork> work);

  // Computes a context and commits it. The tokens begin as the model's contexts do.
  Result<ContextId> Ingest(std::span<const int32_t> tokens, const KvPolicy& policy);
  Result<void> Delete(ContextId context) { return group_->DeleteContext(context); }

 private:
  LabModel() = default;

  std::optional<TemporaryDirectory> copy_;
  std::string name_;
  double outliers_ = 1;
  std::unique_ptr<TextModel> text_model_;
  std::unique_ptr<LocalWorkerGroup> group_;
  uint64_t num_sequences_ = 0;
  uint64_t num_contexts_ = 0;
  uint64_t step_ = 0;
};

}  // namespace varve::cli
