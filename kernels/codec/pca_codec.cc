// Codecs `pca` and `pca10`. Bytes and meaning: pca_block.h; their tables: pca_calibration.cc.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/codec/codecs.h"
#include "kernels/codec/gather_rows.h"
#include "kernels/codec/nearest_levels.h"
#include "kernels/codec/ordered_product.h"
#include "kernels/codec/pca_block.h"
#include "kernels/codec/pca_calibration.h"
#include "kernels/codec/pca_loops.h"
#include "proto/base/check.h"

namespace varve {
namespace {

// What centred channels are multiplied by to become the components that have bits.
struct Projection {
  std::vector<size_t> components;
  std::vector<float> matrix;  // [W, components]
};

Projection ProjectionOf(const PcaSide& side) {
  Projection made;
  for (size_t group = 0; group < side.num_groups; ++group) {
    for (size_t lane = 0; lane < kPcaGroup && PcaGroupBits(side, group) != 0; ++lane) {
      made.components.push_back(group * kPcaGroup + lane);
    }
  }
  const size_t count = made.components.size();
  made.matrix.resize(side.width() * count);
  // Rows of B^T of one kv head, and the same times M.
  const size_t head_dim = side.head_dim;
  std::vector<float> rows(count * head_dim);  // a multiple of kPcaGroup rows
  std::vector<float> weighed(rows.size());
  for (size_t head = 0; head < side.num_kv_heads; ++head) {
    for (size_t c = 0; c < count; ++c) {
      std::copy_n(side.basis + made.components[c] * side.width() + head * head_dim,
                  head_dim,
                  rows.data() + c * head_dim);
    }
    if (side.metric != nullptr) {
      MultiplyInOrder(rows.data(),
                      count,
                      head_dim,
                      side.metric + head * head_dim * head_dim,
                      head_dim,
                      weighed.data());
    } else {
      weighed = rows;
    }
    for (size_t c = 0; c < count; ++c) {
      const float deviation = side.deviations[made.components[c]];
      const float variance = deviation * deviation;
      for (size_t i = 0; i < head_dim; ++i) {
        made.matrix[(head * head_dim + i) * count + c] =
            variance > 0.0F ? weighed[c * head_dim + i] / variance : 0.0F;
      }
    }
  }
  return made;
}

// Searches by the bits that groups of the side have.
struct PcaSearches {
  LevelSearch of_bits[kPcaMaxBits + 1];
};

PcaSearches SearchesOf(const PcaSide& side) {
  PcaSearches searches;
  for (size_t bits = 1; bits <= kPcaMaxBits; ++bits) {
    searches.of_bits[bits] = MakeLevelSearch({side.levels + PcaLevelsAt(bits), size_t{1} << bits});
  }
  return searches;
}

// One side of one token. y: its components that have bits; row: zero where the side's bytes go.
void EncodeRow(const PcaSide& side,
               const PcaSearches& searches,
               const PcaPlace& at,
               const std::vector<size_t>& components,
               const float* y,
               std::byte* row) {
  double energy = 0.0;
  for (size_t c = 0; c < components.size(); ++c) {
    energy += static_cast<double>(y[c]) * y[c];
  }
  const auto norm = static_cast<float>(
      std::sqrt(energy / static_cast<double>(std::max<size_t>(components.size(), 1))));
  if (!(norm > 0.0F)) {
    return;
  }
  double product = 0.0;
  double square = 0.0;
  std::byte* bytes = row + at.codes;
  for (size_t c = 0; c < components.size(); c += kPcaGroup) {
    const size_t bits = PcaGroupBits(side, components[c] / kPcaGroup);
    const float* levels = side.levels + PcaLevelsAt(bits);
    float normalised[kPcaGroup];
    std::transform(y + c, y + c + kPcaGroup, normalised, [norm](float x) { return x / norm; });
    uint8_t codes[kPcaGroup];
    NearestLevels(searches.of_bits[bits], normalised, kPcaGroup, codes);
    for (size_t lane = 0; lane < kPcaGroup; ++lane) {
      const double deviation = side.deviations[components[c + lane]];
      const double level = levels[codes[lane]];
      product += deviation * deviation * y[c + lane] * level;
      square += deviation * deviation * level * level;
      for (size_t b = 0; b < bits; ++b) {
        bytes[b] |= static_cast<std::byte>((codes[lane] >> b & 1U) << lane);
      }
    }
    bytes += bits;
  }
  row[at.scale] = static_cast<std::byte>(PcaScaleCode(square > 0.0 ? product / square : 0.0));
}

// rows: [PcaRoundUp(num_tokens), W], lost. out: the run's rows.
void EncodeSide(const PcaSide& side,
                const PcaPlace& at,
                size_t num_tokens,
                std::vector<float>& rows,
                std::byte* out) {
  const size_t width = side.width();
  for (size_t t = 0; t < num_tokens; ++t) {
    for (size_t i = 0; i < width; ++i) {
      rows[t * width + i] -= side.mean[i];
    }
  }
  const Projection projection = ProjectionOf(side);
  const PcaSearches searches = SearchesOf(side);
  const size_t count = projection.components.size();
  std::vector<float> y(PcaRoundUp(num_tokens) * count);
  MultiplyInOrder(
      rows.data(), PcaRoundUp(num_tokens), width, projection.matrix.data(), count, y.data());
  for (size_t t = 0; t < num_tokens; ++t) {
    EncodeRow(
        side, searches, at, projection.components, y.data() + t * count, out + t * at.row_bytes);
  }
}

// Whether every group has whole bits for which there are levels.
bool BitsAreSound(const PcaSide& side) {
  return std::all_of(side.group_bits, side.group_bits + side.num_groups, [](float bits) {
    return bits >= 0.0F && bits <= static_cast<float>(kPcaMaxBits) && bits == std::floor(bits);
  });
}

class PcaCodec final : public Codec {
 public:
  PcaCodec(CodecId id, std::string_view name, PcaRate rate) : id_(id), name_(name), rate_(rate) {}

