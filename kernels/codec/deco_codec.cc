// Codec `deco4`. Bytes and meaning: deco_block.h; the factors: deco_factors.cc.
#include "kernels/cpu/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/codec/deco_codec.cc"
// clang-format off
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// clang-format on

#include <algorithm>
#include <cstring>
#include <vector>

#include "kernels/codec/codecs.h"
#include "kernels/codec/deco_block.h"
#include "kernels/codec/deco_factors.h"
#include "kernels/codec/deco_words.h"
#include "kernels/codec/head_codec.h"
#include "kernels/codec/int_rows.h"
#include "kernels/cpu/attend_plan.h"
#include "kernels/cpu/level_words.h"
#include "kernels/cpu/widen-inl.h"

HWY_BEFORE_NAMESPACE();
namespace varve::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

inline constexpr size_t kDecoTokens = 16;  // unpacked at a time

// x[a * columns + b] = mean + sum over r of small[a, r] * large[r * columns + b], r ascending and
// without fused steps: every target rounds alike.
HWY_INLINE void DecoMultiply(const DecoLayout& at,
                             const float* means,
                             const float* small,
                             const float* large,
                             float* x) {
  const hn::CappedTag<float, 8> d;
  for (size_t a = 0; a < at.blocks; ++a) {
    const float* factors = small + a * at.blocks;
    const size_t row = a * at.columns;
    size_t b = 0;
    for (; b + hn::Lanes(d) <= at.columns; b += hn::Lanes(d)) {
      auto sum = hn::LoadU(d, means + row + b);
      for (size_t r = 0; r < at.blocks; ++r) {
        const auto entry = hn::LoadU(d, large + r * at.columns + b);
        sum = hn::Add(sum, hn::Mul(hn::Set(d, factors[r]), entry));
      }
      hn::StoreU(sum, d, x + row + b);
    }
    for (; b < at.columns; ++b) {
      float sum = means[row + b];
      for (size_t r = 0; r < at.blocks; ++r) {
        sum += factors[r] * large[r * at.columns + b];
      }
      x[row + b] = sum;
    }
  }
}

void DecoDecode(const DecoLayout& at,
                size_t head_dim,
                const std::byte* encoded,
                size_t first_token,
                size_t num_tokens,
                float* x) {
  float means[kMaxHeadDim];
  float small[kDecoMaxBlocks * kDecoMaxBlocks];
  alignas(64) float large[kDecoTokens * kMaxHeadDim];
  WidenRow<DType::kF16>(encoded, head_dim, means);
  WidenRow<DType::kF16>(encoded + at.small, at.blocks * at.blocks, small);
  for (size_t begin = 0; begin < num_tokens; begin += kDecoTokens) {
    const size_t count = std::min(kDecoTokens, num_tokens - begin);
    const size_t token = first_token + begin;
    DecodeIntRows(kDecoBits,
                  encoded + at.codes + token * at.row_bytes,
                  encoded + at.scales + token * sizeof(uint16_t),
                  encoded + at.offsets + token * sizeof(uint16_t),
                  count,
                  head_dim,
                  head_dim,
                  large);
    for (size_t t = 0; t < count; ++t, x += head_dim) {
      DecoMultiply(at, means, small, large + t * head_dim, x);
    }
  }
}

// x += weight * mean + the product of the small factor and `large`.
void DecoMapValues(const DecoLayout& at,
                   size_t head_dim,
                   const std::byte* encoded,
                   const float* large,
                   float weight,
                   float* x) {
  float base[kMaxHeadDim];
  float small[kDecoMaxBlocks * kDecoMaxBlocks];
  WidenRow<DType::kF16>(encoded, head_dim, base);
  WidenRow<DType::kF16>(encoded + at.small, at.blocks * at.blocks, small);
  for (size_t i = 0; i < head_dim; ++i) {
    base[i] = x[i] + weight * base[i];
  }
  DecoMultiply(at, base, small, large, x);
}

}  // namespace varve::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace varve {
namespace {

HWY_EXPORT(DecoDecode);
HWY_EXPORT(DecoMapValues);

class Deco final : public HeadCodec, public WordDecoder {
 public:
  CodecId id() const override { return CodecId::kDeco4; }
  std::string_view name() const override { return "deco4"; }

