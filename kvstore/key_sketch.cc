#include "kvstore/key_sketch.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>

#include "kernels/codec/bf16_block.h"
#include "kernels/codec/rot_block.h"
#include "kernels/dense.h"
#include "proto/base/check.h"

namespace varve {
namespace {

constexpr size_t kBits = 2;
constexpr CodecId kCodec = CodecId::kRot2;
constexpr uint64_t kPageOverheadBytes = 16;
constexpr float kNoMass = -std::numeric_limits<float>::infinity();
// Pages by whose bounds a head's limit is found, about.
constexpr size_t kRankedPages = 16384;

}  // namespace

KeySketch::KeySketch(const KvGeometry& geometry, int32_t page_tokens, int64_t most_scored)
    : geometry_(geometry),
      page_tokens_(page_tokens),
      most_scored_(most_scored),
      token_floats_(static_cast<size_t>(geometry.num_kv_heads) *
                    static_cast<size_t>(geometry.head_dim)),
      key_bytes_(static_cast<size_t>(geometry.num_kv_heads) *
                 KeyHeadBytes(RotFormat(kBits, static_cast<size_t>(geometry.head_dim)),
                              static_cast<size_t>(page_tokens))) {}

uint64_t KeySketch::BytesPerPage() const {
  return 2 * token_floats_ * sizeof(uint16_t) + key_bytes_ + kPageOverheadBytes;
}

Result<void> KeySketch::Reserve(MemoryTier& host, int64_t num_pages, uint64_t keep_free) {
  constexpr const char* kWhat = "the key sketch that selective attention ranks pages by";
  constexpr auto kPages = static_cast<size_t>(kBlockPages);
  while (std::ssize(blocks_) * kBlockPages < num_pages) {
    VARVE_TRY(MemoryCharge charge,
              host.Reserve(kPages * (key_bytes_ + kPageOverheadBytes), kWhat, keep_free));
    blocks_.push_back({std::vector<std::byte>(kPages * key_bytes_), std::move(charge)});
  }
  while (true) {
    const int64_t end =
        summaries_.empty() ? 0 : summaries_.back().first_page + summaries_.back().num_pages;
    if (end >= num_pages) {
      return {};
    }
    const int64_t more = std::max(end, kBlockPages);
    const size_t values = 2 * token_floats_ * static_cast<size_t>(more);
    VARVE_TRY(MemoryCharge charge, host.Reserve(values * sizeof(uint16_t), kWhat, keep_free));
    summaries_.push_back({end, more, std::vector<uint16_t>(values), std::move(charge)});
  }
}

uint16_t* KeySketch::SummaryOf(int64_t page, size_t kv_head) {
  const auto found = std::find_if(summaries_.begin(), summaries_.end(), [&](const Summaries& s) {
    return page < s.first_page + s.num_pages;
  });
  const auto pages = static_cast<size_t>(found->num_pages);
  return found->values.data() +
         2 * static_cast<size_t>(geometry_.head_dim) *
             (kv_head * pages + static_cast<size_t>(page - found->first_page));
}

void KeySketch::Add(float* keys, int32_t num_tokens) {
  VARVE_CHECK(num_pages() < std::ssize(blocks_) * kBlockPages && num_tokens <= page_tokens_);
  const int64_t page = num_pages();
  num_tokens_.push_back(num_tokens);
  if (num_tokens == 0) {
    return;
  }
  const auto tokens = static_cast<size_t>(num_tokens);
  const auto head_dim = static_cast<size_t>(geometry_.head_dim);
  for (size_t i = 0; i < token_floats_; ++i) {
    uint16_t* summary = SummaryOf(page, i / head_dim) + i % head_dim;
    float sum = 0.0F;
    for (size_t t = 0; t < tokens; ++t) {
      sum += keys[t * token_floats_ + i];
    }
    summary[0] = FloatToBf16(sum / static_cast<float>(num_tokens));
    const float mean = Bf16ToFloat(summary[0]);
    float range = 0.0F;
    for (size_t t = 0; t < tokens; ++t) {
      keys[t * token_floats_ + i] -= mean;
      range = std::max(range, std::fabs(keys[t * token_floats_ + i]));
    }
    summary[head_dim] = FloatToBf16(range);
  }
  const Codec& codec = *FindCodec(kCodec).value();
  const RunShape shape{geometry_.num_kv_heads, geometry_.head_dim, page_tokens_};
  encoded_.resize(codec.EncodedBytes(shape));
  // Of the values, which the codec wants too, nothing is kept.
  codec.Encode(shape, 0, num_tokens, keys, keys, token_floats_, {}, encoded_);
  const RowFormat format = RotFormat(kBits, head_dim);
  const auto capacity = static_cast<size_t>(page_tokens_);
  std::byte* out = blocks_[static_cast<size_t>(page / kBlockPages)].keys.data() +
                   static_cast<size_t>(page % kBlockPages) * key_bytes_;
  for (size_t head = 0; head < static_cast<size_t>(geometry_.num_kv_heads); ++head) {
    const RowLayout from = RowLayoutOfHead(format, head, capacity);
    const RowLayout to = KeyLayoutOfHead(format, head, capacity);
    std::memcpy(out + to.k_codes, encoded_.data() + from.k_codes, capacity * format.row_bytes);
    std::memcpy(out + to.k_params,
                encoded_.data() + from.k_params,
                capacity * format.num_params * sizeof(uint16_t));
  }
}

void KeySketch::Score(int64_t first,
                      int64_t end,
                      const StepQueries& queries,
                      AttendScratch& scratch,
                      ThreadTeam& team,
                      float* lse) {
  VARVE_CHECK(0 <= first && first <= end && end <= num_pages());
  const auto num_pages = static_cast<size_t>(end - first);
  const size_t rows =
      static_cast<size_t>(queries.num_tokens) * static_cast<size_t>(geometry_.num_qo_heads);
  chosen_.clear();
  const bool all = end - first <= most_scored_;
  if (all) {
    for (int64_t page = first; page < end; ++page) {
      chosen_.push_back(page);
    }
  } else {
    Multiply(first, end, queries, true, team, bounds_);
    Choose(first, end, queries, bounds_, team);
  }
  if (chosen_.empty()) {
    return;
  }
  Multiply(first, end, queries, false, team, means_);
  chosen_lse_.resize(std::max(chosen_lse_.size(), chosen_.size() * rows));
  float* chosen_lse = all ? lse : chosen_lse_.data();
  ScoreKeys(chosen_, queries, scratch, team, chosen_lse);
  // The mean of a page's keys adds the same to the scores of all of them, and so to their lse.
  if (all) {
    team.ParallelFor(num_pages, [&](size_t page, int /*thread*/) {
      for (size_t row = 0; row < rows; ++row) {
        lse[page * rows + row] += means_[row * num_pages + page];
      }
    });
    return;
  }
  // What the mean alone leaves out, as the probes have it.
  std::vector<double> gaps(rows, 0.0);
  double num_probes = 0.0;
  for (size_t i = 0; i < chosen_.size(); ++i) {
    if ((chosen_[i] - first) % kProbeStride != 0 ||
        num_tokens_[static_cast<size_t>(chosen_[i])] == 0) {
      continue;
    }
    num_probes += 1.0;
    for (size_t row = 0; row < rows; ++row) {
      gaps[row] +=
          chosen_lse[i * rows + row] - std::log(num_tokens_[static_cast<size_t>(chosen_[i])]);
    }
  }
  for (double& gap : gaps) {
    gap = num_probes > 0 ? gap / num_probes : 0.0;
  }
  team.ParallelFor(num_pages, [&](size_t page, int /*thread*/) {
    const auto count = static_cast<float>(num_tokens_[static_cast<size_t>(first) + page]);
    const float log_count = count > 0 ? std::log(count) : kNoMass;
    for (size_t row = 0; row < rows; ++row) {
      lse[page * rows + row] =
          means_[row * num_pages + page] + log_count + static_cast<float>(gaps[row]);
    }
  });
  team.ParallelFor(chosen_.size(), [&](size_t i, int /*thread*/) {
    const auto page = static_cast<size_t>(chosen_[i] - first);
    for (size_t row = 0; row < rows; ++row) {
      lse[page * rows + row] = chosen_lse[i * rows + row] + means_[row * num_pages + page];
    }
  });
}

void KeySketch::ScoreKeys(std::span<const int64_t> pages,
                          const StepQueries& queries,
                          AttendScratch& scratch,
                          ThreadTeam& team,
                          float* lse) {
  views_.clear();
  for (const int64_t page : pages) {
    const Block& block = blocks_[static_cast<size_t>(page / kBlockPages)];
    const size_t at = static_cast<size_t>(page % kBlockPages) * key_bytes_;
    KvView view{kCodec};
    view.encoded = std::span(block.keys).subspan(at, key_bytes_);
    view.token_capacity = page_tokens_;
    view.num_tokens = num_tokens_[static_cast<size_t>(page)];
    view.keys_only = true;
    views_.push_back(view);
  }
  // Sealed pages of a context lie before all queries of a request on it.
  positions_.assign(static_cast<size_t>(queries.num_tokens),
                    std::numeric_limits<int64_t>::max() / 2);
  const AttendParams params{.num_qo_heads = geometry_.num_qo_heads,
                            .num_kv_heads = geometry_.num_kv_heads,
                            .head_dim = geometry_.head_dim,
                            .sm_scale = geometry_.sm_scale,
                            .q = queries.q,
                            .q_stride = queries.token_stride,
                            .positions = positions_,
                            .views = views_,
                            .lse_per_view = lse};
  Attend(params, scratch, team);
}

void KeySketch::Multiply(int64_t first,
                         int64_t end,
                         const StepQueries& queries,
                         bool with_ranges,
                         ThreadTeam& team,
                         std::vector<float>& products) {
  const auto head_dim = static_cast<size_t>(geometry_.head_dim);
  const auto qo_heads = static_cast<size_t>(geometry_.num_qo_heads);
  const size_t group = qo_heads / static_cast<size_t>(geometry_.num_kv_heads);
  const auto num_tokens = static_cast<size_t>(queries.num_tokens);
  const auto num_pages = static_cast<size_t>(end - first);
  const size_t num_rows = num_tokens * group;
  const size_t cols = with_ranges ? 2 * head_dim : head_dim;
  products.resize(std::max(products.size(), num_tokens * qo_heads * num_pages));
  q_.resize(std::max(q_.size(), num_rows * cols));
  for (size_t kv_head = 0; kv_head < qo_heads / group; ++kv_head) {
    for (size_t row = 0; row < num_rows; ++row) {
      const float* q = queries.q + row / group * queries.token_stride +
                       (kv_head * group + row % group) * head_dim;
      for (size_t d = 0; d < head_dim; ++d) {
        q_[row * cols + d] = q[d] * geometry_.sm_scale;
        if (with_ranges) {
          q_[row * cols + head_dim + d] = std::fabs(q[d]) * std::fabs(geometry_.sm_scale);
        }
      }
    }
    for (const Summaries& summaries : summaries_) {
      const int64_t low = std::max(first, summaries.first_page);
      const int64_t high = std::min(end, summaries.first_page + summaries.num_pages);
      if (low >= high) {
        continue;
      }
      const size_t at = kv_head * static_cast<size_t>(summaries.num_pages) +
                        static_cast<size_t>(low - summaries.first_page);
      const WeightView view{.data = summaries.values.data() + 2 * head_dim * at,
                            .dtype = DType::kBf16,
                            .rows = static_cast<size_t>(high - low),
                            .cols = cols,
                            .row_stride = 2 * head_dim};
      product_.resize(std::max(product_.size(), num_rows * view.rows));
      MatMul(
          q_.data(), cols, num_rows, view, nullptr, DType::kF32, product_.data(), view.rows, team);
      for (size_t row = 0; row < num_rows; ++row) {
        const size_t to = row / group * qo_heads + kv_head * group + row % group;
        std::copy_n(product_.data() + row * view.rows,
                    view.rows,
                    products.data() + to * num_pages + static_cast<size_t>(low - first));
      }
    }
  }
}

void KeySketch::Choose(int64_t first,
                       int64_t end,
                       const StepQueries& queries,
                       const std::vector<float>& bounds,
                       ThreadTeam& team) {
  const auto qo_heads = static_cast<size_t>(geometry_.num_qo_heads);
  const auto num_pages = static_cast<size_t>(end - first);
  const auto num_tokens = static_cast<size_t>(queries.num_tokens);
  const auto highest_of = [&](size_t head, size_t page) {
    float highest = kNoMass;
    for (size_t token = 0; token < num_tokens; ++token) {
      highest = std::max(highest, bounds[(token * qo_heads + head) * num_pages + page]);
    }
    return highest;
  };
  // Each head has as many pages as the others; where its limit lies, a part of the pages tells.
  const size_t stride = std::max<size_t>(1, num_pages / kRankedPages);
  const size_t wanted = static_cast<size_t>(most_scored_) / qo_heads / stride;
  limits_.resize(qo_heads);
  highest_.resize(static_cast<size_t>(team.num_threads()));
  team.ParallelFor(qo_heads, [&](size_t head, int thread) {
    std::vector<float>& of_head = highest_[static_cast<size_t>(thread)];
    of_head.clear();
    for (size_t page = 0; page < num_pages; page += stride) {
      of_head.push_back(highest_of(head, page));
    }
    const size_t nth = std::min(wanted, of_head.size() - 1);
    std::nth_element(of_head.begin(),
                     of_head.begin() + static_cast<ptrdiff_t>(nth),
                     of_head.end(),
                     std::greater<>());
    limits_[head] = of_head[nth];
  });
  for (size_t page = 0; page < num_pages; ++page) {
    bool chosen = page % kProbeStride == 0;
    for (size_t head = 0; head < qo_heads && !chosen; ++head) {
      chosen = highest_of(head, page) > limits_[head];
    }
    if (chosen) {
      chosen_.push_back(first + static_cast<int64_t>(page));
    }
  }
}

}  // namespace varve
