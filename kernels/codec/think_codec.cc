// Codec `think`. Bytes and meaning: think_block.h.
#include "kernels/cpu/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/codec/think_codec.cc"
// clang-format off
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// clang-format on

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <vector>

#include "kernels/codec/codecs.h"
#include "kernels/codec/head_codec.h"
#include "kernels/codec/int_rows.h"
#include "kernels/codec/query_weights.h"
#include "kernels/codec/think_block.h"
#include "kernels/codec/word_decoder.h"
#include "kernels/cpu/attend_plan.h"
#include "kernels/cpu/level_words.h"
#include "kernels/cpu/reorder-inl.h"
#include "kernels/cpu/widen-inl.h"

HWY_BEFORE_NAMESPACE();
namespace varve::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

inline constexpr size_t kThinkTokens = 16;  // unpacked at a time

void ThinkDecodeKeys(const ThinkLayout& at,
                     size_t head_dim,
                     const std::byte* encoded,
                     size_t first_token,
                     size_t num_tokens,
                     float* x) {
  constexpr size_t kStride = ThinkKept(kMaxHeadDim) + 1;  // behind the kept channels a zero
  alignas(64) float y[kThinkTokens * kStride];
  int32_t places[kMaxHeadDim];
  float means[kMaxHeadDim];
  const size_t kept = ThinkKept(head_dim);
  ThinkPlaces(encoded, head_dim, places);
  WidenRow<DType::kF16>(encoded + at.means, head_dim, means);
  for (size_t t = 0; t < kThinkTokens; ++t) {
    y[t * kStride + kept] = 0.0F;
  }
  for (size_t begin = 0; begin < num_tokens; begin += kThinkTokens) {
    const size_t count = std::min(kThinkTokens, num_tokens - begin);
    const size_t token = first_token + begin;
    DecodeIntRows(kThinkBits,
                  encoded + at.codes + token * at.row_bytes,
                  encoded + at.scales + token * sizeof(uint16_t),
                  encoded + at.offsets + token * sizeof(uint16_t),
                  count,
                  kept,
                  kStride,
                  y);
    for (size_t t = 0; t < count; ++t, x += head_dim) {
      GatherAndAdd(y + t * kStride, places, means, head_dim, x);
    }
  }
}

// Where eight channels of a key come from: its kept channels from `first` on, by bytes.
struct ThinkEight {
  uint8_t bytes[16];  // 0x80: pruned
  size_t first;
};

