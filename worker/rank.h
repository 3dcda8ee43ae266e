// One worker of the group while it computes: its slices of the model, its store, its threads, and
// all buffers of a step, sized once for the longest step.
//
// Layout over N ranks (T tokens in the step):
//   tokens     rank r holds the skip connection of its part of the tokens and normalises only
//   those; the result is gathered.
//              (A ReduceScatter and an AllGather move what one AllReduce would, and norms are not
//              repeated N times.)
//   heads      the q, k and v heads, one after the other, are split; a rank projects, normalises
//   and rotates its own; gathered states     every rank attends all q heads over its own pages;
//   rank r merges its part of the q heads features   FFN and vocabulary are split evenly
// Any part may be empty.
//
// Threads: used by one thread at a time (with its team).
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "kernels/attend.h"
#include "kernels/thread_team.h"
#include "kvstore/kv_store.h"
#include "proto/base/trace.h"
#include "proto/step_plan.h"
#include "worker/communicator.h"
#include "worker/kv_probe.h"
#include "worker/model_config.h"
#include "worker/page_mass.h"
#include "worker/partition.h"
#include "worker/quality_meter.h"
#include "worker/sampler.h"
#include "worker/selective_scratch.h"
#include "worker/task.h"
#include "worker/weights.h"

namespace varve {

// What a rank needs to be one; the references outlive it.
struct RankParts {
  const ModelConfig& config;
  const ModelWeights& weights;
  Communicator& communicator;
  Stream& stream;
  KvStore& store;
  int num_threads = 1;
  int32_t max_step_tokens = 0;
  int32_t max_step_sequences = 0;
  KvProbe* probe = nullptr;    // may be null
  double quality_share = 0.0;  // of steps and layers that the quality meter samples
};

// The sequences of a step that take part, their tokens one after the other.
struct Batch {
  struct Part {
    const SequenceWork* work = nullptr;
    size_t index = 0;        // in the step's list of work
    size_t first_token = 0;  // of the batch
    size_t num_tokens = 0;
    bool wants_logits = false;      // of some of its tokens
    bool observes_queries = false;  // the store is shown them (KvStore::Observe)
    bool observes_mass = false;     // the store is shown the mass of pages (worker/page_mass.h)
    bool is_selective = false;      // KvStore::Selective
    bool chooses_pages = false;     // it is, or its context's policy has it read some pages
  };
  std::vector<Part> parts;
  bool wants_logits = false;         // some part does
  bool observes_queries = false;     // some part does
  bool is_selective = false;         // some part is
  std::vector<int32_t> tokens;       // [T]
  std::vector<int64_t> positions;    // [T]
  std::vector<size_t> token_counts;  // [num_ranks]; tokens whose skip connection a rank holds
  std::vector<size_t> row_widths;    // [num_ranks]; token_counts * hidden, for gathering rows
  Range own_tokens;
};

struct Rank {
  explicit Rank(const RankParts& parts);

  FrameArena& frames() { return frame_arena; }
  size_t num_tokens() const { return batch.tokens.size(); }
  bool is_first() const { return communicator.rank() == 0; }
  ExchangeTag NextTag() { return {epoch, step, exchange++}; }
  // Where the sum over ranks of `partial` for the own tokens arrives; no copy in a group of one.
  float* summed_rows() { return communicator.size() == 1 ? partial.data() : summed.data(); }
  // Whether a layer computes keys and values only: nobody reads what the last one gives for a part
  // without logits, as in all but the last chunk of a prompt.
  bool StoresOnly(const Batch::Part& part, int32_t layer) const {
    return layer + 1 == config.num_layers && !part.wants_logits;
  }
  // The first error of a sequence counts.
  void FailSequence(size_t work_index, Error error);

