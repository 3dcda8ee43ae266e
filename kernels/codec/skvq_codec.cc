// Codecs `skvq4`, `skvq2`. Bytes and meaning: skvq_block.h; their tables: skvq_calibration.cc.
#include "kernels/cpu/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/codec/skvq_codec.cc"
// clang-format off
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// clang-format on

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/codec/codecs.h"
#include "kernels/codec/head_codec.h"
#include "kernels/codec/pack_codes.h"
#include "kernels/codec/skvq_block.h"
#include "kernels/codec/skvq_calibration.h"
#include "kernels/codec/skvq_groups.h"
#include "kernels/codec/skvq_words.h"
#include "kernels/cpu/attend_plan.h"
#include "kernels/cpu/packed-inl.h"

HWY_BEFORE_NAMESPACE();
namespace varve::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// One row. groups: of each channel; scales, offsets: [kSkvqMaxGroups].
template <size_t kBits>
HWY_INLINE void SkvqDecodeRow(const std::byte* row,
                              const int32_t* groups,
                              const float* scales,
                              const float* offsets,
                              const float* centre,
                              size_t head_dim,
                              float* x) {
  const hn::CappedTag<float, 8> d;     // a granule of packed codes
  static_assert(kSkvqMaxGroups == 4);  // those of 128 bits
  const hn::RebindToSigned<decltype(d)> d32;
  const auto group_scales = hn::LoadDup128(d, scales);
  const auto group_offsets = hn::LoadDup128(d, offsets);
  size_t i = 0;
  for (; i + hn::Lanes(d) <= head_dim; i += hn::Lanes(d)) {
    const auto group = hn::IndicesFromVec(d, hn::LoadU(d32, groups + i));
    const auto code = hn::ConvertTo(d, LoadCodes<kBits>(d, row, i, head_dim));
    const auto step = hn::Mul(code, hn::TableLookupLanes(group_scales, group));
    const auto y = hn::Add(step, hn::TableLookupLanes(group_offsets, group));
    hn::StoreU(hn::Add(y, hn::LoadU(d, centre + i)), d, x + i);
  }
  for (; i < head_dim; ++i) {
    x[i] = SkvqDecode(
        UnpackCode(row, kBits, head_dim, i), scales[groups[i]], offsets[groups[i]], centre[i]);
  }
}

template <size_t kBits>
void SkvqDecodeRowsOf(const SkvqLayout& at,
                      const SkvqTables& tables,
                      const float* fp8,
                      size_t head_dim,
                      const std::byte* encoded,
                      size_t first_token,
                      size_t num_tokens,
                      float* x) {
  int32_t groups[kMaxHeadDim];
  for (size_t i = 0; i < head_dim; ++i) {
    groups[i] = static_cast<int32_t>(SkvqGroupOf(tables, head_dim, i));
  }
  float units[2 * kSkvqMaxGroups];
  for (size_t i = 0; i < 2 * at.groups; ++i) {
    uint16_t half;
    std::memcpy(&half, encoded + i * sizeof(half), sizeof(half));
    units[i] = F16ToFloat(half);
  }
  alignas(16) float scales[kSkvqMaxGroups] = {};
  alignas(16) float offsets[kSkvqMaxGroups] = {};
  for (size_t t = first_token; t < first_token + num_tokens; ++t, x += head_dim) {
    for (size_t g = 0; g < at.groups; ++g) {
      const size_t own = t * at.groups + g;
      scales[g] = fp8[static_cast<size_t>(encoded[at.scales + own])] * units[g];
      offsets[g] = fp8[static_cast<size_t>(encoded[at.offsets + own])] * units[at.groups + g];
    }
    SkvqDecodeRow<kBits>(
        encoded + at.codes + t * at.row_bytes, groups, scales, offsets, tables.centre, head_dim, x);
  }
}

