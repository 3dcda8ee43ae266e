// Codecs `klt4`, `klt3`, `klt2`, `klt1.8`. Bytes and meaning: klt_block.h; their tables:
// klt_calibration.cc.
#include <cmath>
#include <span>
#include <vector>

#include "kernels/codec/codecs.h"
#include "kernels/codec/head_codec.h"
#include "kernels/codec/klt_block.h"
#include "kernels/codec/klt_calibration.h"
#include "kernels/codec/klt_decode.h"
#include "kernels/codec/klt_encode.h"
#include "kernels/codec/klt_words.h"

namespace varve {

namespace {

bool BitsAreSound(const KltSide<const float>& side, size_t num_groups, size_t row_bytes) {
  size_t sum = 0;
  for (size_t group = 0; group < num_groups; ++group) {
    const float bits = side.group_bits[group];
    if (!(bits >= 0.0F && bits <= kKltMaxBits && bits == std::floor(bits))) {
      return false;
    }
    sum += static_cast<size_t>(bits);
  }
  return sum == row_bytes;
}

class KltCodec final : public HeadCodec, public WordDecoder {
 public:
  KltCodec(CodecId id, std::string_view name, KltRate rate) : id_(id), name_(name), rate_(rate) {}

  CodecId id() const override { return id_; }
  // 1 and 2 had halves as scales and values of uneven channels.
  uint16_t version() const override { return 3; }
  std::string_view name() const override { return name_; }
  bool needs_tables() const override { return true; }
  CodecTables Calibrate(const CalibrationSample& sample) const override {
    return CalibrateKlt(sample, rate_);
  }
  size_t TableFloats(size_t num_kv_heads, size_t head_dim) const override {
    return KltTableFloats(num_kv_heads, head_dim);
  }
  bool TablesAreSound(std::span<const float> values,
                      size_t num_kv_heads,
                      size_t head_dim) const override {
    const size_t num_groups = KltDims(head_dim) / kKltGroup;
    for (size_t head = 0; head < num_kv_heads; ++head) {
      const KltTables<const float> tables = KltTablesOf(values.data(), head, head_dim);
      if (!BitsAreSound(tables.keys, num_groups, KltRowBytes(rate_.keys, head_dim)) ||
          !BitsAreSound(tables.values, num_groups, KltRowBytes(rate_.values, head_dim))) {
        return false;
      }
    }
    return true;
  }

