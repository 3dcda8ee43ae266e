// Codecs `rvq8`, `rvq4`, `rvq8-2k`. Bytes and meaning: rvq_block.h; their tables:
// rvq_calibration.cc; the search for codewords: rvq_search.cc.
#include "kernels/cpu/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/codec/rvq_codec.cc"
// clang-format off
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// clang-format on

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/codec/codecs.h"
#include "kernels/codec/f16_block.h"
#include "kernels/codec/head_codec.h"
#include "kernels/codec/rvq_block.h"
#include "kernels/codec/rvq_calibration.h"
#include "kernels/codec/rvq_search.h"
#include "kernels/codec/rvq_words.h"
#include "kernels/cpu/attend_plan.h"
#include "kernels/cpu/rvq_groups-inl.h"
#include "kernels/dense.h"

HWY_BEFORE_NAMESPACE();
namespace varve::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <size_t kStages, size_t kBits>
void RvqDecodeRowsOf(const float* codebooks,
                     const std::byte* codes,
                     const std::byte* scales,
                     bool is_key,
                     size_t num_tokens,
                     size_t head_dim,
                     float* out) {
  constexpr RvqFormat kFormat{kStages, kBits};
  const size_t num_groups = RvqGroups(head_dim);
  const bool is_whole = head_dim % kRvqGroup == 0;
  const bool is_interleaved = is_key && num_groups > 1;
  alignas(64) float groups[kMaxHeadDim];
  alignas(64) float row[kMaxHeadDim];
  for (size_t t = 0; t < num_tokens; ++t, out += head_dim) {
    uint16_t half;
    std::memcpy(&half, scales + t * sizeof(half), sizeof(half));
    const float scale = F16ToFloat(half);
    float* target = is_interleaved || !is_whole ? groups : out;
    for (size_t group = 0; group < num_groups; ++group) {
      SumRvqGroup<kStages, kBits>(codebooks, codes, scale, target + group * kRvqGroup);
      codes += RvqGroupBytes(kFormat);
    }
    if (is_interleaved) {
      target = is_whole ? out : row;
      InterleaveRvqGroups(groups, num_groups, kRvqGroup, target);
    }
    if (!is_whole) {
      std::copy_n(target, head_dim, out);
    }
  }
}

// codebooks: of the side. codes: [num_tokens, row_bytes], scales: [num_tokens] half.
void RvqDecodeRows(const RvqFormat& format,
                   const float* codebooks,
                   const std::byte* codes,
                   const std::byte* scales,
                   bool is_key,
                   size_t num_tokens,
                   size_t head_dim,
                   float* out) {
  const auto decode = format.index_bits == 11 ? RvqDecodeRowsOf<8, 11>
                      : format.stages == 8    ? RvqDecodeRowsOf<8, 8>
                                              : RvqDecodeRowsOf<4, 8>;
  decode(codebooks, codes, scales, is_key, num_tokens, head_dim, out);
}

}  // namespace varve::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace varve {

HWY_EXPORT(RvqDecodeRows);

namespace {

class RvqCodec : public HeadCodec {
 public:
  RvqCodec(CodecId id, std::string_view name, const RvqFormat& format)
      : id_(id), name_(name), format_(format) {}

  CodecId id() const override { return id_; }
  std::string_view name() const override { return name_; }
  bool needs_tables() const override { return true; }
  CodecTables Calibrate(const CalibrationSample& sample) const override {
    return CalibrateRvq(sample, format_);
  }
  size_t TableFloats(size_t /*num_kv_heads*/, size_t /*head_dim*/) const override {
    return RvqTableFloats(format_);
  }
  bool TablesAreSound(std::span<const float> values,
                      size_t /*num_kv_heads*/,
                      size_t /*head_dim*/) const override {
    return std::all_of(values.begin(), values.end(), [](float value) {
      return std::fabs(value) <= kRvqLargestWeight;
    });
  }

 protected:
  const RvqFormat& format() const { return format_; }
  bool keys_before_rope() const override { return true; }
  size_t KeyBytes(size_t head_dim, size_t token_capacity) const override {
    return RvqBlockBytes(format_, head_dim, token_capacity);
  }
  size_t ValueBytes(size_t head_dim, size_t token_capacity) const override {
    return RvqBlockBytes(format_, head_dim, token_capacity);
  }
  void EncodeKeys(const Block& block,
                  size_t num_tokens,
                  const float* x,
                  std::byte* out) const override {
    EncodeSide(block, true, num_tokens, x, out);
  }
  void EncodeValues(const Block& block,
                    size_t num_tokens,
                    const float* x,
                    std::byte* out) const override {
    EncodeSide(block, false, num_tokens, x, out);
  }
  void DecodeKeys(const Block& block,
                  const std::byte* encoded,
                  size_t first_token,
                  size_t num_tokens,
                  float* x) const override {
    DecodeSide(block, true, encoded, first_token, num_tokens, x);
  }
  void DecodeValues(const Block& block,
                    const std::byte* encoded,
                    size_t first_token,
                    size_t num_tokens,
                    float* x) const override {
    DecodeSide(block, false, encoded, first_token, num_tokens, x);
  }

 private:
  const float* CodebooksOf(const Block& block, bool is_key) const {
    return block.tables->values.data() + (is_key ? 0 : RvqSideFloats(format_));
  }

