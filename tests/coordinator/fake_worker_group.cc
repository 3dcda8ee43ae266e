#include "tests/coordinator/fake_worker_group.h"

#include <chrono>
#include <utility>

#include "proto/base/check.h"
#include "proto/base/rng.h"

namespace varve {
namespace {

constexpr auto kPatience = std::chrono::seconds(60);

}  // namespace

FakeWorkerGroup::FakeWorkerGroup() {
  model_ = ModelDescription{.name = "fake",
                            .architecture = "FakeForCausalLM",
                            .vocab_size = kFakeVocab,
                            .max_positions = 100000,
                            .num_layers = 2,
                            .model_hash = 0xabc,
                            .weight_bytes = 1};
}

#define VARVE_FAKE_SET(statement)       \
  {                                     \
    const std::lock_guard lock(mutex_); \
    statement;                          \
  }                                     \
  changed_.notify_all()

void FakeWorkerGroup::FailNextStep(Error error) {
  VARVE_FAKE_SET(step_error_ = std::move(error));
}
void FakeWorkerGroup::FailSequenceAt(int32_t token, Error error) {
  VARVE_FAKE_SET(sequence_errors_[token] = std::move(error));
}
void FakeWorkerGroup::FailOpen(std::optional<Error> error) {
  VARVE_FAKE_SET(open_error_ = std::move(error));
}
void FakeWorkerGroup::FailCommit(std::optional<Error> error) {
  VARVE_FAKE_SET(commit_error_ = std::move(error));
}
void FakeWorkerGroup::FailCreate(std::optional<Error> error) {
  VARVE_FAKE_SET(create_error_ = std::move(error));
}
void FakeWorkerGroup::FailDelete(std::optional<Error> error) {
  VARVE_FAKE_SET(delete_error_ = std::move(error));
}
void FakeWorkerGroup::FailManifests(std::optional<Error> error) {
  const std::lock_guard lock(mutex_);
  manifest_error_ = std::move(error);
}
void FakeWorkerGroup::FailList(std::optional<Error> error) {
  VARVE_FAKE_SET(list_error_ = std::move(error));
}
void FakeWorkerGroup::HoldSteps(bool held) {
  VARVE_FAKE_SET(held_ = held);
}
void FakeWorkerGroup::ReleaseSteps(int num_steps) {
  VARVE_FAKE_SET(released_ += num_steps);
}
void FakeWorkerGroup::ReadPagesByChoice(PageReads in_each_step) {
  const std::lock_guard lock(mutex_);
  reads_of_step_ = in_each_step;
}

void FakeWorkerGroup::SampleQuality(std::vector<QualitySample> in_each_step) {
  const std::lock_guard lock(mutex_);
  quality_of_step_ = std::move(in_each_step);
}

void FakeWorkerGroup::HoldList(bool held) {
  VARVE_FAKE_SET(list_held_ = held);
}
void FakeWorkerGroup::OnStep(std::function<void(const StepPlan&)> hook) {
  VARVE_FAKE_SET(on_step_ = std::move(hook));
}
void FakeWorkerGroup::AddContext(StoredContext context) {
  context.committed = true;
  VARVE_FAKE_SET(contexts_[context.manifest.id.value] = std::move(context));
}

#undef VARVE_FAKE_SET

std::vector<StepPlan> FakeWorkerGroup::plans() const {
  const std::lock_guard lock(mutex_);
  return plans_;
}

size_t FakeWorkerGroup::num_open() const {
  const std::lock_guard lock(mutex_);
  return sequences_.size();
}

size_t FakeWorkerGroup::num_closed() const {
  const std::lock_guard lock(mutex_);
  return num_closed_;
}

std::optional<FakeWorkerGroup::StoredContext> FakeWorkerGroup::Stored(
    const std::string& name) const {
  const std::lock_guard lock(mutex_);
  for (const auto& [id, context] : contexts_) {
    if (context.manifest.name == name && context.committed) {
      return context;
    }
  }
  return std::nullopt;
}

std::vector<OpenSequenceOptions> FakeWorkerGroup::opened() const {
  const std::lock_guard lock(mutex_);
  return opened_;
}

bool FakeWorkerGroup::WaitUntil(
    const std::function<bool(const FakeWorkerGroup&)>& condition) const {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, kPatience, [&] { return condition(*this); });
}

