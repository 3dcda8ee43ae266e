#include "kvstore/key_sketch.h"

#include <algorithm>
#include <cstring>
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

}  // namespace

KeySketch::KeySketch(const KvGeometry& geometry, int32_t page_tokens)
    : geometry_(geometry),
      page_tokens_(page_tokens),
      token_floats_(static_cast<size_t>(geometry.num_kv_heads) *
                    static_cast<size_t>(geometry.head_dim)),
      key_bytes_(static_cast<size_t>(geometry.num_kv_heads) *
                 KeyHeadBytes(RotFormat(kBits, static_cast<size_t>(geometry.head_dim)),
                              static_cast<size_t>(page_tokens))) {}

uint64_t KeySketch::BytesPerPage() const {
  return token_floats_ * sizeof(uint16_t) + key_bytes_ + kPageOverheadBytes;
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
    const int64_t end = means_.empty() ? 0 : means_.back().first_page + means_.back().num_pages;
    if (end >= num_pages) {
      return {};
    }
    const int64_t more = std::max(end, kBlockPages);
    const size_t values = token_floats_ * static_cast<size_t>(more);
    VARVE_TRY(MemoryCharge charge, host.Reserve(values * sizeof(uint16_t), kWhat, keep_free));
    means_.push_back({end, more, std::vector<uint16_t>(values), std::move(charge)});
  }
}

uint16_t* KeySketch::MeanOf(int64_t page, size_t kv_head) {
  const auto found = std::find_if(means_.begin(), means_.end(), [&](const Means& means) {
    return page < means.first_page + means.num_pages;
  });
  const auto pages = static_cast<size_t>(found->num_pages);
  return found->values.data() +
         static_cast<size_t>(geometry_.head_dim) *
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
    uint16_t& stored = MeanOf(page, i / head_dim)[i % head_dim];
    float sum = 0.0F;
    for (size_t t = 0; t < tokens; ++t) {
      sum += keys[t * token_floats_ + i];
    }
    stored = FloatToBf16(sum / static_cast<float>(num_tokens));
    const float mean = Bf16ToFloat(stored);
    for (size_t t = 0; t < tokens; ++t) {
      keys[t * token_floats_ + i] -= mean;
    }
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
  if (first == end) {
    return;
  }
  views_.clear();
  for (int64_t page = first; page < end; ++page) {
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
  // The mean of a page's keys adds the same to the scores of all of them, and so to their lse.
  ScoreMeans(first, end, queries, team);
  const auto num_pages = static_cast<size_t>(end - first);
  const size_t rows =
      static_cast<size_t>(queries.num_tokens) * static_cast<size_t>(geometry_.num_qo_heads);
  team.ParallelFor(num_pages, [&](size_t page, int /*thread*/) {
    for (size_t row = 0; row < rows; ++row) {
      lse[page * rows + row] += products_[row * num_pages + page];
    }
  });
}

void KeySketch::ScoreMeans(int64_t first,
                           int64_t end,
                           const StepQueries& queries,
                           ThreadTeam& team) {
  const auto head_dim = static_cast<size_t>(geometry_.head_dim);
  const auto qo_heads = static_cast<size_t>(geometry_.num_qo_heads);
  const size_t group = qo_heads / static_cast<size_t>(geometry_.num_kv_heads);
  const auto num_tokens = static_cast<size_t>(queries.num_tokens);
  const auto num_pages = static_cast<size_t>(end - first);
  const size_t num_rows = num_tokens * group;
  products_.resize(std::max(products_.size(), num_tokens * qo_heads * num_pages));
  q_.resize(std::max(q_.size(), num_rows * head_dim));
  for (size_t kv_head = 0; kv_head < qo_heads / group; ++kv_head) {
    for (size_t row = 0; row < num_rows; ++row) {
      const float* q = queries.q + row / group * queries.token_stride +
                       (kv_head * group + row % group) * head_dim;
      for (size_t d = 0; d < head_dim; ++d) {
        q_[row * head_dim + d] = q[d] * geometry_.sm_scale;
      }
    }
    for (const Means& means : means_) {
      const int64_t low = std::max(first, means.first_page);
      const int64_t high = std::min(end, means.first_page + means.num_pages);
      if (low >= high) {
        continue;
      }
      const size_t at = kv_head * static_cast<size_t>(means.num_pages) +
                        static_cast<size_t>(low - means.first_page);
      const WeightView view{.data = means.values.data() + head_dim * at,
                            .dtype = DType::kBf16,
                            .rows = static_cast<size_t>(high - low),
                            .cols = head_dim,
                            .row_stride = head_dim};
      product_.resize(std::max(product_.size(), num_rows * view.rows));
      MatMul(q_.data(),
             head_dim,
             num_rows,
             view,
             nullptr,
             DType::kF32,
             product_.data(),
             view.rows,
             team);
      for (size_t row = 0; row < num_rows; ++row) {
        const size_t to = row / group * qo_heads + kv_head * group + row % group;
        std::copy_n(product_.data() + row * view.rows,
                    view.rows,
                    products_.data() + to * num_pages + static_cast<size_t>(low - first));
      }
    }
  }
}

}  // namespace varve