void SkvqDecodeRows(size_t bits,
                    const SkvqLayout& at,
                    const SkvqTables& tables,
                    const float* fp8,
                    size_t head_dim,
                    const std::byte* encoded,
                    size_t first_token,
                    size_t num_tokens,
                    float* x) {
  const auto decode = bits == 4 ? SkvqDecodeRowsOf<4> : SkvqDecodeRowsOf<2>;
  decode(at, tables, fp8, head_dim, encoded, first_token, num_tokens, x);
}

}  // namespace varve::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace varve {
namespace {

HWY_EXPORT(SkvqDecodeRows);

// What each E4M3 code means.
const float* Fp8Values() {
  static const auto kValues = [] {
    std::array<float, 256> values{};
    for (size_t code = 0; code < values.size(); ++code) {
      values[code] = Fp8ToFloat(static_cast<uint8_t>(code));
    }
    return values;
  }();
  return kValues.data();
}

// Whether the places are a permutation and every group keeps some of its range.
bool SideIsSound(const SkvqTables& tables, size_t head_dim) {
  bool is_taken[kMaxHeadDim] = {};
  for (size_t i = 0; i < head_dim; ++i) {
    const float place = tables.place[i];
    if (!(place >= 0.0F && place < static_cast<float>(head_dim)) || place != std::floor(place) ||
        is_taken[SkvqPlace(tables, i)]) {
      return false;
    }
    is_taken[SkvqPlace(tables, i)] = true;
  }
  return std::all_of(tables.alphas, tables.alphas + SkvqGroups(head_dim), [](float alpha) {
    return alpha > 0.0F && alpha <= 1.0F;
  });
}

class SkvqCodec final : public HeadCodec, public WordDecoder {
 public:
  SkvqCodec(CodecId id, std::string_view name, size_t bits) : id_(id), name_(name), bits_(bits) {}

  CodecId id() const override { return id_; }
  uint16_t version() const override { return 2; }  // 1 had codes in the order of the places
  std::string_view name() const override { return name_; }
  bool needs_tables() const override { return true; }
  CodecTables Calibrate(const CalibrationSample& sample) const override {
    return CalibrateSkvq(sample, bits_);
  }
  size_t TableFloats(size_t num_kv_heads, size_t head_dim) const override {
    return SkvqTableFloats(num_kv_heads, head_dim);
  }
  bool TablesAreSound(std::span<const float> values,
                      size_t num_kv_heads,
                      size_t head_dim) const override {
    for (size_t side = 0; side < 2 * num_kv_heads; ++side) {
      if (!SideIsSound(SkvqTablesOf(values.data(), side / 2, side % 2 == 0, head_dim), head_dim)) {
        return false;
      }
    }
    return true;
  }

  size_t num_outliers(size_t /*head_dim*/) const override { return 0; }
  void LoadTables(const HeadRun& run, WordTables* tables) const override {
    const Block block = BlockOf(run);
    LoadSkvqWords(bits_,
                  TablesOf(block, /*is_key=*/true),
                  TablesOf(block, /*is_key=*/false),
                  block.head_dim,
                  tables);
  }
  void DecodeKeyWords(const HeadRun& run,
                      const WordTables& tables,
                      size_t first_token,
                      size_t num_tokens,
                      int16_t* words,
                      float* scales,
                      const OutlierRows& /*outliers*/) const override {
    DecodeSkvqWords(RowsOf(run, /*is_key=*/true, first_token, num_tokens), tables, words, scales);
  }
  void DecodeValueWords(const HeadRun& run,
                        const WordTables& tables,
                        size_t first_token,
                        size_t num_tokens,
                        int16_t* words,
                        const OutlierRows& /*outliers*/) const override {
    float steps[kWordTokens];
    DecodeSkvqWords(RowsOf(run, /*is_key=*/false, first_token, num_tokens), tables, words, steps);
  }
  void LoadValueParams(const HeadRun& run,
                       const WordTables& tables,
                       size_t first_token,
                       size_t num_tokens,
                       float* scales,
                       float* offsets) const override {
    LoadSkvqSteps(RowsOf(run, /*is_key=*/false, first_token, num_tokens), tables, scales);
    std::fill_n(offsets, num_tokens, 0.0F);
  }

 protected:
  bool keys_before_rope() const override { return true; }
  size_t KeyBytes(size_t head_dim, size_t token_capacity) const override {
    return SkvqLayoutOf(bits_, head_dim, token_capacity).bytes;
  }
  size_t ValueBytes(size_t head_dim, size_t token_capacity) const override {
    return SkvqLayoutOf(bits_, head_dim, token_capacity).bytes;
  }
  void EncodeKeys(const Block& block,
                  size_t num_tokens,
                  const float* x,
                  std::byte* out) const override {
    EncodeSide(block, TablesOf(block, /*is_key=*/true), num_tokens, x, out);
  }
  void EncodeValues(const Block& block,
                    size_t num_tokens,
                    const float* x,
                    std::byte* out) const override {
    EncodeSide(block, TablesOf(block, /*is_key=*/false), num_tokens, x, out);
  }
  void DecodeKeys(const Block& block,
                  const std::byte* encoded,
                  size_t first_token,
                  size_t num_tokens,
                  float* x) const override {
    DecodeSide(block, TablesOf(block, /*is_key=*/true), encoded, first_token, num_tokens, x);
  }
  void DecodeValues(const Block& block,
                    const std::byte* encoded,
                    size_t first_token,
                    size_t num_tokens,
                    float* x) const override {
    DecodeSide(block, TablesOf(block, /*is_key=*/false), encoded, first_token, num_tokens, x);
  }