  size_t num_outliers(size_t /*head_dim*/) const override { return 0; }
  void LoadTables(const HeadRun& run, WordTables* tables) const override {
    LoadKltWords(TablesOf(BlockOf(run)), run.shape.head_dim, tables);
  }
  void DecodeKeyWords(const HeadRun& run,
                      const WordTables& tables,
                      size_t first_token,
                      size_t num_tokens,
                      int16_t* words,
                      float* scales,
                      const OutlierRows& /*outliers*/) const override {
    const Block block = BlockOf(run);
    const size_t row_bytes = KltRowBytes(rate_.keys, block.head_dim);
    const std::byte* keys = KeysOf(run);
    DecodeKltKeyWords(tables,
                      keys + first_token * row_bytes,
                      keys + block.token_capacity * row_bytes + first_token,
                      row_bytes,
                      num_tokens,
                      block.head_dim,
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
    const size_t row_bytes = KltRowBytes(rate_.values, block.head_dim);
    DecodeKltValueWords(tables,
                        ValuesOf(run) + first_token * row_bytes,
                        row_bytes,
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
    const Block block = BlockOf(run);
    LoadKltValueScales(tables,
                       ValuesOf(run) +
                           block.token_capacity * KltRowBytes(rate_.values, block.head_dim) +
                           first_token,
                       num_tokens,
                       scales);
    std::fill_n(offsets, num_tokens, 0.0F);
  }
  const void* ValueCoordinates(const HeadRun& run) const override { return run.tables; }
  void MapValues(const HeadRun& run,
                 const WordTables& /*tables*/,
                 const float* sums,
                 float /*weight*/,
                 float* out) const override {
    MapKltValues(TablesOf(BlockOf(run)), run.shape.head_dim, sums, out);
  }

 protected:
  bool keys_before_rope() const override { return true; }
  size_t KeyBytes(size_t head_dim, size_t token_capacity) const override {
    return token_capacity * (KltRowBytes(rate_.keys, head_dim) + 1);
  }
  size_t ValueBytes(size_t head_dim, size_t token_capacity) const override {
    return token_capacity * (KltRowBytes(rate_.values, head_dim) + 1);
  }
  void EncodeKeys(const Block& block,
                  size_t num_tokens,
                  const float* x,
                  std::byte* out) const override {
    const KltTables<const float> tables = TablesOf(block);
    const size_t dims = KltDims(block.head_dim);
    const size_t row_bytes = KltRowBytes(rate_.keys, block.head_dim);
    std::vector<float> y(num_tokens * dims);
    TransformKltKeys(tables, num_tokens, block.head_dim, x, y.data());
    EncodeKltRows(tables.keys,
                  num_tokens,
                  dims,
                  y.data(),
                  row_bytes,
                  out,
                  out + block.token_capacity * row_bytes);
  }
  void EncodeValues(const Block& block,
                    size_t num_tokens,
                    const float* x,
                    std::byte* out) const override {
    const KltTables<const float> tables = TablesOf(block);
    const size_t dims = KltDims(block.head_dim);
    const size_t row_bytes = KltRowBytes(rate_.values, block.head_dim);
    std::vector<float> y(num_tokens * dims);
    TransformKltValues(tables, num_tokens, block.head_dim, x, y.data());
    EncodeKltRows(tables.values,
                  num_tokens,
                  dims,
                  y.data(),
                  row_bytes,
                  out,
                  out + block.token_capacity * row_bytes);
  }
  void DecodeKeys(const Block& block,
                  const std::byte* encoded,
                  size_t first_token,
                  size_t num_tokens,
                  float* x) const override {
    const size_t row_bytes = KltRowBytes(rate_.keys, block.head_dim);
    DecodeKltKeys(TablesOf(block),
                  encoded + first_token * row_bytes,
                  encoded + block.token_capacity * row_bytes + first_token,
                  row_bytes,
                  num_tokens,
                  block.head_dim,
                  x);
  }
  void DecodeValues(const Block& block,
                    const std::byte* encoded,
                    size_t first_token,
                    size_t num_tokens,
                    float* x) const override {
    const size_t row_bytes = KltRowBytes(rate_.values, block.head_dim);
    DecodeKltValues(TablesOf(block),
                    encoded + first_token * row_bytes,
                    encoded + block.token_capacity * row_bytes + first_token,
                    row_bytes,
                    num_tokens,
                    block.head_dim,
                    x);
  }

 private:
  static KltTables<const float> TablesOf(const Block& block) {
    return KltTablesOf(block.tables->values.data(), block.kv_head, block.head_dim);
  }

  CodecId id_;
  std::string_view name_;
  KltRate rate_;
};

}  // namespace

const Codec* Klt4Codec() {
  static const KltCodec kCodec(CodecId::kKlt4, "klt4", {.keys = 17, .values = 16});
  return &kCodec;
}
const Codec* Klt3Codec() {
  static const KltCodec kCodec(CodecId::kKlt3, "klt3", {.keys = 13, .values = 12});
  return &kCodec;
}
const Codec* Klt2Codec() {
  static const KltCodec kCodec(CodecId::kKlt2, "klt2", {.keys = 9, .values = 8});
  return &kCodec;
}
const Codec* Klt18Codec() {
  static const KltCodec kCodec(CodecId::kKlt18, "klt1.8", {.keys = 7, .values = 7});
  return &kCodec;
}

}  // namespace varve
