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
      mean_values_(static_cast<size_t>(geometry.num_kv_heads) *
                   static_cast<size_t>(geometry.head_dim)),
      key_bytes_(static_cast<size_t>(geometry.num_kv_heads) *
                 KeyHeadBytes(RotFormat(kBits, static_cast<size_t>(geometry.head_dim)),
                              static_cast<size_t>(page_tokens))) {}

uint64_t KeySketch::BytesPerPage() const {
  return mean_values_ * sizeof(uint16_t) + key_bytes_ + kPageOverheadBytes;
}

Result<void> KeySketch::Reserve(MemoryTier& host, int64_t num_pages, uint64_t keep_free) {
  constexpr auto kPages = static_cast<size_t>(kBlockPages);
  while (std::ssize(blocks_) * kBlockPages < num_pages) {
    VARVE_TRY(MemoryCharge charge,
              host.Reserve(kPages * BytesPerPage(),
                           "the key sketch that selective attention ranks pages by",
                           keep_free));
    blocks_.push_back({std::vector<uint16_t>(kPages * mean_values_),
                       std::vector<std::byte>(kPages * key_bytes_),
                       std::move(charge)});
  }
  return {};
}

void KeySketch::Add(float* keys, int32_t num_tokens) {
  VARVE_CHECK(num_pages() < std::ssize(blocks_) * kBlockPages && num_tokens <= page_tokens_);
  Block& block = blocks_[static_cast<size_t>(num_pages() / kBlockPages)];
  const auto at = static_cast<size_t>(num_pages() % kBlockPages);
  num_tokens_.push_back(num_tokens);
  if (num_tokens == 0) {
    return;
  }
  const auto tokens = static_cast<size_t>(num_tokens);
  uint16_t* means = block.means.data() + at * mean_values_;
  for (size_t i = 0; i < mean_values_; ++i) {
    float sum = 0.0F;
    for (size_t t = 0; t < tokens; ++t) {
      sum += keys[t * mean_values_ + i];
    }
    means[i] = FloatToBf16(sum / static_cast<float>(num_tokens));
    const float mean = Bf16ToFloat(means[i]);
    for (size_t t = 0; t < tokens; ++t) {
      keys[t * mean_values_ + i] -= mean;
    }
  }
  const Codec& codec = *FindCodec(kCodec).value();
  const RunShape shape{geometry_.num_kv_heads, geometry_.head_dim, page_tokens_};
  encoded_.resize(codec.EncodedBytes(shape));
  // Of the values, which the codec wants too, nothing is kept.
  codec.Encode(shape, 0, num_tokens, keys, keys, mean_values_, {}, encoded_);
  const RowFormat format = RotFormat(kBits, static_cast<size_t>(geometry_.head_dim));
  const auto capacity = static_cast<size_t>(page_tokens_);
  std::byte* out = block.keys.data() + at * key_bytes_;
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
  AddMeans(first, end, queries, team, lse);
}

// The mean of a page's keys adds the same to the scores of all of them, and so to their lse.
void KeySketch::AddMeans(int64_t first,
                         int64_t end,
                         const StepQueries& queries,
                         ThreadTeam& team,
                         float* lse) {
  const auto head_dim = static_cast<size_t>(geometry_.head_dim);
  const auto qo_heads = static_cast<size_t>(geometry_.num_qo_heads);
  const size_t group = qo_heads / static_cast<size_t>(geometry_.num_kv_heads);
  const auto num_tokens = static_cast<size_t>(queries.num_tokens);
  const size_t num_rows = num_tokens * group;
  products_.resize(std::max(products_.size(), num_rows * static_cast<size_t>(kBlockPages)));
  q_.resize(std::max(q_.size(), num_rows * head_dim));
  for (size_t kv_head = 0; kv_head < qo_heads / group; ++kv_head) {
    for (size_t token = 0; token < num_tokens; ++token) {
      std::copy_n(queries.q + token * queries.token_stride + kv_head * group * head_dim,
                  group * head_dim,
                  q_.data() + token * group * head_dim);
    }
    size_t count = 0;
    for (int64_t page = first; page < end; page += static_cast<int64_t>(count)) {
      const int64_t in_block = page % kBlockPages;
      count = static_cast<size_t>(std::min(end - page, kBlockPages - in_block));
      const WeightView means{.data = blocks_[static_cast<size_t>(page / kBlockPages)].means.data() +
                                     static_cast<size_t>(in_block) * mean_values_ +
                                     kv_head * head_dim,
                             .dtype = DType::kBf16,
                             .rows = count,
                             .cols = head_dim,
                             .row_stride = mean_values_};
      MatMul(q_.data(),
             head_dim,
             num_rows,
             means,
             nullptr,
             DType::kF32,
             products_.data(),
             count,
             team);
      for (size_t row = 0; row < num_rows; ++row) {
        float* to = lse +
                    (static_cast<size_t>(page - first) * num_tokens + row / group) * qo_heads +
                    kv_head * group + row % group;
        for (size_t i = 0; i < count; ++i) {
          to[i * num_tokens * qo_heads] += geometry_.sm_scale * products_[row * count + i];
        }
      }
    }
  }
}

}  // namespace varve
