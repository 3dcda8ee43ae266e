// A model under evaluation: worker group, tokenizer, and the few calls of them that the lab makes.
//
// Threads: one caller at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "coordinator/text_model.h"
#include "proto/base/result.h"
#include "worker/local_worker_group.h"

#include "ops/cli/eval/prepared_model.h"

namespace varve::cli {

class LabModel {
 public:
  // Tokens of the longest step, the first of a static evaluation excepted: Open takes that one.
  static constexpr int64_t kStepTokens = 512;

  struct Options {
    std::string weights = "auto";
    int threads = 1;
    int64_t max_step_tokens = kStepTokens;
    std::string data_dir;  // where contexts are kept; empty: in memory
  };
  // `prepared` outlives the model. Errors: as LocalWorkerGroup::Open.
  static Result<std::unique_ptr<LabModel>> Open(const PreparedModel& prepared,
                                                const Options& options);

  const std::string& name() const { return prepared_->name(); }
  double outliers() const { return prepared_->outliers(); }
  const ModelConfig& config() const { return group_->config(); }
  const ModelDescription& description() const { return group_->model(); }
  const TextModel& text() const { return *text_model_; }
  const CodecTableSet* codec_tables() const { return group_->codec_tables(); }  // may be null

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

  const PreparedModel* prepared_ = nullptr;
  std::unique_ptr<TextModel> text_model_;
  std::unique_ptr<LocalWorkerGroup> group_;
  uint64_t num_sequences_ = 0;
  uint64_t num_contexts_ = 0;
  uint64_t step_ = 0;
};

}  // namespace varve::cli
