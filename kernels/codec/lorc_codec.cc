// Codec `lorc`. Bytes and meaning: lorc_block.h; its tables: lorc_calibration.cc.
#include "kernels/cpu/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/codec/lorc_codec.cc"
// clang-format off
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// clang-format on

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/codec/codecs.h"
#include "kernels/codec/head_codec.h"
#include "kernels/codec/int_block.h"
#include "kernels/codec/int_rows.h"
#include "kernels/codec/lorc_block.h"
#include "kernels/codec/lorc_calibration.h"
#include "kernels/codec/lorc_words.h"
#include "kernels/codec/ordered_product.h"
#include "kernels/cpu/attend_plan.h"
#include "kernels/cpu/level_words.h"

HWY_BEFORE_NAMESPACE();
namespace varve::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

inline constexpr size_t kLorcTokens = 4;  // share each row of the basis in registers

// x[t] = mean + sum over r of y[t][r] * inverse[r], for kTokens rows y, of which the first
// `num_tokens` are wanted.
template <size_t kTokens>
void LorcMultiply(const LorcTables& tables,
                  const float* y,
                  size_t num_tokens,
                  size_t head_dim,
                  float* x) {
  const hn::ScalableTag<float> d;
  using V = hn::Vec<decltype(d)>;
  size_t i = 0;
  for (; i + hn::Lanes(d) <= head_dim; i += hn::Lanes(d)) {
    V sum[kTokens];
    for (V& s : sum) {
      s = hn::LoadU(d, tables.mean + i);
    }
    for (size_t r = 0; r < tables.rank; ++r) {
      const auto row = hn::LoadU(d, tables.inverse + r * head_dim + i);
#pragma GCC unroll 4
      for (size_t t = 0; t < kTokens; ++t) {
        sum[t] = hn::MulAdd(hn::Set(d, y[t * kMaxHeadDim + r]), row, sum[t]);
      }
    }
    for (size_t t = 0; t < num_tokens; ++t) {
      hn::StoreU(sum[t], d, x + t * head_dim + i);
    }
  }
  for (; i < head_dim; ++i) {
    for (size_t t = 0; t < num_tokens; ++t) {
      float sum = tables.mean[i];
      for (size_t r = 0; r < tables.rank; ++r) {
        sum += y[t * kMaxHeadDim + r] * tables.inverse[r * head_dim + i];
      }
      x[t * head_dim + i] = sum;
    }
  }
}

void LorcDecode(const LorcTables& tables,
                const LorcLayout& at,
                size_t head_dim,
                const std::byte* encoded,
                size_t first_token,
                size_t num_tokens,
                float* x) {
  alignas(64) float y[kLorcTokens * kMaxHeadDim] = {};
  for (size_t begin = 0; begin < num_tokens; begin += kLorcTokens) {
    const size_t count = std::min(kLorcTokens, num_tokens - begin);
    const size_t token = first_token + begin;
    DecodeIntRows(kLorcBits,
                  encoded + token * at.row_bytes,
                  encoded + at.scales + token * sizeof(uint16_t),
                  encoded + at.offsets + token * sizeof(uint16_t),
                  count,
                  tables.rank,
                  kMaxHeadDim,
                  y);
    LorcMultiply<kLorcTokens>(tables, y, count, head_dim, x + begin * head_dim);
  }
}

// x += weight * mean + sum over r of y[r] * inverse[r].
void LorcMapValues(LorcTables tables, const float* y, float weight, size_t head_dim, float* x) {
  float base[kMaxHeadDim];
  for (size_t i = 0; i < head_dim; ++i) {
    base[i] = x[i] + weight * tables.mean[i];
  }
  tables.mean = base;
  LorcMultiply<1>(tables, y, 1, head_dim, x);
}

}  // namespace varve::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace varve {
namespace {

HWY_EXPORT(LorcDecode);
HWY_EXPORT(LorcMapValues);

class Lorc final : public HeadCodec, public WordDecoder {
 public:
  CodecId id() const override { return CodecId::kLorc; }
  std::string_view name() const override { return "lorc"; }
  bool needs_tables() const override { return true; }
  bool sized_by_tables() const override { return true; }
  CodecTables Calibrate(const CalibrationSample& sample) const override {
    return CalibrateLorc(sample);
  }
  size_t TableFloats(size_t num_kv_heads, size_t head_dim) const override {
    return LorcTableFloats(num_kv_heads, head_dim);
  }
  bool TablesAreSound(std::span<const float> values,
                      size_t /*num_kv_heads*/,
                      size_t head_dim) const override {
    return std::all_of(values.begin(), values.begin() + 2, [head_dim](float rank) {
      return rank >= 1.0F && rank <= static_cast<float>(head_dim) && rank == std::floor(rank);
    });
  }

