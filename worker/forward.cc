#include "worker/forward.h"

#include "worker/attention.h"

namespace varve {
namespace {

// Normalises the own tokens into their rows of rank.x.
void NormaliseOwnRows(Rank& rank, const VectorView& weight) {
  const auto hidden = static_cast<size_t>(rank.config.hidden_size);
  float* own_rows = rank.x.data() + rank.batch.own_tokens.begin * hidden;
  ForTokenBlocks(rank, rank.batch.own_tokens.count, [&](size_t first, size_t count) {
    RmsNorm(rank.skip.data() + first * hidden,
            hidden,
            count,
            hidden,
            weight.data,
            weight.dtype,
            rank.config.norm_weight_offset,
            rank.config.norm_eps,
            own_rows + first * hidden,
            hidden);
  });
}

SharedColumns RowsOfX(Rank& rank) {
  return {
      .data = rank.x.data(), .rows = 1, .stride = rank.x.size(), .widths = rank.batch.row_widths};
}

// Projects the heads of `own` that lie in the `num_heads` heads from `first_head` on, into their
// columns of rank.qkv. Normalises and rotates them if asked to.
struct HeadProjection {
  size_t first_head;
  size_t num_heads;
  const WeightView& weight;
  const VectorView& bias;
  const VectorView* norm;   // null or absent: none
  const float* rope_table;  // null: no rotation
};

void ProjectHeads(Rank& rank, const HeadProjection& projection) {
  const Range own = Overlap(rank.qkv_heads, projection.first_head, projection.num_heads);
  if (own.count == 0) {
    return;
  }
  const auto head_dim = static_cast<size_t>(rank.config.head_dim);
  const auto hidden = static_cast<size_t>(rank.config.hidden_size);
  const size_t stride = rank.qkv_stride;
  const Range rows{own.begin * head_dim, own.count * head_dim};
  const VectorView bias = projection.bias.Slice(rows.begin, rows.count);
  float* out = rank.qkv.data() + (projection.first_head + own.begin) * head_dim;
  MatMul(rank.x.data(),
         hidden,
         rank.num_tokens(),
         projection.weight.Rows(rows.begin, rows.count),
         bias.data,
         bias.dtype,
         out,
         stride,
         rank.team);
  const bool has_norm = projection.norm != nullptr && projection.norm->data != nullptr;
  if (!has_norm && projection.rope_table == nullptr) {
    return;
  }
  ForTokenBlocks(rank, rank.num_tokens(), [&](size_t first, size_t count) {
    float* heads = out + first * stride;
    for (size_t head = 0; has_norm && head < own.count; ++head) {
      float* values = heads + head * head_dim;
      RmsNorm(values,
              stride,
              count,
              head_dim,
              projection.norm->data,
              projection.norm->dtype,
              rank.config.norm_weight_offset,
              rank.config.norm_eps,
              values,
              stride);
    }
    if (projection.rope_table != nullptr) {
      ApplyRope(
          heads, stride, count, own.count, head_dim, projection.rope_table + first * head_dim);
    }
  });
}

void ProjectQkv(Rank& rank, int32_t layer, bool with_queries) {
  const LayerWeights& weights = rank.weights.layers[static_cast<size_t>(layer)];
  const int32_t rope = rank.config.layers[static_cast<size_t>(layer)].rope;
  const float* rope_table =
      rope >= 0 ? rank.rope_tables[static_cast<size_t>(rope)].data() : nullptr;
  const auto qo_heads = static_cast<size_t>(rank.config.num_qo_heads);
  const auto kv_heads = static_cast<size_t>(rank.config.num_kv_heads);
  if (with_queries) {
    ProjectHeads(rank, {0, qo_heads, weights.q, weights.q_bias, &weights.q_norm, rope_table});
  }
  ProjectHeads(rank, {qo_heads, kv_heads, weights.k, weights.k_bias, &weights.k_norm, rope_table});
  ProjectHeads(rank, {qo_heads + kv_heads, kv_heads, weights.v, weights.v_bias, nullptr, nullptr});
}

// A bias behind a sum over ranks is added by one of them.
const void* BiasOfSum(const Rank& rank, const VectorView& bias) {
  return rank.is_first() ? bias.data : nullptr;
}

// This rank's term of the output projection: the columns of the heads that it merged.
void ProjectOutput(Rank& rank, const LayerWeights& weights, const AttentionOutput& attended) {
  const auto head_dim = static_cast<size_t>(rank.config.head_dim);
  MatMul(attended.data,
         attended.stride,
         rank.num_tokens(),
         weights.o.Cols(rank.heads.begin * head_dim, rank.heads.count * head_dim),
         BiasOfSum(rank, weights.o_bias),
         weights.o_bias.dtype,
         rank.partial.data(),
         static_cast<size_t>(rank.config.hidden_size),
         rank.team);
}

// This rank's term of the FFN: its features.
void FeedForward(Rank& rank, const LayerWeights& weights) {
  const auto hidden = static_cast<size_t>(rank.config.hidden_size);
  const size_t num_tokens = rank.num_tokens();
  const Range ffn = rank.ffn;
  const auto project = [&](const WeightView& weight, const VectorView& bias, float* out) {
    const VectorView own_bias = bias.Slice(ffn.begin, ffn.count);
    MatMul(rank.x.data(),
           hidden,
           num_tokens,
           weight.Rows(ffn.begin, ffn.count),
           own_bias.data,
           own_bias.dtype,
           out,
           ffn.count,
           rank.team);
  };
  project(weights.gate, weights.gate_bias, rank.gate.data());
  project(weights.up, weights.up_bias, rank.up.data());
  ForTokenBlocks(rank, num_tokens, [&](size_t first, size_t count) {
    GatedActivation(rank.config.activation,
                    rank.gate.data() + first * ffn.count,
                    rank.up.data() + first * ffn.count,
                    count * ffn.count);
  });
  MatMul(rank.gate.data(),
         ffn.count,
         num_tokens,
         weights.down.Cols(ffn.begin, ffn.count),
         BiasOfSum(rank, weights.down_bias),
         weights.down_bias.dtype,
         rank.partial.data(),
         hidden,
         rank.team);
}

// skip += norm(sum) for the own tokens; no norm if the weight is absent.
void AddToSkip(Rank& rank, const VectorView& norm) {
  const auto hidden = static_cast<size_t>(rank.config.hidden_size);
  float* sum = rank.summed_rows();
  ForTokenBlocks(rank, rank.batch.own_tokens.count, [&](size_t first, size_t count) {
    float* rows = sum + first * hidden;
    if (norm.data != nullptr) {
      RmsNorm(rows,
              hidden,
              count,
              hidden,
              norm.data,
              norm.dtype,
              rank.config.norm_weight_offset,
              rank.config.norm_eps,
              rows,
              hidden);
    }
    AddInPlace(rank.skip.data() + first * hidden, rows, count * hidden);
  });
}

}  // namespace

Task RunLayer(Rank& rank, int32_t layer) {
  const RankSpan span(rank, "worker/forward");
  const LayerWeights& weights = rank.weights.layers[static_cast<size_t>(layer)];
  const auto hidden = static_cast<size_t>(rank.config.hidden_size);
  Communicator& communicator = rank.communicator;

  // 1. Normalise own tokens; every rank gets all.
  NormaliseOwnRows(rank, weights.input_norm);
  co_await communicator.AllGather(rank.stream, rank.NextTag(), RowsOfX(rank));

  // 2. Own heads of q, k and v; every rank gets all.
  const bool stores_only = layer + 1 == rank.config.num_layers && !rank.batch.wants_logits;
  ProjectQkv(rank, layer, !stores_only || rank.batch.observes_queries);
  const SharedColumns heads{.data = rank.qkv.data(),
                            .rows = rank.num_tokens(),
                            .stride = rank.qkv_stride,
                            .widths = rank.qkv_widths};
  co_await communicator.AllGather(rank.stream, rank.NextTag(), heads);

  if (stores_only) {
    AppendKv(rank, layer);
    co_return;
  }

  // 3. Attention over all workers' pages, then the output projection of the own heads, summed for
  // the own tokens.
  AttentionOutput attended;
  co_await RunAttention(rank, layer, attended);
  ProjectOutput(rank, weights, attended);
  co_await communicator.ReduceScatter(rank.stream,
                                      rank.NextTag(),
                                      rank.partial.data(),
                                      rank.batch.token_counts,
                                      hidden,
                                      rank.summed_rows());
  AddToSkip(rank, weights.post_attention_norm);

  // 4. FFN likewise.
  NormaliseOwnRows(rank, weights.pre_ffn_norm);
  co_await communicator.AllGather(rank.stream, rank.NextTag(), RowsOfX(rank));
  FeedForward(rank, weights);
  co_await communicator.ReduceScatter(rank.stream,
                                      rank.NextTag(),
                                      rank.partial.data(),
                                      rank.batch.token_counts,
                                      hidden,
                                      rank.summed_rows());
  AddToSkip(rank, weights.post_ffn_norm);
}

}  // namespace varve
