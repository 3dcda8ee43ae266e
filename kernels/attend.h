// Attention of queries over encoded runs of K and V: the one kernel interface through which every
// page is read, whatever its codec, for one query (decode) and for many (prefill).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/codec/codec.h"
#include "kernels/thread_team.h"

namespace varve {

// One run to attend over. Does not own its bytes.
struct KvView {
  CodecId codec;
  const CodecTables* tables = nullptr;  // of the codec and layer; null if the codec needs none
  const Rope* rope = nullptr;           // by which the keys were rotated; null: they were not
  std::span<const std::byte> encoded;   // codec's bytes, laid out for `token_capacity`
  int32_t token_capacity = 0;           // of the encoded run (RunShape::token_capacity)
  int32_t first_token = 0;  // tokens [first_token, first_token + num_tokens) of the run take part
  int32_t num_tokens = 0;
  int64_t first_position = 0;  // position in the sequence of the run's token 0 (not of first_token)

  // Pruned pages: which tokens each head kept, and their weights in the softmax sum. Null: all
  // tokens, weight one.
  const int32_t* token_indices =
      nullptr;                           // [num_kv_heads, num_tokens], offsets from first_position
  const float* token_weights = nullptr;  // [num_kv_heads, num_tokens]

  // A run of keys alone (codec/row_block.h): for calls without `o`. Codecs that code each row by
  // itself only: int8, int4..2, rot4..2.
  bool keys_only = false;

  RunContext context() const {
    return {tables, rope, first_position, token_indices, num_tokens, first_token};
  }
};

struct AttendParams {
  int32_t num_qo_heads =
      0;  // a multiple of num_kv_heads; head h reads kv head h / (num_qo_heads / num_kv_heads)
  int32_t num_kv_heads = 0;
  int32_t head_dim = 0;
  float sm_scale = 1.0F;       // scores are sm_scale * q.k
  float logit_softcap = 0.0F;  // > 0: scores become softcap * tanh(score / softcap) (Gemma 2)
  int64_t window =
      0;  // > 0: the query at position p sees positions in (p - window, p]; 0: all up to p

  const float* q = nullptr;            // [num_queries, num_qo_heads, head_dim], after RoPE
  size_t q_stride = 0;                 // floats from one query to the next
  std::span<const int64_t> positions;  // [num_queries], ascending
  std::span<const KvView> views;       // in page order; positions beyond a query's own are masked

  // In and out: the state so far, into which the views are merged. Start with o = 0, lse =
  // -infinity. o null: only lse_per_view is wanted, and values are not read.
  float* o = nullptr;    // [num_queries, num_qo_heads, head_dim], dense
  float* lse = nullptr;  // [num_queries, num_qo_heads]

  // Optional: the lse of each view alone (observed attention mass per page). [num_views,
  // num_queries, num_qo_heads]
  float* lse_per_view = nullptr;
  // Optional, with lse_per_view: the o of each view alone, too. Views are then not merged: o and
  // lse stay as they are. [num_views, num_queries, num_qo_heads, head_dim]
  float* o_per_view = nullptr;
};

// How far o and lse may be from exact attention over the decoded runs, absolutely and relative to
// them, for values and scores of size 1. Runs of codes of up to 8 bits (int8, int4..2, rot4..2; of
// few queries kivi, too) are computed in integers: codes exactly, queries and softmax weights
// rounded to 16 bits, hundreds of times finer than what the codec itself rounds. So are, for few
// queries, those of codecs that offer words, whose keys are turned in 16 bits, too
// (codec/word_decoder.h).
double AttendTolerance(CodecId codec);

// Scratch memory of Attend, reused from call to call. One per caller; grows to the largest call,
// then never again.
class AttendScratch {
 public:
  AttendScratch();
  ~AttendScratch();
  AttendScratch(AttendScratch&&) noexcept;
  AttendScratch& operator=(AttendScratch&&) noexcept;
  // Makes room for calls of up to this size, so that Attend does not allocate.
  void Reserve(int32_t num_queries,
               int32_t num_qo_heads,
               int32_t num_kv_heads,
               int32_t head_dim,
               int32_t page_tokens,
               int num_threads);
  struct Impl;
  Impl* impl() { return impl_; }

 private:
  Impl* impl_;
};

// Merges the attention over params.views into (o, lse). p.v is accumulated in fp32, view by view
// (in page order), so the result does not depend on how views are grouped into calls beyond
// rounding of the merge, nor on num_threads at all.
void Attend(const AttendParams& params, AttendScratch& scratch, ThreadTeam& team);

}  // namespace varve