  const ModelConfig& config;
  const ModelWeights& weights;
  Communicator& communicator;
  Stream& stream;
  KvStore& store;
  KvProbe* const probe;
  ThreadTeam team;
  AttendScratch scratch;
  PageMass page_mass;
  FrameArena frame_arena;
  SamplerScratch sampler_scratch;
  SelectiveScratch selective;
  QualityMeter quality;

  // Slices, fixed.
  std::vector<size_t> qkv_widths;     // [num_ranks]; floats of the q, k and v heads of a rank
  std::vector<size_t> head_counts;    // [num_ranks]; q heads that a rank merges
  std::vector<size_t> head_widths;    // [num_ranks]; floats of them
  std::vector<size_t> moment_widths;  // [num_ranks]; floats of the moments of them
  std::vector<size_t> mass_widths;    // [num_ranks]; floats of their metered masses
  std::vector<size_t> vocab_widths;   // [num_ranks]
  Range qkv_heads;                    // own, counted over q heads, then k heads, then v heads
  Range heads;                        // own q heads to merge
  Range ffn;
  Range vocab;
  size_t qkv_stride = 0;  // (num_qo_heads + 2 * num_kv_heads) * head_dim

  // The step at hand.
  Epoch epoch;
  uint64_t step = 0;
  uint64_t exchange = 0;
  Batch batch;
  std::vector<std::optional<Error>> errors;  // [num work]; what went wrong on this rank
  std::vector<char> begun;                   // [num work]; BeginStep succeeded here
  std::vector<float> begin_failures;         // [num work]; 1: BeginStep failed here
  std::vector<float> end_failures;           // [num work]; 1: failed here in the step
  std::vector<float> failures;               // [num work]; summed over ranks

  // Buffers. T: max_step_tokens, own T: the largest number of tokens that a rank holds.
  std::span<float> x;       // replicated. [T, hidden], normalised
  std::span<float> qkv;     // replicated. [T, qkv_stride]
  std::span<float> logits;  // replicated. [logit_rows, vocab]
  size_t logit_rows = 0;
  std::vector<float> skip;     // [own T, hidden]
  std::vector<float> summed;   // [own T, hidden]
  std::vector<float> partial;  // [T, hidden]; this rank's term of a sum
  std::vector<float> o;        // [T, num_qo_heads, head_dim]; state over the own pages
  std::vector<float> lse;      // [T, num_qo_heads]
  std::vector<float> merged;   // [T, own heads, head_dim]
  std::vector<float> gate;     // [T, own ffn]
  std::vector<float> up;       // [T, own ffn]
  std::vector<std::vector<float>> rope_tables;  // [num ropes][T, head_dim / 2, 2]
  std::vector<ReceivedRows> received;           // [kMaxSentMatrices, num_ranks]
  std::vector<size_t> logit_tokens;      // [rows]; tokens of the batch whose logits are wanted
  std::vector<size_t> logit_row_widths;  // [num_ranks]
};

// Calls body(first, count) for blocks of `count` tokens, over the rank's threads where that is
// worth a hand-over.
template <typename Body>
void ForTokenBlocks(Rank& rank, size_t num_tokens, Body&& body) {
  constexpr size_t kSmallest = 16;
  const auto threads = static_cast<size_t>(rank.team.num_threads());
  if (threads == 1 || num_tokens < 2 * kSmallest) {
    if (num_tokens > 0) {
      body(size_t{0}, num_tokens);
    }
    return;
  }
  const size_t block = std::max(kSmallest, (num_tokens + 4 * threads - 1) / (4 * threads));
  rank.team.ParallelFor((num_tokens + block - 1) / block, [&](size_t index, int /*thread*/) {
    const size_t first = index * block;
    body(first, std::min(block, num_tokens - first));
  });
}

// A trace span of the first rank; the other ranks, which do the same, record none.
class RankSpan {
 public:
  RankSpan(const Rank& rank, std::string_view name) {
    if (rank.is_first()) {
      span_.emplace(name);
    }
  }

 private:
  std::optional<TraceSpan> span_;
};

}  // namespace varve
