// Rows of the klt codecs to their bytes. Tokens lie across the lanes, so that a row's sums run over
// its dimensions in order however many lanes there are.
#include "kernels/cpu/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/codec/klt_encode.cc"
// clang-format off
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// clang-format on

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/codec/klt_encode.h"
#include "kernels/codec/nearest_levels.h"
#include "kernels/codec/ordered_product.h"
#include "kernels/codec/pack_codes.h"
#include "kernels/cpu/attend_plan.h"
#include "kernels/cpu/rotate-inl.h"

#ifndef VARVE_KERNELS_CODEC_KLT_ENCODE_ONCE_
#define VARVE_KERNELS_CODEC_KLT_ENCODE_ONCE_
namespace varve {

inline constexpr size_t kKltTile = 8;  // tokens that are encoded together

// y of a tile, the tokens of a dimension side by side; of tokens that are not there, zeros.
struct KltTile {
  alignas(64) float y[kMaxHeadDim * kKltTile];
};

// One sum for each token of a tile.
struct KltSums {
  alignas(64) double values[kKltTile] = {};
};

// A side's tables as its tiles read them.
struct KltCoder {
  KltSide<const float> side;
  size_t dims;
  LevelSearch searches[kKltMaxBits + 1];  // by bits, of those that groups have
  double weights[kMaxHeadDim];            // squared
};

}  // namespace varve
#endif

HWY_BEFORE_NAMESPACE();
namespace varve::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using KltSumTag = hn::CappedTag<double, kKltTile>;
using KltRowTag = hn::Rebind<float, KltSumTag>;

// y: [count, dims].
void LoadKltTile(const float* y, size_t count, size_t dims, KltTile* tile) {
  const float zeros[kMaxHeadDim] = {};
  const float* rows[kKltTile];
  for (size_t t = 0; t < kKltTile; ++t) {
    rows[t] = t < count ? y + t * dims : zeros;
  }
  for (size_t dim = 0; dim < dims; ++dim) {
#pragma GCC unroll 8
    for (size_t t = 0; t < kKltTile; ++t) {
      tile->y[dim * kKltTile + t] = rows[t][dim];
    }
  }
}

// Root mean square of each token's dimensions that have bits.
void TileNorms(const KltSide<const float>& side, size_t dims, const KltTile& tile, float* norms) {
  const KltSumTag d;
  const KltRowTag d32;
  KltSums squares;
  size_t count = 0;
  for (size_t dim = 0; dim < dims; ++dim) {
    if (side.group_bits[dim / kKltGroup] != 0.0F && side.weights[dim] != 0.0F) {
      ++count;
      for (size_t t = 0; t < kKltTile; t += hn::Lanes(d)) {
        const auto y = hn::PromoteTo(d, hn::Load(d32, tile.y + dim * kKltTile + t));
        const auto sum = hn::Load(d, squares.values + t);
        hn::Store(hn::Add(sum, hn::Mul(y, y)), d, squares.values + t);
      }
    }
  }
  for (size_t t = 0; t < kKltTile; ++t) {
    norms[t] = count == 0
                   ? 0.0F
                   : static_cast<float>(std::sqrt(squares.values[t] / static_cast<double>(count)));
  }
}

// Codes of a group's dimensions, [kKltGroup, kKltTile].
HWY_INLINE void FindKltCodes(const LevelSearch& search,
                             const float* y,
                             const float* scales,
                             uint8_t* codes) {
  const hn::CappedTag<float, kKltTile> d;
  alignas(64) float scaled[kKltGroup * kKltTile];
  for (size_t i = 0; i < kKltGroup * kKltTile; i += hn::Lanes(d)) {
    hn::Store(hn::Div(hn::Load(d, y + i), hn::Load(d, scales + i % kKltTile)), d, scaled + i);
  }
  NearestLevels(search, scaled, kKltGroup * kKltTile, codes);
}

