// Codecs `nuq4`, `nuq3`, `nuq2`, and with one value in 64 apart `nuq4-1%`, `nuq3-1%`, `nuq2-1%`.
// Bytes and meaning: nuq_block.h; their tables: nuq_calibration.cc.
#include "kernels/cpu/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/codec/nuq_codec.cc"
// clang-format off
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// clang-format on

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/codec/codecs.h"
#include "kernels/codec/f16_block.h"
#include "kernels/codec/head_codec.h"
#include "kernels/codec/nuq_block.h"
#include "kernels/codec/nuq_calibration.h"
#include "kernels/codec/nuq_encode.h"
#include "kernels/codec/word_decoder.h"
#include "kernels/cpu/attend_plan.h"
#include "kernels/cpu/level_words.h"
#include "kernels/cpu/packed-inl.h"
#include "kernels/dense.h"

HWY_BEFORE_NAMESPACE();
namespace varve::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// levels[code] of every lane, from registers: a gather is several times as dear.
template <size_t kBits, class D>
HWY_INLINE hn::Vec<D> LevelsOf(D d, const float* levels, hn::Vec<hn::RebindToSigned<D>> codes) {
  const hn::RebindToSigned<D> d32;
  constexpr size_t kLanes = hn::MaxLanes(D());
  constexpr size_t kLevels = size_t{1} << kBits;
  if constexpr (kLevels <= kLanes) {
    return hn::TableLookupLanes(hn::LoadU(d, levels), hn::IndicesFromVec(d, codes));
  } else if constexpr (kLevels == 2 * kLanes) {
    const auto within = hn::IndicesFromVec(d, hn::And(codes, hn::Set(d32, kLanes - 1)));
    const auto low = hn::TableLookupLanes(hn::LoadU(d, levels), within);
    const auto high = hn::TableLookupLanes(hn::LoadU(d, levels + kLanes), within);
    const auto is_high = hn::ShiftLeft<32 - static_cast<int>(kBits)>(codes);
    return hn::IfNegativeThenElse(hn::BitCast(d, is_high), high, low);
  } else {
    return hn::GatherIndex(d, levels, codes);
  }
}

// out[i] = levels[code i] * scale of i + offset of i. More of the tables lies behind the levels: a
// whole vector can be read.
template <size_t kBits>
void NuqDecodeRowOf(const std::byte* row,
                    const float* levels,
                    const float* scales,
                    const float* offsets,
                    size_t head_dim,
                    float* out) {
  const hn::CappedTag<float, 8> d;
  size_t i = 0;
  for (; i + hn::Lanes(d) <= head_dim; i += hn::Lanes(d)) {
    const auto level = LevelsOf<kBits>(d, levels, LoadCodes<kBits>(d, row, i, head_dim));
    const auto scaled = hn::Mul(level, hn::LoadU(d, scales + i));
    hn::StoreU(hn::Add(scaled, hn::LoadU(d, offsets + i)), d, out + i);
  }
  for (; i < head_dim; ++i) {
    out[i] = levels[UnpackCode(row, kBits, head_dim, i)] * scales[i] + offsets[i];
  }
}

void NuqDecodeRow(size_t bits,
                  const std::byte* row,
                  const float* levels,
                  const float* scales,
                  const float* offsets,
                  size_t head_dim,
                  float* out) {
  const auto decode = bits == 4   ? NuqDecodeRowOf<4>
                      : bits == 3 ? NuqDecodeRowOf<3>
                                  : NuqDecodeRowOf<2>;
  decode(row, levels, scales, offsets, head_dim, out);
}

}  // namespace varve::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace varve {

HWY_EXPORT(NuqDecodeRow);

namespace {

float LoadHalf(const std::byte* bytes) {
  uint16_t half;
  std::memcpy(&half, bytes, sizeof(half));
  return F16ToFloat(half);
}

class NuqCodec final : public HeadCodec, public WordDecoder {
 public:
  NuqCodec(CodecId id, std::string_view name, size_t bits, bool sparse)
      : id_(id), name_(name), bits_(bits), sparse_(sparse) {}