  size_t num_outliers(size_t /*head_dim*/) const override { return 0; }
  void LoadTables(const HeadRun& /*run*/, WordTables* tables) const override {
    std::fill_n(tables->key_steps, kMaxWordChannels, 1.0F);
    LoadStepLevels(tables);
  }
  void DecodeKeyWords(const HeadRun& run,
                      const WordTables& tables,
                      size_t first_token,
                      size_t num_tokens,
                      int16_t* words,
                      float* scales,
                      const OutlierRows& /*outliers*/) const override {
    int16_t levels[kWordTokens * kMaxWordChannels];
    float level_scales[kWordTokens];
    float level_offsets[kWordTokens];
    const std::byte* keys = KeysOf(run);
    LoadLevels(run, tables, keys, first_token, num_tokens, levels);
    LoadParams(run, keys, first_token, num_tokens, level_scales, level_offsets);
    MultiplyDecoWords(LayoutOf(run),
                      run.shape.head_dim,
                      keys,
                      {levels, level_scales, level_offsets},
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
    LoadLevels(run, tables, ValuesOf(run), first_token, num_tokens, words);
  }
  void LoadValueParams(const HeadRun& run,
                       const WordTables& /*tables*/,
                       size_t first_token,
                       size_t num_tokens,
                       float* scales,
                       float* offsets) const override {
    LoadParams(run, ValuesOf(run), first_token, num_tokens, scales, offsets);
  }
  const void* ValueCoordinates(const HeadRun& run) const override { return run.encoded; }
  void MapValues(const HeadRun& run,
                 const WordTables& /*tables*/,
                 const float* sums,
                 float weight,
                 float* out) const override {
    HWY_DYNAMIC_DISPATCH(DecoMapValues)
    (LayoutOf(run), run.shape.head_dim, ValuesOf(run), sums, weight, out);
  }

 protected:
  bool keys_before_rope() const override { return true; }
  size_t KeyBytes(size_t head_dim, size_t token_capacity) const override {
    return DecoLayoutOf(head_dim, token_capacity).bytes;
  }
  size_t ValueBytes(size_t head_dim, size_t token_capacity) const override {
    return DecoLayoutOf(head_dim, token_capacity).bytes;
  }
  void EncodeKeys(const Block& block,
                  size_t num_tokens,
                  const float* x,
                  std::byte* out) const override {
    EncodeSide(block, num_tokens, x, out);
  }
  void EncodeValues(const Block& block,
                    size_t num_tokens,
                    const float* x,
                    std::byte* out) const override {
    EncodeSide(block, num_tokens, x, out);
  }
  void DecodeKeys(const Block& block,
                  const std::byte* encoded,
                  size_t first_token,
                  size_t num_tokens,
                  float* x) const override {
    HWY_DYNAMIC_DISPATCH(DecoDecode)
    (DecoLayoutOf(block.head_dim, block.token_capacity),
     block.head_dim,
     encoded,
     first_token,
     num_tokens,
     x);
  }
  void DecodeValues(const Block& block,
                    const std::byte* encoded,
                    size_t first_token,
                    size_t num_tokens,
                    float* x) const override {
    DecodeKeys(block, encoded, first_token, num_tokens, x);
  }

 private:
  static DecoLayout LayoutOf(const HeadRun& run) {
    return DecoLayoutOf(run.shape.head_dim, run.shape.token_capacity);
  }
  // Of the large factor of one side.
  static void LoadLevels(const HeadRun& run,
                         const WordTables& tables,
                         const std::byte* encoded,
                         size_t first_token,
                         size_t num_tokens,
                         int16_t* levels) {
    const DecoLayout at = LayoutOf(run);
    ValueLevelWords(kDecoBits,
                    encoded + at.codes + first_token * at.row_bytes,
                    tables,
                    num_tokens,
                    run.shape.head_dim,
                    levels);
  }
  static void LoadParams(const HeadRun& run,
                         const std::byte* encoded,
                         size_t first_token,
                         size_t num_tokens,
                         float* scales,
                         float* offsets) {
    const DecoLayout at = LayoutOf(run);
    const std::byte* first = encoded + first_token * sizeof(uint16_t);
    LoadStepParams(first + at.scales, first + at.offsets, num_tokens, scales, offsets);
  }
  static void EncodeSide(const Block& block, size_t num_tokens, const float* x, std::byte* out);
};

void Deco::EncodeSide(const Block& block, size_t num_tokens, const float* x, std::byte* out) {
  if (num_tokens == 0) {
    return;
  }
  const size_t head_dim = block.head_dim;
  const DecoLayout at = DecoLayoutOf(head_dim, block.token_capacity);
  std::vector<float> centred(x, x + num_tokens * head_dim);
  double sums[kMaxHeadDim] = {};
  for (size_t t = 0; t < num_tokens; ++t) {
    for (size_t i = 0; i < head_dim; ++i) {
      sums[i] += x[t * head_dim + i];
    }
  }
  float means[kMaxHeadDim];
  for (size_t i = 0; i < head_dim; ++i) {
    const uint16_t mean = FloatToF16(static_cast<float>(sums[i] / static_cast<double>(num_tokens)));
    std::memcpy(out + i * sizeof(mean), &mean, sizeof(mean));
    means[i] = F16ToFloat(mean);
  }
  for (size_t t = 0; t < num_tokens; ++t) {
    for (size_t i = 0; i < head_dim; ++i) {
      centred[t * head_dim + i] -= means[i];
    }
  }
  const DecoFactors factors = FactorDeco(centred.data(), num_tokens, at.blocks, at.columns);
  for (size_t i = 0; i < factors.small.size(); ++i) {
    const uint16_t half = FloatToF16(factors.small[i]);
    std::memcpy(out + at.small + i * sizeof(half), &half, sizeof(half));
  }
  for (size_t t = 0; t < num_tokens; ++t) {
    uint16_t params[2] = {};
    EncodeIntRow(kDecoBits,
                 factors.large.data() + t * head_dim,
                 head_dim,
                 out + at.codes + t * at.row_bytes,
                 params);
    std::memcpy(out + at.scales + t * sizeof(uint16_t), &params[kIntScale], sizeof(uint16_t));
    std::memcpy(out + at.offsets + t * sizeof(uint16_t), &params[kIntOffset], sizeof(uint16_t));
  }
}

}  // namespace

const Codec* Deco4Codec() {
  static const Deco kCodec;
  return &kCodec;
}

}  // namespace varve
#endif  // HWY_ONCE
