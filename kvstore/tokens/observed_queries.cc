#include "kvstore/tokens/observed_queries.h"

#include <algorithm>
#include <cmath>

#include "kernels/dense.h"
#include "proto/base/check.h"

namespace varve {
namespace {

// Bounds the matrix of scores, whatever the size of a page.
constexpr int64_t kBlockQueries = 32;

// Turns scores into softmax weights and adds them to `mass`.
void AddSoftmax(std::span<float> scores, std::span<float> mass) {
  const float highest = *std::max_element(scores.begin(), scores.end());
  float sum = 0;
  for (float& score : scores) {
    score = std::exp(score - highest);
    sum += score;
  }
  if (!(sum > 0)) {
    return;  // keys or queries that are not numbers say nothing
  }
  for (size_t i = 0; i < scores.size(); ++i) {
    mass[i] += scores[i] / sum;
  }
}

}  // namespace

ObservedQueries::ObservedQueries(int64_t first_position, int64_t end_position, size_t row_floats)
    : first_position_(first_position),
      end_position_(end_position),
      row_floats_(row_floats),
      rows_(static_cast<size_t>(end_position - first_position) * row_floats) {}

void ObservedQueries::Observe(int64_t first_position,
                              int32_t num_tokens,
                              const float* q,
                              size_t token_stride) {
  const int64_t from = std::max(first_position, first_position_);
  const int64_t to = std::min(first_position + num_tokens, end_position_);
  if (from >= to) {
    return;
  }
  for (int64_t position = from; position < to; ++position) {
    NarrowToBf16(q + static_cast<size_t>(position - first_position) * token_stride,
                 row_floats_,
                 rows_.data() + static_cast<size_t>(position - first_position_) * row_floats_);
  }
  if (first_seen_ == end_seen_) {
    first_seen_ = from;
  }
  end_seen_ = std::max(end_seen_, to);
}

void QueryNorms(const ObservedQueries& queries,
                const KvGeometry& geometry,
                double share,
                std::span<float> norms) {
  VARVE_CHECK(norms.size() == static_cast<size_t>(geometry.num_qo_heads));
  std::fill(norms.begin(), norms.end(), 0.0F);
  const auto num_queries = static_cast<size_t>(queries.end_seen() - queries.first_seen());
  if (num_queries == 0) {
    return;
  }
  const auto head_dim = static_cast<size_t>(geometry.head_dim);
  const auto rank = static_cast<ptrdiff_t>(share * static_cast<double>(num_queries - 1));
  std::vector<float> row(head_dim);
  std::vector<float> of_head(num_queries);
  for (size_t head = 0; head < norms.size(); ++head) {
    for (size_t i = 0; i < num_queries; ++i) {
      Widen(queries.Row(queries.first_seen() + static_cast<int64_t>(i)) + head * head_dim,
            DType::kBf16,
            head_dim,
            row.data());
      double sum = 0;
      for (const float x : row) {
        sum += static_cast<double>(x) * static_cast<double>(x);
      }
      // What is not a number has no place in an order.
      of_head[i] = sum >= 0 ? static_cast<float>(std::sqrt(sum)) : INFINITY;
    }
    std::nth_element(of_head.begin(), of_head.begin() + rank, of_head.end());
    norms[head] = of_head[static_cast<size_t>(rank)];
  }
}

uint64_t MassMeter::ScratchBytes(int32_t num_tokens) const {
  return static_cast<uint64_t>(kBlockQueries) *
         static_cast<uint64_t>(geometry_.head_dim + num_tokens) * sizeof(float);
}

void MassMeter::Reserve(int32_t num_tokens) {
  q_.resize(static_cast<size_t>(kBlockQueries) * static_cast<size_t>(geometry_.head_dim));
  scores_.resize(std::max(scores_.size(),
                          static_cast<size_t>(kBlockQueries) * static_cast<size_t>(num_tokens)));
}

void MassMeter::Measure(const ObservedQueries& queries,
                        const ObservedKeys& keys,
                        std::span<float> mass) {
  const auto num_tokens = static_cast<size_t>(keys.num_tokens);
  VARVE_CHECK(mass.size() == static_cast<size_t>(geometry_.num_qo_heads) * num_tokens);
  Reserve(keys.num_tokens);
  std::fill(mass.begin(), mass.end(), 0.0F);
  for (int32_t head = 0; head < geometry_.num_qo_heads; ++head) {
    AddHead(queries, keys, head, mass.subspan(static_cast<size_t>(head) * num_tokens, num_tokens));
  }
}

void MassMeter::AddHead(const ObservedQueries& queries,
                        const ObservedKeys& keys,
                        int32_t head,
                        std::span<float> mass) {
  const auto head_dim = static_cast<size_t>(geometry_.head_dim);
  const auto kv_heads = static_cast<size_t>(geometry_.num_kv_heads);
  const size_t kv_head =
      static_cast<size_t>(head) / (static_cast<size_t>(geometry_.num_qo_heads) / kv_heads);
  const WeightView view{.data = keys.k + kv_head * head_dim,
                        .dtype = DType::kF32,
                        .rows = mass.size(),
                        .cols = head_dim,
                        .row_stride = kv_heads * head_dim};
  for (int64_t first = queries.first_seen(); first < queries.end_seen(); first += kBlockQueries) {
    const int64_t count = std::min(kBlockQueries, queries.end_seen() - first);
    for (int64_t i = 0; i < count; ++i) {
      float* q = q_.data() + static_cast<size_t>(i) * head_dim;
      Widen(
          queries.Row(first + i) + static_cast<size_t>(head) * head_dim, DType::kBf16, head_dim, q);
      ScaleInPlace(q, geometry_.sm_scale, head_dim);
    }
    MatMul(q_.data(),
           head_dim,
           static_cast<size_t>(count),
           view,
           nullptr,
           DType::kF32,
           scores_.data(),
           mass.size(),
           team_);
    if (geometry_.attn_softcap > 0) {
      SoftcapInPlace(
          scores_.data(), geometry_.attn_softcap, static_cast<size_t>(count) * mass.size());
    }
    for (int64_t i = 0; i < count; ++i) {
      const int64_t position = first + i;
      const int64_t low = keys.window > 0 ? position - keys.window + 1 : 0;
      const int64_t begin = std::clamp<int64_t>(low - keys.first_position, 0, keys.num_tokens);
      const int64_t end =
          std::clamp<int64_t>(position + 1 - keys.first_position, begin, keys.num_tokens);
      if (begin < end) {
        float* row = scores_.data() + static_cast<size_t>(i) * mass.size();
        AddSoftmax({row + begin, row + end},
                   mass.subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin)));
      }
    }
  }
}

}  // namespace varve