TokenLogprob FakeWorkerGroup::Draw(Sequence* sequence, const SequenceWork& work) const {
  if (sequence->prompt_tokens < 0) {
    sequence->prompt_tokens = static_cast<int64_t>(sequence->tokens.size());
  }
  if (work.sampling.temperature > 0) {
    const uint64_t draw =
        Mix64(work.sampling.seed ^ Mix64(static_cast<uint64_t>(sequence->length)));
    return {static_cast<int32_t>('a' + draw % 26), -1.0F};
  }
  // A BOS is not repeated.
  const int64_t skip = sequence->tokens.front() == kFakeBos ? 1 : 0;
  const int64_t period = sequence->prompt_tokens - skip;
  int64_t index = static_cast<int64_t>(sequence->tokens.size()) - sequence->prompt_tokens;
  if (period == 0) {
    return {kFakeEos, -1.0F};
  }
  if (sequence->tokens[static_cast<size_t>(skip)] == '*') {
    index %= period;
  }
  return index < period ? TokenLogprob{sequence->tokens[static_cast<size_t>(skip + index)], -1.0F}
                        : TokenLogprob{kFakeEos, -1.0F};
}

Result<StepResult> FakeWorkerGroup::Step(const StepPlan& plan) {
  std::unique_lock lock(mutex_);
  plans_.push_back(plan);
  changed_.notify_all();
  if (on_step_) {
    on_step_(plan);
  }
  VARVE_CHECK(changed_.wait_for(lock, kPatience, [&] { return !held_ || released_ > 0; }));
  released_ -= held_ ? 1 : 0;
  if (step_error_) {
    return *std::exchange(step_error_, std::nullopt);
  }
  StepResult result;
  for (const SequenceWork& work : plan.work) {
    VARVE_CHECK(sequences_.contains(work.sequence.value) && !work.tokens.empty());
    Sequence& sequence = sequences_[work.sequence.value];
    VARVE_CHECK(work.first_position == sequence.length);
    SequenceResult& sequence_result = result.results.emplace_back();
    sequence_result.sequence = work.sequence;
    for (const int32_t token : work.tokens) {
      if (sequence_errors_.contains(token)) {
        sequence_result.error = sequence_errors_[token];
      }
    }
    if (sequence_result.error) {
      continue;
    }
    sequence.tokens.insert(sequence.tokens.end(), work.tokens.begin(), work.tokens.end());
    sequence.length += static_cast<int64_t>(work.tokens.size());
    if (reads_of_step_ && sequence.options.base) {
      sequence.page_reads.Add(*reads_of_step_);
      sequence_result.page_reads = sequence.page_reads;
      sequence_result.quality = quality_of_step_;
    }
    if (work.sample) {
      sequence_result.sampled = Draw(&sequence, work);
      for (int32_t i = 0; i < work.num_top_logprobs; ++i) {
        sequence_result.top_logprobs.push_back(
            {(sequence_result.sampled->token + i) % kFakeVocab, -static_cast<float>(i + 1)});
      }
    }
  }
  return result;
}

Result<void> FakeWorkerGroup::OpenSequence(SequenceId sequence,
                                           const OpenSequenceOptions& options) {
  const std::lock_guard lock(mutex_);
  if (open_error_) {
    return *open_error_;
  }
  VARVE_CHECK(!sequences_.contains(sequence.value) && !(options.base && options.context));
  Sequence& opened = sequences_[sequence.value];
  opened.options = options;
  if (options.base) {
    VARVE_CHECK(contexts_.contains(options.base->value));
    VARVE_CHECK(contexts_[options.base->value].manifest.num_tokens >= options.base_tokens);
    opened.length = options.base_tokens;
  }
  if (options.context) {
    VARVE_CHECK(contexts_.contains(options.context->value));
    opened.length = contexts_[options.context->value].manifest.num_tokens;
  }
  opened_.push_back(options);
  changed_.notify_all();
  return {};
}

Result<void> FakeWorkerGroup::CloseSequence(SequenceId sequence) {
  const std::lock_guard lock(mutex_);
  VARVE_CHECK(sequences_.erase(sequence.value) == 1);
  ++num_closed_;
  changed_.notify_all();
  return {};
}

std::vector<WorkerStats> FakeWorkerGroup::Stats() {
  std::vector<WorkerStats> stats(2);
  stats[1].host = TierBytes{.used = 5, .budget = 100};
  stats[1].page_reads_disk = 7;
  stats[1].selective_pages_read = 3;
  stats[1].selective_pages_total = 11;
  stats[1].rungs[2] = {.pages = 4, .bytes = 40};
  stats[1].demotions[1] = 6;
  stats[1].demoted_bytes[1] = 60;
  stats[1].demotion_failures[1] = 2;
  return stats;
}

}  // namespace varve
