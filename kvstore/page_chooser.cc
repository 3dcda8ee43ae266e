#include "kvstore/page_chooser.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "kernels/dense.h"
#include "proto/base/check.h"

namespace varve {
namespace {

constexpr size_t kRows = 32;  // queries that are multiplied at once

}  // namespace

PageChooser::PageChooser(const KvGeometry& geometry)
    : geometry_(geometry),
      q_(kRows * static_cast<size_t>(geometry.head_dim)),
      ranks_(static_cast<size_t>(geometry.num_kv_heads)) {}

uint64_t PageChooser::WorkspaceBytes(int32_t clusters) const {
  const size_t products = KeyIndex::kBlockPages * static_cast<size_t>(clusters);
  return kRows * (static_cast<size_t>(geometry_.head_dim) + products) * sizeof(float);
}

std::vector<int64_t> PageChooser::Choose(const KeyIndex& index,
                                         int64_t first,
                                         int64_t end,
                                         int64_t count,
                                         const StepQueries& queries) {
  VARVE_CHECK(first >= 0 && count >= 0 && count <= end - first && end <= index.num_pages());
  std::vector<int64_t> chosen;
  if (count == end - first) {
    chosen.resize(static_cast<size_t>(count));
    std::iota(chosen.begin(), chosen.end(), first);
    return chosen;
  }
  for (size_t head = 0; head < ranks_.size(); ++head) {
    ScoreHead(index, head, end, queries);
    Rank(head, first, end, count);
  }
  // Each head's next page, and which pages are taken.
  std::vector<size_t> next(ranks_.size(), 0);
  std::vector<bool> taken(static_cast<size_t>(end));
  for (size_t turn = 0; std::ssize(chosen) < count; ++turn) {
    const size_t head = turn % ranks_.size();
    // A head never runs out: it has `count` pages in its order, and fewer are taken.
    while (taken[static_cast<size_t>(ranks_[head][next[head]])]) {
      ++next[head];
    }
    chosen.push_back(ranks_[head][next[head]]);
    taken[static_cast<size_t>(chosen.back())] = true;
  }
  std::sort(chosen.begin(), chosen.end());
  return chosen;
}

void PageChooser::ScoreHead(const KeyIndex& index,
                            size_t kv_head,
                            int64_t end,
                            const StepQueries& queries) {
  const auto head_dim = static_cast<size_t>(geometry_.head_dim);
  const size_t group = static_cast<size_t>(geometry_.num_qo_heads) / ranks_.size();
  scores_.assign(static_cast<size_t>(end), -std::numeric_limits<float>::infinity());
  size_t num_rows = 0;
  for (int64_t token = 0; token < queries.num_tokens; ++token) {
    const float* q =
        queries.q + static_cast<size_t>(token) * queries.token_stride + kv_head * group * head_dim;
    for (size_t i = 0; i < group; ++i) {
      std::copy_n(q + i * head_dim, head_dim, q_.data() + num_rows * head_dim);
      if (++num_rows == kRows) {
        RaiseScores(index, kv_head, num_rows);
        num_rows = 0;
      }
    }
  }
  RaiseScores(index, kv_head, num_rows);
}

void PageChooser::RaiseScores(const KeyIndex& index, size_t kv_head, size_t num_rows) {
  const auto head_dim = static_cast<size_t>(geometry_.head_dim);
  const auto clusters = static_cast<size_t>(index.clusters());
  constexpr auto kPages = static_cast<size_t>(KeyIndex::kBlockPages);
  products_.resize(std::max(products_.size(), kRows * kPages * clusters));
  for (size_t first = 0; first < scores_.size(); first += kPages) {
    const size_t num_pages = std::min(kPages, scores_.size() - first);
    const WeightView centroids{
        .data = index.BlockRows(static_cast<int64_t>(first / kPages)) + kv_head * head_dim,
        .dtype = DType::kBf16,
        .rows = num_pages * clusters,
        .cols = head_dim,
        .row_stride = ranks_.size() * head_dim};
    MatMul(q_.data(),
           head_dim,
           num_rows,
           centroids,
           nullptr,
           DType::kF32,
           products_.data(),
           centroids.rows,
           team_);
    for (size_t row = 0; row < num_rows; ++row) {
      const float* products = products_.data() + row * centroids.rows;
      for (size_t i = 0; i < centroids.rows; ++i) {
        float& score = scores_[first + i / clusters];
        score = std::max(score, products[i]);  // what is not a number raises nothing
      }
    }
  }
}

void PageChooser::Rank(size_t kv_head, int64_t first, int64_t end, int64_t count) {
  std::vector<int64_t>& ranks = ranks_[kv_head];
  ranks.resize(static_cast<size_t>(end - first));
  std::iota(ranks.begin(), ranks.end(), first);
  const auto higher = [&](int64_t a, int64_t b) {
    const float score_a = scores_[static_cast<size_t>(a)];
    const float score_b = scores_[static_cast<size_t>(b)];
    return score_a > score_b || (score_a == score_b && a < b);
  };
  std::partial_sort(ranks.begin(), ranks.begin() + count, ranks.end(), higher);
}

}  // namespace varve