// The scales that fit the levels best which are nearest at these; those that are zero stay.
void RefitScales(const KltCoder& coder, const KltTile& tile, float* scales) {
  const KltSumTag d;
  const KltRowTag d32;
  const hn::Rebind<int32_t, KltSumTag> di32;
  const hn::Rebind<uint8_t, KltSumTag> d8;
  KltSums products;
  KltSums squares;
  for (size_t group = 0; group < coder.dims / kKltGroup; ++group) {
    const auto bits = static_cast<size_t>(coder.side.group_bits[group]);
    if (bits == 0) {
      continue;
    }
    const float* levels = coder.side.levels + KltLevelsAt(bits);
    const double* weights = coder.weights + group * kKltGroup;
    const float* y = tile.y + group * kKltGroup * kKltTile;
    uint8_t codes[kKltGroup * kKltTile];
    FindKltCodes(coder.searches[bits], y, scales, codes);
    for (size_t t = 0; t < kKltTile; t += hn::Lanes(d)) {
      auto product = hn::Load(d, products.values + t);
      auto square = hn::Load(d, squares.values + t);
      for (size_t lane = 0; lane < kKltGroup; ++lane) {
        const auto weight = hn::Set(d, weights[lane]);
        const size_t i = lane * kKltTile + t;
        const auto code = hn::PromoteTo(di32, hn::LoadU(d8, codes + i));
        const auto level = hn::PromoteTo(d, hn::GatherIndex(d32, levels, code));
        const auto weighed = hn::Mul(weight, hn::PromoteTo(d, hn::Load(d32, y + i)));
        product = hn::Add(product, hn::Mul(weighed, level));
        square = hn::Add(square, hn::Mul(hn::Mul(weight, level), level));
      }
      hn::Store(product, d, products.values + t);
      hn::Store(square, d, squares.values + t);
    }
  }
  for (size_t t = 0; t < kKltTile; ++t) {
    const double square = squares.values[t];
    if (scales[t] > 0.0F) {
      scales[t] =
          square > 0.0 ? static_cast<float>(std::max(products.values[t] / square, 0.0)) : 0.0F;
    }
  }
}

// The bytes of a group of one tile from its codes. codes: [kKltGroup, kKltTile]; bytes: of the
// first token.
void PackKltGroup(const uint8_t* codes,
                  size_t bits,
                  size_t num_tokens,
                  size_t row_bytes,
                  std::byte* bytes) {
  for (size_t b = 0; b < bits; ++b) {
    uint64_t packed = 0;  // a byte for each token
    for (size_t lane = 0; lane < kKltGroup; ++lane) {
      uint64_t of_tokens;
      std::memcpy(&of_tokens, codes + lane * kKltTile, sizeof(of_tokens));
      packed |= (of_tokens >> b & kEachByte) << lane;
    }
    for (size_t t = 0; t < num_tokens; ++t) {
      bytes[t * row_bytes + b] = static_cast<std::byte>(packed >> 8 * t);
    }
  }
}

void EncodeTile(const KltCoder& coder,
                const KltTile& tile,
                size_t num_tokens,
                size_t row_bytes,
                std::byte* codes,
                std::byte* scale_codes) {
  alignas(64) float scales[kKltTile];
  TileNorms(coder.side, coder.dims, tile, scales);
  for (int round = 0; round < kKltRefits; ++round) {
    RefitScales(coder, tile, scales);
  }
  for (size_t t = 0; t < kKltTile; ++t) {
    const uint8_t code = KltScaleCode(scales[t]);
    // The codes of NaN are zero, as those of a row without a scale must be.
    scales[t] = code == 0 ? std::numeric_limits<float>::quiet_NaN() : KltScale(code);
    if (t < num_tokens) {
      scale_codes[t] = std::byte{code};
    }
  }
  for (size_t group = 0; group < coder.dims / kKltGroup; ++group) {
    const auto bits = static_cast<size_t>(coder.side.group_bits[group]);
    if (bits != 0) {
      uint8_t of_group[kKltGroup * kKltTile];
      FindKltCodes(coder.searches[bits], tile.y + group * kKltGroup * kKltTile, scales, of_group);
      PackKltGroup(of_group, bits, num_tokens, row_bytes, codes);
      codes += bits;
    }
  }
}