  CodecId id() const override { return id_; }
  uint16_t version() const override { return 1; }
  std::string_view name() const override { return name_; }
  bool appendable() const override { return false; }
  bool needs_tables() const override { return true; }
  CodecTables Calibrate(const CalibrationSample& sample) const override {
    return CalibratePca(sample, rate_);
  }
  size_t TableFloats(size_t num_kv_heads, size_t head_dim) const override {
    return PcaTableFloats(num_kv_heads, head_dim);
  }
  bool TablesAreSound(std::span<const float> values,
                      size_t num_kv_heads,
                      size_t head_dim) const override {
    const PcaTables tables = PcaTablesOf(values.data(), num_kv_heads, head_dim);
    const size_t row_bytes = PcaRowBytes(rate_, num_kv_heads * head_dim);
    return BitsAreSound(tables.keys) && BitsAreSound(tables.values) &&
           PcaValuePlace(tables, row_bytes).codes + PcaCodeBytes(tables.values) <= row_bytes;
  }
  using Codec::EncodedBytes;
  size_t EncodedBytes(const RunShape& shape, const CodecTables* /*tables*/) const override {
    return static_cast<size_t>(shape.token_capacity) * RowBytes(shape);
  }

  void Encode(const RunShape& shape,
              int32_t first_token,
              int32_t num_tokens,
              const float* k,
              const float* v,
              size_t token_stride,
              const RunContext& context,
              std::span<std::byte> out) const override {
    VARVE_CHECK(out.size() == EncodedBytes(shape));
    VARVE_CHECK(first_token == 0 && num_tokens >= 0 && num_tokens <= shape.token_capacity);
    const PcaTables tables = TablesOf(shape, context);
    VARVE_CHECK(PcaValuePlace(tables, RowBytes(shape)).codes + PcaCodeBytes(tables.values) <=
                RowBytes(shape));
    const size_t head_dim = shape.head_dim;
    const size_t width = tables.keys.width();
    const size_t tokens = num_tokens;
    std::memset(out.data(), 0, out.size());
    std::vector<float> rows(PcaRoundUp(tokens) * width);
    std::vector<float> head_rows(tokens * head_dim);
    for (const bool keys : {true, false}) {
      std::fill(rows.begin(), rows.end(), 0.0F);
      for (size_t head = 0; head < tables.keys.num_kv_heads; ++head) {
        const float* source = (keys ? k : v) + head * head_dim;
        GatherRows(source, tokens, token_stride, head_dim, head_rows.data());
        if (keys) {
          UndoRope(context, head, tokens, head_dim, head_rows.data());
        }
        for (size_t t = 0; t < tokens; ++t) {
          std::copy_n(
              head_rows.data() + t * head_dim, head_dim, rows.data() + t * width + head * head_dim);
        }
      }
      EncodeSide(keys ? tables.keys : tables.values,
                 keys ? PcaKeyPlace(RowBytes(shape)) : PcaValuePlace(tables, RowBytes(shape)),
                 tokens,
                 rows,
                 out.data());
    }
  }

  void DecodeHead(const RunShape& shape,
                  int32_t kv_head,
                  int32_t first_token,
                  int32_t num_tokens,
                  std::span<const std::byte> encoded,
                  const RunContext& context,
                  float* k,
                  float* v) const override {
    VARVE_CHECK(encoded.size() == EncodedBytes(shape));
    VARVE_CHECK(first_token >= 0 && num_tokens >= 0);
    VARVE_CHECK(first_token + num_tokens <= shape.token_capacity);
    const PcaTables tables = TablesOf(shape, context);
    const std::byte* rows = encoded.data() + static_cast<size_t>(first_token) * RowBytes(shape);
    PcaDecode(tables.keys, PcaKeyPlace(RowBytes(shape)), kv_head, rows, num_tokens, k);
    if (context.rope != nullptr) {
      TurnRows(*context.rope, context.PositionsOf(kv_head, first_token), num_tokens, k);
    }
    PcaDecode(tables.values, PcaValuePlace(tables, RowBytes(shape)), kv_head, rows, num_tokens, v);
  }

 private:
  size_t RowBytes(const RunShape& shape) const {
    return PcaRowBytes(rate_, static_cast<size_t>(shape.num_kv_heads) * shape.head_dim);
  }
  static PcaTables TablesOf(const RunShape& shape, const RunContext& context) {
    VARVE_CHECK(context.tables != nullptr);
    VARVE_CHECK(context.tables->values.size() ==
                PcaTableFloats(shape.num_kv_heads, shape.head_dim));
    VARVE_CHECK(context.rope == nullptr ||
                context.rope->head_dim() == static_cast<size_t>(shape.head_dim));
    return PcaTablesOf(context.tables->values.data(), shape.num_kv_heads, shape.head_dim);
  }
  CodecId id_;
  std::string_view name_;
  PcaRate rate_;
};

}  // namespace

const Codec* Pca10Codec() {
  static const PcaCodec kCodec(CodecId::kPcaFine, "pca10", {.tenths_of_bit = 16});
  return &kCodec;
}
const Codec* Pca16Codec() {
  static const PcaCodec kCodec(CodecId::kPca, "pca", {.tenths_of_bit = 10});
  return &kCodec;
}

}  // namespace varve