  CodecId id() const override { return id_; }
  uint16_t version() const override { return 2; }
  std::string_view name() const override { return name_; }
  bool needs_tables() const override { return true; }
  CodecTables Calibrate(const CalibrationSample& sample) const override {
    return CalibrateNuq(sample, bits_, sparse_);
  }
  size_t TableFloats(size_t num_kv_heads, size_t head_dim) const override {
    return NuqTableFloats(bits_, num_kv_heads, head_dim);
  }
  bool TablesAreSound(std::span<const float> values,
                      size_t num_kv_heads,
                      size_t head_dim) const override {
    const NuqTables levels = NuqTablesOf(values.data(), bits_, 0, head_dim);
    const size_t count = size_t{1} << bits_;
    bool sound = std::is_sorted(levels.key_levels, levels.key_levels + count) &&
                 std::is_sorted(levels.value_levels, levels.value_levels + count);
    for (size_t head = 0; head < num_kv_heads; ++head) {
      const NuqTables own = NuqTablesOf(values.data(), bits_, head, head_dim);
      sound &=
          std::all_of(own.scales, own.scales + head_dim, [](float scale) { return scale > 0.0F; });
    }
    return sound;
  }

  size_t num_outliers(size_t head_dim) const override { return NuqOutliers(sparse_, head_dim); }
  void LoadTables(const HeadRun& run, WordTables* out) const override {
    const auto head_dim = static_cast<size_t>(run.shape.head_dim);
    const size_t half = head_dim / 2;
    const NuqTables tables = TablesOf(BlockOf(run));
    const float key_step = NuqLevelSteps(tables.key_levels, bits_, out->key_levels);
    out->value_step = NuqLevelSteps(tables.value_levels, bits_, out->value_levels);
    const auto largest = [&](size_t i) {
      return kNuqSteps * key_step * std::fabs(tables.scales[i]) + std::fabs(tables.offsets[i]);
    };
    for (size_t i = 0; i < head_dim; ++i) {
      const float pair = std::hypot(largest(i % half), largest(i % half + half));
      const float step = std::max(pair, 1e-30F) / kMaxKeyPair;
      out->key_steps[i] = step;
      out->key_scales[i] =
          static_cast<int16_t>(std::lrint(128.0F * key_step * tables.scales[i] / step));
      out->key_offsets[i] = static_cast<int16_t>(std::lrint(tables.offsets[i] / step));
    }
  }
  void DecodeKeyWords(const HeadRun& run,
                      const WordTables& tables,
                      size_t first_token,
                      size_t num_tokens,
                      int16_t* words,
                      float* scales,
                      const OutlierRows& outliers) const override {
    const Block block = BlockOf(run);
    const NuqLayout at = LayoutOf(block);
    const std::byte* keys = KeysOf(run);
    KeyLevelWords(
        bits_, keys + first_token * at.row_bytes, tables, num_tokens, block.head_dim, words);
    std::fill_n(scales, num_tokens, 1.0F);
    TakeOutliers(at, keys, first_token, num_tokens, block.head_dim, words, outliers);
  }
  void DecodeValueWords(const HeadRun& run,
                        const WordTables& tables,
                        size_t first_token,
                        size_t num_tokens,
                        int16_t* words,
                        const OutlierRows& outliers) const override {
    const Block block = BlockOf(run);
    const NuqLayout at = LayoutOf(block);
    const std::byte* values = ValuesOf(run);
    ValueLevelWords(
        bits_, values + first_token * at.row_bytes, tables, num_tokens, block.head_dim, words);
    TakeOutliers(at, values, first_token, num_tokens, block.head_dim, words, outliers);
  }
  void LoadValueParams(const HeadRun& run,
                       const WordTables& tables,
                       size_t first_token,
                       size_t num_tokens,
                       float* scales,
                       float* offsets) const override {
    const NuqLayout at = LayoutOf(BlockOf(run));
    const std::byte* values = ValuesOf(run) + first_token * sizeof(uint16_t);
    Widen(values + at.scales, DType::kF16, num_tokens, scales);
    Widen(values + at.offsets, DType::kF16, num_tokens, offsets);
    for (size_t t = 0; t < num_tokens; ++t) {
      scales[t] *= tables.value_step;
    }
  }