 private:
  static SkvqTables TablesOf(const Block& block, bool is_key) {
    return SkvqTablesOf(block.tables->values.data(), block.kv_head, is_key, block.head_dim);
  }
  SkvqLayout LayoutOf(const Block& block) const {
    return SkvqLayoutOf(bits_, block.head_dim, block.token_capacity);
  }
  SkvqRows RowsOf(const HeadRun& run, bool is_key, size_t first_token, size_t num_tokens) const {
    const Block block = BlockOf(run);
    return {.bits = bits_,
            .head_dim = block.head_dim,
            .is_key = is_key,
            .at = LayoutOf(block),
            .block = is_key ? KeysOf(run) : ValuesOf(run),
            .first_token = first_token,
            .num_tokens = num_tokens};
  }
  void EncodeSide(const Block& block,
                  const SkvqTables& tables,
                  size_t num_tokens,
                  const float* x,
                  std::byte* out) const {
    const SkvqLayout at = LayoutOf(block);
    const size_t head_dim = block.head_dim;
    std::vector<float> y(num_tokens * head_dim);
    size_t places[kMaxHeadDim];
    size_t channels[kMaxHeadDim];
    for (size_t i = 0; i < head_dim; ++i) {
      places[i] = SkvqPlace(tables, i);
      channels[places[i]] = i;
    }
    for (size_t t = 0; t < num_tokens; ++t) {
      for (size_t i = 0; i < head_dim; ++i) {
        y[t * head_dim + places[i]] = x[t * head_dim + i] - tables.centre[i];
      }
    }
    std::vector<RowCodes> rows(num_tokens);
    for (size_t g = 0; g < at.groups; ++g) {
      const size_t begin = g * at.group;
      const size_t width = std::min(head_dim, begin + at.group) - begin;
      const SkvqCodedGroup coded =
          CodeSkvqGroup(bits_, tables.alphas[g], y.data() + begin, num_tokens, width, head_dim);
      std::memcpy(out + g * sizeof(uint16_t), &coded.scale_unit, sizeof(uint16_t));
      std::memcpy(
          out + at.offset_units + g * sizeof(uint16_t), &coded.offset_unit, sizeof(uint16_t));
      for (size_t t = 0; t < num_tokens; ++t) {
        out[at.scales + t * at.groups + g] = static_cast<std::byte>(coded.scales[t]);
        out[at.offsets + t * at.groups + g] = static_cast<std::byte>(coded.offsets[t]);
        for (size_t i = 0; i < width; ++i) {
          rows[t].codes[channels[begin + i]] = coded.codes[t * width + i];
        }
      }
    }
    for (size_t t = 0; t < num_tokens; ++t) {
      PackRow(rows[t], bits_, head_dim, out + at.codes + t * at.row_bytes);
    }
  }
  void DecodeSide(const Block& block,
                  const SkvqTables& tables,
                  const std::byte* encoded,
                  size_t first_token,
                  size_t num_tokens,
                  float* x) const {
    HWY_DYNAMIC_DISPATCH(SkvqDecodeRows)
    (bits_,
     LayoutOf(block),
     tables,
     Fp8Values(),
     block.head_dim,
     encoded,
     first_token,
     num_tokens,
     x);
  }

  CodecId id_;
  std::string_view name_;
  size_t bits_;
};

}  // namespace

const Codec* Skvq4Codec() {
  static const SkvqCodec kCodec(CodecId::kSkvq4, "skvq4", 4);
  return &kCodec;
}
const Codec* Skvq2Codec() {
  static const SkvqCodec kCodec(CodecId::kSkvq2, "skvq2", 2);
  return &kCodec;
}

}  // namespace varve
#endif  // HWY_ONCE
