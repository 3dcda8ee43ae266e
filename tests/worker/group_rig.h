// Drives a LocalWorkerGroup in tests: opens sequences, feeds tokens in chunks, collects logits or
// samples.
#pragma once

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "tests/support/result_matchers.h"
#include "tests/worker/model_files.h"
#include "worker/local_worker_group.h"
#include "worker/safetensors.h"

namespace varve {

// KV in fp32 everywhere; pages so short that a golden's few tokens fill several on every worker.
inline KvPolicy ExactPolicy(int32_t page_tokens = 8) {
  return {.codec = "f32",
          .exact_codec = "f32",
          .page_tokens = page_tokens,
          .sink_tokens = 3,
          .recent_window_tokens = 5};
}

inline KvPolicy PolicyOf(const std::string& codec, const std::string& exact_codec) {
  KvPolicy policy = ExactPolicy();
  policy.codec = codec;
  policy.exact_codec = exact_codec;
  return policy;
}

struct Golden {
  std::vector<int32_t> tokens;  // [T]
  std::vector<float> logits;    // [T, vocab]
  size_t vocab = 0;
};

inline Golden LoadGolden(const std::string& name) {
  Golden golden;
  Result<SafetensorsModel> file =
      SafetensorsModel::OpenFile(GoldenDir(name) + "/golden.safetensors");
  EXPECT_OK(file);
  const Tensor& ids = file->tensors().at("input_ids");
  const Tensor& logits = file->tensors().at("logits");
  const size_t width = ids.type == TensorType::kI64 ? 8 : 4;
  for (size_t i = 0; i < ids.bytes.size() / width; ++i) {
    int32_t id = 0;
    std::memcpy(&id, ids.bytes.data() + i * width, sizeof(id));  // little-endian: the low half
    golden.tokens.push_back(id);
  }
  golden.logits.resize(logits.bytes.size() / sizeof(float));
  std::memcpy(golden.logits.data(), logits.bytes.data(), logits.bytes.size());
  golden.vocab = logits.shape.back();
  return golden;
}

// max|a - b| / max|b|
inline double RelativeDifference(std::span<const float> a, std::span<const float> b) {
  EXPECT_EQ(a.size(), b.size());
  double largest = 0.0;
  double difference = 0.0;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    largest = std::max(largest, static_cast<double>(std::fabs(b[i])));
    // Written so that a NaN counts.
    const double d = std::fabs(static_cast<double>(a[i]) - b[i]);
    difference = d <= difference ? difference : d;
  }
  return difference / largest;
}

class GroupRig {
 public:
  explicit GroupRig(LocalWorkerGroupOptions options) : options_(std::move(options)) { Open(); }
  GroupRig(const std::string& model_dir, int num_workers, int num_threads = 2)
      : GroupRig(LocalWorkerGroupOptions{.model_dir = model_dir,
                                         .num_workers = num_workers,
                                         .num_threads = num_threads,
                                         .host_budget_bytes = uint64_t{64} << 20,
                                         .max_step_tokens = 512}) {}

  void Open() {
    Result<std::unique_ptr<LocalWorkerGroup>> opened = LocalWorkerGroup::Open(options_);
    ASSERT_OK(opened);
    group_ = std::move(opened).value();
  }
  void Reopen() {
    group_.reset();
    Open();
  }

  LocalWorkerGroup& group() { return *group_; }
  const LocalWorkerGroupOptions& options() const { return options_; }

  SequenceId OpenPrivate(const KvPolicy& policy) {
    const SequenceId sequence{next_sequence_++};
    EXPECT_OK(group_->OpenSequence(sequence, {.policy = policy}));
    return sequence;
  }
  SequenceId OpenOn(const OpenSequenceOptions& options) {
    const SequenceId sequence{next_sequence_++};
    EXPECT_OK(group_->OpenSequence(sequence, options));
    return sequence;
  }

  Result<StepResult> Step(std::vector<SequenceWork> work) {
    return group_->Step({.epoch = epoch_, .step = ++step_, .work = std::move(work)});
  }
  // A step that must succeed for its only sequence.
  SequenceResult StepOne(SequenceWork work) {
    Result<StepResult> result = Step({std::move(work)});
    EXPECT_OK(result);
    if (!result) {
      return {};
    }
    EXPECT_FALSE(result->results[0].error) << result->results[0].error->ToString();
    return std::move(result->results[0]);
  }

  // Logits of all `tokens`, fed in chunks from `position` on.
  std::vector<float> Feed(SequenceId sequence,
                          std::span<const int32_t> tokens,
                          size_t chunk,
                          int64_t position = 0) {
    std::vector<float> logits;
    for (size_t first = 0; first < tokens.size(); first += chunk) {
      const std::span<const int32_t> part =
          tokens.subspan(first, std::min(chunk, tokens.size() - first));
      const SequenceResult result =
          StepOne({.sequence = sequence,
                   .first_position = position + static_cast<int64_t>(first),
                   .tokens = {part.begin(), part.end()},
                   .return_all_logits = true});
      logits.insert(logits.end(), result.logits.begin(), result.logits.end());
    }
    return logits;
  }

  // Greedy tokens after a prompt.
  std::vector<int32_t> Generate(SequenceId sequence, std::vector<int32_t> prompt, size_t count) {
    std::vector<int32_t> generated;
    int64_t position = 0;
    std::vector<int32_t> next = std::move(prompt);
    while (generated.size() < count) {
      const auto length = static_cast<int64_t>(next.size());
      const SequenceResult result = StepOne({.sequence = sequence,
                                             .first_position = position,
                                             .tokens = std::move(next),
                                             .sample = true});
      if (!result.sampled) {
        ADD_FAILURE() << "nothing sampled";
        return generated;
      }
      position += length;
      next = {result.sampled->token};
      generated.push_back(result.sampled->token);
    }
    return generated;
  }

 private:
  LocalWorkerGroupOptions options_;
  std::unique_ptr<LocalWorkerGroup> group_;
  Epoch epoch_{1};
  uint64_t step_ = 0;
  uint64_t next_sequence_ = 1;
};

}  // namespace varve