void EncodeTiles(const KltCoder& coder,
                 size_t num_tokens,
                 const float* y,
                 size_t row_bytes,
                 std::byte* codes,
                 std::byte* scales) {
  KltTile tile;
  for (size_t t = 0; t < num_tokens; t += kKltTile) {
    const size_t count = std::min(kKltTile, num_tokens - t);
    LoadKltTile(y + t * coder.dims, count, coder.dims, &tile);
    EncodeTile(coder, tile, count, row_bytes, codes + t * row_bytes, scales + t);
  }
}

void RowNorms(const KltSide<const float>& side,
              size_t num_tokens,
              size_t dims,
              const float* y,
              float* norms) {
  KltTile tile;
  alignas(64) float of_tile[kKltTile];
  for (size_t t = 0; t < num_tokens; t += kKltTile) {
    const size_t count = std::min(kKltTile, num_tokens - t);
    LoadKltTile(y + t * dims, count, dims, &tile);
    TileNorms(side, dims, tile, of_tile);
    std::copy_n(of_tile, count, norms + t);
  }
}

void EvenOutAndRotate(const float* evenness,
                      size_t num_tokens,
                      size_t head_dim,
                      const float* x,
                      float* y) {
  const size_t dims = KltDims(head_dim);
  for (size_t t = 0; t < num_tokens; ++t, x += head_dim, y += dims) {
    for (size_t i = 0; i < head_dim; ++i) {
      y[i] = x[i] / evenness[i];
    }
    RotateRow(y, head_dim);
    std::fill(y + head_dim, y + dims, 0.0F);
  }
}

}  // namespace varve::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace varve {

HWY_EXPORT(EncodeTiles);
HWY_EXPORT(EvenOutAndRotate);
HWY_EXPORT(RowNorms);

void TransformKltKeys(const KltTables<const float>& tables,
                      size_t num_tokens,
                      size_t head_dim,
                      const float* x,
                      float* y) {
  const size_t dims = KltDims(head_dim);
  size_t num_groups = dims / kKltGroup;
  while (num_groups > 0 && tables.keys.group_bits[num_groups - 1] == 0.0F) {
    --num_groups;
  }
  ProjectRows(
      x, num_tokens, head_dim, tables.mean, tables.forward, num_groups * kKltGroup, dims, y);
}

void TransformKltValues(const KltTables<const float>& tables,
                        size_t num_tokens,
                        size_t head_dim,
                        const float* x,
                        float* y) {
  HWY_DYNAMIC_DISPATCH(EvenOutAndRotate)(tables.evenness, num_tokens, head_dim, x, y);
}

void KltNorms(const KltSide<const float>& side,
              size_t num_tokens,
              size_t dims,
              const float* y,
              float* norms) {
  HWY_DYNAMIC_DISPATCH(RowNorms)(side, num_tokens, dims, y, norms);
}

void EncodeKltRows(const KltSide<const float>& side,
                   size_t num_tokens,
                   size_t dims,
                   const float* y,
                   size_t row_bytes,
                   std::byte* codes,
                   std::byte* scales) {
  KltCoder coder{side, dims, {}, {}};
  for (size_t dim = 0; dim < dims; ++dim) {
    coder.weights[dim] = static_cast<double>(side.weights[dim]) * side.weights[dim];
  }
  for (size_t group = 0; group < dims / kKltGroup; ++group) {
    const auto bits = static_cast<size_t>(side.group_bits[group]);
    if (bits != 0 && coder.searches[bits].bits == 0) {
      coder.searches[bits] = MakeLevelSearch({side.levels + KltLevelsAt(bits), size_t{1} << bits});
    }
  }
  HWY_DYNAMIC_DISPATCH(EncodeTiles)(coder, num_tokens, y, row_bytes, codes, scales);
}

}  // namespace varve
#endif  // HWY_ONCE