// levels: [num_tokens, kept]; readable eight further.
void ThinkKeyWords(const ThinkLayout& at,
                   size_t head_dim,
                   const std::byte* encoded,
                   size_t first_token,
                   size_t num_tokens,
                   const int16_t* levels,
                   int16_t* out,
                   float* steps) {
  const hn::FixedTag<int16_t, 8> d;
  const hn::FixedTag<uint8_t, 16> d8;
  const size_t kept = ThinkKept(head_dim);
  int32_t places[kMaxHeadDim];
  ThinkPlaces(encoded, head_dim, places);
  ThinkEight eights[kMaxHeadDim / 8];
  size_t next = 0;
  for (size_t i = 0; i < head_dim; ++i) {
    ThinkEight& eight = eights[i / 8];
    eight.first = i % 8 == 0 ? next : eight.first;
    const bool stays = static_cast<size_t>(places[i]) < kept;
    const auto byte = static_cast<uint8_t>(2 * (next - eight.first));
    eight.bytes[i % 8 * 2] = stays ? byte : 0x80;
    eight.bytes[i % 8 * 2 + 1] = stays ? byte + 1 : 0x80;
    next += stays ? 1 : 0;
  }
  float means[kMaxHeadDim];
  float scales[kWordTokens];
  float offsets[kWordTokens];
  WidenRow<DType::kF16>(encoded + at.means, head_dim, means);
  const std::byte* first = encoded + first_token * sizeof(uint16_t);
  LoadStepParams(first + at.scales, first + at.offsets, num_tokens, scales, offsets);
  float largest_mean = 1e-30F;
  for (size_t i = 0; i < head_dim; ++i) {
    largest_mean = std::max(largest_mean, std::fabs(means[i]));
  }
  float largest = 0.0F;
  for (size_t t = 0; t < num_tokens; ++t) {
    largest = std::max(largest, std::fabs(offsets[t]) + 15.0F * scales[t]);
  }
  const float step = (largest + largest_mean) * 1.4143F / kMaxKeyPair;
  std::fill_n(steps, num_tokens, step);
  alignas(16) int16_t mean_words[kMaxHeadDim];
  for (size_t i = 0; i < head_dim; ++i) {
    mean_words[i] = static_cast<int16_t>(std::lrint(means[i] / step));
  }
  for (size_t t = 0; t < num_tokens; ++t, levels += kept, out += head_dim) {
    // (level * 2^11 * scale) / 2^15.
    const auto scale = hn::Set(d, static_cast<int16_t>(std::lrint(16.0F * scales[t] / step)));
    const auto offset = hn::Set(d, static_cast<int16_t>(std::lrint(offsets[t] / step)));
    for (size_t i = 0; i < head_dim; i += 8) {
      const ThinkEight& eight = eights[i / 8];
      const auto level = hn::ShiftLeft<11>(hn::LoadU(d, levels + eight.first));
      const auto word = hn::Add(hn::MulFixedPoint15(level, scale), offset);
      const auto placed = hn::TableLookupBytesOr0(word, hn::BitCast(d, hn::LoadU(d8, eight.bytes)));
      hn::StoreU(hn::Add(placed, hn::Load(d, mean_words + i)), d, out + i);
    }
  }
}

}  // namespace varve::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace varve {
namespace {

HWY_EXPORT(ThinkDecodeKeys);
HWY_EXPORT(ThinkKeyWords);

// One row of int4 at token `t` of a block.
void StoreRow(const ThinkLayout& at, size_t t, const float* x, size_t count, std::byte* out) {
  uint16_t params[2] = {};
  EncodeIntRow(kThinkBits, x, count, out + at.codes + t * at.row_bytes, params);
  std::memcpy(out + at.scales + t * sizeof(uint16_t), &params[kIntScale], sizeof(uint16_t));
  std::memcpy(out + at.offsets + t * sizeof(uint16_t), &params[kIntOffset], sizeof(uint16_t));
}

// The channels that stay, ascending. energy: [head_dim], sums of squares about the means.
std::vector<size_t> KeptChannels(const float* q_norms, const std::vector<double>& energy) {
  std::vector<double> scores(energy.size());
  for (size_t i = 0; i < scores.size(); ++i) {
    scores[i] = static_cast<double>(q_norms[i]) * q_norms[i] * energy[i];
  }
  std::vector<size_t> order(energy.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(
      order.begin(), order.end(), [&](size_t a, size_t b) { return scores[a] > scores[b]; });
  order.resize(ThinkKept(energy.size()));
  std::sort(order.begin(), order.end());
  return order;
}

class Think final : public HeadCodec, public WordDecoder {
 public:
  CodecId id() const override { return CodecId::kThink; }
  std::string_view name() const override { return "think"; }
  bool needs_tables() const override { return true; }
  CodecTables Calibrate(const CalibrationSample& sample) const override {
    CodecTables tables;
    for (size_t head = 0; head < static_cast<size_t>(sample.num_kv_heads); ++head) {
      for (const double weight : QueryWeights(sample, head)) {
        tables.values.push_back(static_cast<float>(std::sqrt(weight)));
      }
    }
    tables.hash = CodecTables::HashOf(tables.values);
    return tables;
  }
  size_t TableFloats(size_t num_kv_heads, size_t head_dim) const override {
    return ThinkTableFloats(num_kv_heads, head_dim);
  }
  bool TablesAreSound(std::span<const float> values,
                      size_t /*num_kv_heads*/,
                      size_t /*head_dim*/) const override {
    return std::all_of(values.begin(), values.end(), [](float norm) { return norm >= 0.0F; });
  }

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
    const auto head_dim = static_cast<size_t>(run.shape.head_dim);
    const ThinkLayout at = KeyLayoutOf(run);
    const std::byte* keys = KeysOf(run);
    int16_t levels[kWordTokens * ThinkKept(kMaxWordChannels) + 8];
    ValueLevelWords(kThinkBits,
                    keys + at.codes + first_token * at.row_bytes,
                    tables,
                    num_tokens,
                    ThinkKept(head_dim),
                    levels);
    HWY_DYNAMIC_DISPATCH(ThinkKeyWords)
    (at, head_dim, keys, first_token, num_tokens, levels, words, scales);
  }
  void DecodeValueWords(const HeadRun& run,
                        const WordTables& tables,
                        size_t first_token,
                        size_t num_tokens,
                        int16_t* words,
                        const OutlierRows& /*outliers*/) const override {
    const auto head_dim = static_cast<size_t>(run.shape.head_dim);
    const ThinkLayout at = ValueLayoutOf(run);
    ValueLevelWords(kThinkBits,
                    ValuesOf(run) + at.codes + first_token * at.row_bytes,
                    tables,
                    num_tokens,
                    head_dim,
                    words);
  }
  void LoadValueParams(const HeadRun& run,
                       const WordTables& /*tables*/,
                       size_t first_token,
                       size_t num_tokens,
                       float* scales,
                       float* offsets) const override {
    const ThinkLayout at = ValueLayoutOf(run);
    const std::byte* first = ValuesOf(run) + first_token * sizeof(uint16_t);
    LoadStepParams(first + at.scales, first + at.offsets, num_tokens, scales, offsets);
  }

 protected:
  bool keys_before_rope() const override { return true; }
  size_t KeyBytes(size_t head_dim, size_t token_capacity) const override {
    return ThinkKeyLayout(head_dim, token_capacity).bytes;
  }
  size_t ValueBytes(size_t head_dim, size_t token_capacity) const override {
    return ThinkValueLayout(head_dim, token_capacity).bytes;
  }
  void EncodeKeys(const Block& block,
                  size_t num_tokens,
                  const float* x,
                  std::byte* out) const override;
  void EncodeValues(const Block& block,
                    size_t num_tokens,
                    const float* x,
                    std::byte* out) const override {
    const ThinkLayout at = ThinkValueLayout(block.head_dim, block.token_capacity);
    for (size_t t = 0; t < num_tokens; ++t) {
      StoreRow(at, t, x + t * block.head_dim, block.head_dim, out);
    }
  }
  void DecodeKeys(const Block& block,
                  const std::byte* encoded,
                  size_t first_token,
                  size_t num_tokens,
                  float* x) const override {
    HWY_DYNAMIC_DISPATCH(ThinkDecodeKeys)
    (ThinkKeyLayout(block.head_dim, block.token_capacity),
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
    const ThinkLayout at = ThinkValueLayout(block.head_dim, block.token_capacity);
    DecodeIntRows(kThinkBits,
                  encoded + at.codes + first_token * at.row_bytes,
                  encoded + at.scales + first_token * sizeof(uint16_t),
                  encoded + at.offsets + first_token * sizeof(uint16_t),
                  num_tokens,
                  block.head_dim,
                  block.head_dim,
                  x);
  }

 private:
  static ThinkLayout ValueLayoutOf(const HeadRun& run) {
    return ThinkValueLayout(static_cast<size_t>(run.shape.head_dim),
                            static_cast<size_t>(run.shape.token_capacity));
  }
  static ThinkLayout KeyLayoutOf(const HeadRun& run) {
    return ThinkKeyLayout(static_cast<size_t>(run.shape.head_dim),
                          static_cast<size_t>(run.shape.token_capacity));
  }
};

void Think::EncodeKeys(const Block& block,
                       size_t num_tokens,
                       const float* x,
                       std::byte* out) const {
  if (num_tokens == 0) {
    return;
  }
  const size_t head_dim = block.head_dim;
  const ThinkLayout at = ThinkKeyLayout(head_dim, block.token_capacity);
  std::vector<float> means(head_dim);
  std::vector<double> energy(head_dim, 0.0);
  for (size_t i = 0; i < head_dim; ++i) {
    double sum = 0.0;
    for (size_t t = 0; t < num_tokens; ++t) {
      sum += x[t * head_dim + i];
    }
    const uint16_t mean = FloatToF16(static_cast<float>(sum / static_cast<double>(num_tokens)));
    std::memcpy(out + at.means + i * sizeof(mean), &mean, sizeof(mean));
    means[i] = F16ToFloat(mean);
    for (size_t t = 0; t < num_tokens; ++t) {
      const double off = static_cast<double>(x[t * head_dim + i]) - means[i];
      energy[i] += off * off;
    }
  }
  const std::vector<size_t> kept =
      KeptChannels(block.tables->values.data() + block.kv_head * head_dim, energy);
  for (const size_t i : kept) {
    SetBits(out[i / 8], 1U << i % 8);
  }
  std::vector<float> row(kept.size());
  for (size_t t = 0; t < num_tokens; ++t) {
    for (size_t j = 0; j < kept.size(); ++j) {
      row[j] = x[t * head_dim + kept[j]] - means[kept[j]];
    }
    StoreRow(at, t, row.data(), row.size(), out);
  }
}

}  // namespace

const Codec* ThinkCodec() {
  static const Think kCodec;
  return &kCodec;
}

}  // namespace varve
#endif  // HWY_ONCE