  size_t num_outliers(size_t /*head_dim*/) const override { return 0; }
  void LoadTables(const HeadRun& run, WordTables* tables) const override {
    LoadLorcWords(TablesOf(BlockOf(run), /*is_key=*/true), run.shape.head_dim, tables);
  }
  void DecodeKeyWords(const HeadRun& run,
                      const WordTables& tables,
                      size_t first_token,
                      size_t num_tokens,
                      int16_t* words,
                      float* scales,
                      const OutlierRows& /*outliers*/) const override {
    const Block block = BlockOf(run);
    DecodeLorcKeyWords(tables,
                       LayoutOf(block, /*is_key=*/true),
                       TablesOf(block, /*is_key=*/true).rank,
                       block.head_dim,
                       KeysOf(run),
                       first_token,
                       num_tokens,
                       words,
                       scales);
  }
  void DecodeValueWords(const HeadRun& run,
                        const WordTables& tables,
                        size_t first_token,
                        size_t num_tokens,
                        int16_t* words,
                        const OutlierRows& /*outliers*/) const override {
    const Block block = BlockOf(run);
    DecodeLorcValueWords(tables,
                         LayoutOf(block, /*is_key=*/false),
                         TablesOf(block, /*is_key=*/false).rank,
                         block.head_dim,
                         ValuesOf(run),
                         first_token,
                         num_tokens,
                         words);
  }
  void LoadValueParams(const HeadRun& run,
                       const WordTables& /*tables*/,
                       size_t first_token,
                       size_t num_tokens,
                       float* scales,
                       float* offsets) const override {
    const LorcLayout at = LayoutOf(BlockOf(run), /*is_key=*/false);
    const std::byte* first = ValuesOf(run) + first_token * sizeof(uint16_t);
    LoadStepParams(first + at.scales, first + at.offsets, num_tokens, scales, offsets);
  }
  const void* ValueCoordinates(const HeadRun& run) const override { return run.tables; }
  void MapValues(const HeadRun& run,
                 const WordTables& /*tables*/,
                 const float* sums,
                 float weight,
                 float* out) const override {
    HWY_DYNAMIC_DISPATCH(LorcMapValues)
    (TablesOf(BlockOf(run), /*is_key=*/false), sums, weight, run.shape.head_dim, out);
  }

 protected:
  bool keys_before_rope() const override { return true; }
  size_t KeyBytes(size_t head_dim, size_t token_capacity) const override {
    return LorcLayoutOf(head_dim, token_capacity).bytes;
  }
  size_t ValueBytes(size_t head_dim, size_t token_capacity) const override {
    return LorcLayoutOf(head_dim, token_capacity).bytes;
  }
  size_t KeyBytesOf(const Block& block) const override {
    return LayoutOf(block, /*is_key=*/true).bytes;
  }
  size_t ValueBytesOf(const Block& block) const override {
    return LayoutOf(block, /*is_key=*/false).bytes;
  }
  void EncodeKeys(const Block& block,
                  size_t num_tokens,
                  const float* x,
                  std::byte* out) const override {
    EncodeSide(block, /*is_key=*/true, num_tokens, x, out);
  }
  void EncodeValues(const Block& block,
                    size_t num_tokens,
                    const float* x,
                    std::byte* out) const override {
    EncodeSide(block, /*is_key=*/false, num_tokens, x, out);
  }
  void DecodeKeys(const Block& block,
                  const std::byte* encoded,
                  size_t first_token,
                  size_t num_tokens,
                  float* x) const override {
    DecodeSide(block, /*is_key=*/true, encoded, first_token, num_tokens, x);
  }
  void DecodeValues(const Block& block,
                    const std::byte* encoded,
                    size_t first_token,
                    size_t num_tokens,
                    float* x) const override {
    DecodeSide(block, /*is_key=*/false, encoded, first_token, num_tokens, x);
  }

 private:
  static LorcLayout LayoutOf(const Block& block, bool is_key) {
    const float* tables = block.tables == nullptr ? nullptr : block.tables->values.data();
    return LorcLayoutOf(LorcRank(tables, is_key, block.head_dim), block.token_capacity);
  }
  static LorcTables TablesOf(const Block& block, bool is_key) {
    return LorcTablesOf(block.tables->values.data(), block.kv_head, is_key, block.head_dim);
  }
  static void EncodeSide(const Block& block,
                         bool is_key,
                         size_t num_tokens,
                         const float* x,
                         std::byte* out);
  static void DecodeSide(const Block& block,
                         bool is_key,
                         const std::byte* encoded,
                         size_t first_token,
                         size_t num_tokens,
                         float* x) {
    HWY_DYNAMIC_DISPATCH(LorcDecode)
    (TablesOf(block, is_key),
     LayoutOf(block, is_key),
     block.head_dim,
     encoded,
     first_token,
     num_tokens,
     x);
  }
};

void Lorc::EncodeSide(const Block& block,
                      bool is_key,
                      size_t num_tokens,
                      const float* x,
                      std::byte* out) {
  const size_t head_dim = block.head_dim;
  const LorcTables tables = TablesOf(block, is_key);
  const LorcLayout at = LayoutOf(block, is_key);
  std::vector<float> y(num_tokens * head_dim);
  ProjectRows(
      x, num_tokens, head_dim, tables.mean, tables.forward, tables.rank, head_dim, y.data());
  for (size_t t = 0; t < num_tokens; ++t) {
    uint16_t params[2] = {};
    EncodeIntRow(kLorcBits, y.data() + t * head_dim, tables.rank, out + t * at.row_bytes, params);
    std::memcpy(out + at.scales + t * sizeof(uint16_t), &params[kIntScale], sizeof(uint16_t));
    std::memcpy(out + at.offsets + t * sizeof(uint16_t), &params[kIntOffset], sizeof(uint16_t));
  }
}

}  // namespace

const Codec* LorcCodec() {
  static const Lorc kCodec;
  return &kCodec;
}

}  // namespace varve
#endif  // HWY_ONCE