  // Stage by stage, so that each codebook is laid out for the search once for all rows.
  void EncodeSide(const Block& block,
                  bool is_key,
                  size_t num_tokens,
                  const float* x,
                  std::byte* out) const {
    if (num_tokens == 0) {
      return;
    }
    const size_t num_groups = RvqGroups(block.head_dim);
    const size_t row_bytes = RvqRowBytes(format_, block.head_dim);
    std::vector<uint16_t> scales(num_tokens);
    std::vector<float> rest(num_tokens * num_groups * kRvqGroup);
    for (size_t t = 0; t < num_tokens; ++t) {
      const float* row = x + t * block.head_dim;
      scales[t] = RvqScale(row, block.head_dim);
      if (scales[t] != 0) {
        SplitRvqRow(row,
                    block.head_dim,
                    is_key,
                    F16ToFloat(scales[t]),
                    rest.data() + t * num_groups * kRvqGroup);
      }
    }
    std::memcpy(
        out + block.token_capacity * row_bytes, scales.data(), num_tokens * sizeof(uint16_t));
    std::vector<uint16_t> nearest(num_tokens * num_groups);
    const float* codebook = CodebooksOf(block, is_key);
    for (size_t stage = 0; stage < format_.stages; ++stage) {
      FindNearestCodewords(
          codebook, RvqEntries(format_), rest.data(), nearest.size(), nearest.data());
      SubtractCodewords(codebook, nearest.data(), nearest.size(), rest.data());
      for (size_t v = 0; v < nearest.size(); ++v) {
        if (scales[v / num_groups] != 0) {
          SetRvqIndex(out + v * RvqGroupBytes(format_), format_, stage, nearest[v]);
        }
      }
      codebook += RvqEntries(format_) * kRvqGroup;
    }
  }

  void DecodeSide(const Block& block,
                  bool is_key,
                  const std::byte* encoded,
                  size_t first_token,
                  size_t num_tokens,
                  float* x) const {
    const size_t row_bytes = RvqRowBytes(format_, block.head_dim);
    HWY_DYNAMIC_DISPATCH(RvqDecodeRows)
    (format_,
     CodebooksOf(block, is_key),
     encoded + first_token * row_bytes,
     encoded + block.token_capacity * row_bytes + first_token * sizeof(uint16_t),
     is_key,
     num_tokens,
     block.head_dim,
     x);
  }

  CodecId id_;
  std::string_view name_;
  RvqFormat format_;
};

// Of indices of 8 bits.
class RvqWordCodec final : public RvqCodec, public WordDecoder {
 public:
  using RvqCodec::RvqCodec;

  size_t num_outliers(size_t /*head_dim*/) const override { return 0; }
  void LoadTables(const HeadRun& run, WordTables* tables) const override {
    LoadRvqWords(format(), run.tables->values.data(), run.shape.head_dim, tables);
  }
  void DecodeKeyWords(const HeadRun& run,
                      const WordTables& tables,
                      size_t first_token,
                      size_t num_tokens,
                      int16_t* words,
                      float* scales,
                      const OutlierRows& /*outliers*/) const override {
    const Block block = BlockOf(run);
    const std::byte* keys = KeysOf(run);
    DecodeRvqKeyWords(format(),
                      tables,
                      keys + first_token * RvqRowBytes(format(), block.head_dim),
                      num_tokens,
                      block.head_dim,
                      words);
    LoadScales(block, keys, first_token, num_tokens, scales);
  }
  void DecodeValueWords(const HeadRun& run,
                        const WordTables& tables,
                        size_t first_token,
                        size_t num_tokens,
                        int16_t* words,
                        const OutlierRows& /*outliers*/) const override {
    const Block block = BlockOf(run);
    DecodeRvqValueWords(format(),
                        tables,
                        ValuesOf(run) + first_token * RvqRowBytes(format(), block.head_dim),
                        num_tokens,
                        block.head_dim,
                        words);
  }
  void LoadValueParams(const HeadRun& run,
                       const WordTables& tables,
                       size_t first_token,
                       size_t num_tokens,
                       float* scales,
                       float* offsets) const override {
    LoadScales(BlockOf(run), ValuesOf(run), first_token, num_tokens, scales);
    for (size_t t = 0; t < num_tokens; ++t) {
      scales[t] *= tables.value_step;
    }
    std::fill_n(offsets, num_tokens, 0.0F);
  }

 private:
  void LoadScales(const Block& block,
                  const std::byte* encoded,
                  size_t first_token,
                  size_t num_tokens,
                  float* scales) const {
    Widen(encoded + block.token_capacity * RvqRowBytes(format(), block.head_dim) +
              first_token * sizeof(uint16_t),
          DType::kF16,
          num_tokens,
          scales);
  }
};

}  // namespace

const Codec* Rvq8Codec() {
  static const RvqWordCodec kCodec(CodecId::kRvq8, "rvq8", {8, 8});
  return &kCodec;
}
const Codec* Rvq4Codec() {
  static const RvqWordCodec kCodec(CodecId::kRvq4, "rvq4", {4, 8});
  return &kCodec;
}
const Codec* Rvq8LargeCodec() {
  static const RvqCodec kCodec(CodecId::kRvq8Large, "rvq8-2k", {8, 11});
  return &kCodec;
}

}  // namespace varve
#endif  // HWY_ONCE