 protected:
  bool keys_before_rope() const override { return true; }
  size_t KeyBytes(size_t head_dim, size_t token_capacity) const override {
    return NuqLayoutOf(bits_, sparse_, head_dim, token_capacity).key_bytes;
  }
  size_t ValueBytes(size_t head_dim, size_t token_capacity) const override {
    return NuqLayoutOf(bits_, sparse_, head_dim, token_capacity).value_bytes;
  }
  void EncodeKeys(const Block& block,
                  size_t num_tokens,
                  const float* x,
                  std::byte* out) const override {
    EncodeNuqKeys(bits_, LayoutOf(block), TablesOf(block), num_tokens, block.head_dim, x, out);
  }
  void EncodeValues(const Block& block,
                    size_t num_tokens,
                    const float* x,
                    std::byte* out) const override {
    EncodeNuqValues(bits_, LayoutOf(block), TablesOf(block), num_tokens, block.head_dim, x, out);
  }
  void DecodeKeys(const Block& block,
                  const std::byte* encoded,
                  size_t first_token,
                  size_t num_tokens,
                  float* x) const override {
    const NuqLayout at = LayoutOf(block);
    const NuqTables tables = TablesOf(block);
    for (size_t t = first_token; t < first_token + num_tokens; ++t, x += block.head_dim) {
      HWY_DYNAMIC_DISPATCH(NuqDecodeRow)
      (bits_,
       encoded + t * at.row_bytes,
       tables.key_levels,
       tables.scales,
       tables.offsets,
       block.head_dim,
       x);
      LoadOutliers(at, t, encoded, block.head_dim, x);
    }
  }
  void DecodeValues(const Block& block,
                    const std::byte* encoded,
                    size_t first_token,
                    size_t num_tokens,
                    float* x) const override {
    const NuqLayout at = LayoutOf(block);
    const NuqTables tables = TablesOf(block);
    float scales[kMaxHeadDim];
    float offsets[kMaxHeadDim];
    for (size_t t = first_token; t < first_token + num_tokens; ++t, x += block.head_dim) {
      std::fill_n(scales, block.head_dim, LoadHalf(encoded + at.scales + t * sizeof(uint16_t)));
      std::fill_n(offsets, block.head_dim, LoadHalf(encoded + at.offsets + t * sizeof(uint16_t)));
      HWY_DYNAMIC_DISPATCH(NuqDecodeRow)
      (bits_, encoded + t * at.row_bytes, tables.value_levels, scales, offsets, block.head_dim, x);
      LoadOutliers(at, t, encoded, block.head_dim, x);
    }
  }

 private:
  NuqLayout LayoutOf(const Block& block) const {
    return NuqLayoutOf(bits_, sparse_, block.head_dim, block.token_capacity);
  }
  NuqTables TablesOf(const Block& block) const {
    return NuqTablesOf(block.tables->values.data(), bits_, block.kv_head, block.head_dim);
  }
  // Outliers as they are, and their words as zeros.
  static void TakeOutliers(const NuqLayout& at,
                           const std::byte* block,
                           size_t first_token,
                           size_t num_tokens,
                           size_t head_dim,
                           int16_t* words,
                           const OutlierRows& outliers) {
    const size_t first = first_token * at.num_outliers;
    const size_t count = num_tokens * at.num_outliers;
    if (count == 0) {
      return;
    }
    std::memcpy(outliers.dims, block + at.dims + first, count);
    Widen(block + at.outliers + first * sizeof(uint16_t), DType::kF16, count, outliers.values);
    for (size_t place = 0; place < count; ++place) {
      if (outliers.dims[place] < head_dim) {
        words[place / at.num_outliers * head_dim + outliers.dims[place]] = 0;
      }
    }
  }
  // Damaged bytes may name a dimension that is not there.
  static void LoadOutliers(const NuqLayout& at,
                           size_t token,
                           const std::byte* encoded,
                           size_t head_dim,
                           float* row) {
    for (size_t i = 0; i < at.num_outliers; ++i) {
      const size_t place = token * at.num_outliers + i;
      const auto dim = static_cast<size_t>(encoded[at.dims + place]);
      if (dim < head_dim) {
        row[dim] = LoadHalf(encoded + at.outliers + place * sizeof(uint16_t));
      }
    }
  }

  CodecId id_;
  std::string_view name_;
  size_t bits_;
  bool sparse_;
};

}  // namespace

const Codec* Nuq4Codec() {
  static const NuqCodec kCodec(CodecId::kNuq4, "nuq4", 4, false);
  return &kCodec;
}
const Codec* Nuq3Codec() {
  static const NuqCodec kCodec(CodecId::kNuq3, "nuq3", 3, false);
  return &kCodec;
}
const Codec* Nuq2Codec() {
  static const NuqCodec kCodec(CodecId::kNuq2, "nuq2", 2, false);
  return &kCodec;
}
const Codec* Nuq4SparseCodec() {
  static const NuqCodec kCodec(CodecId::kNuq4Sparse, "nuq4-1%", 4, true);
  return &kCodec;
}
const Codec* Nuq3SparseCodec() {
  static const NuqCodec kCodec(CodecId::kNuq3Sparse, "nuq3-1%", 3, true);
  return &kCodec;
}
const Codec* Nuq2SparseCodec() {
  static const NuqCodec kCodec(CodecId::kNuq2Sparse, "nuq2-1%", 2, true);
  return &kCodec;
}

}  // namespace varve
#endif  // HWY_ONCE
