// What attention of many rows keeps between its steps, per target.
#if defined(VARVE_KERNELS_CPU_MANY_SCRATCH_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef VARVE_KERNELS_CPU_MANY_SCRATCH_INL_H_
#undef VARVE_KERNELS_CPU_MANY_SCRATCH_INL_H_
#else
#define VARVE_KERNELS_CPU_MANY_SCRATCH_INL_H_
#endif

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "kernels/cpu/attend_block.h"
#include "kernels/cpu/attend_tile-inl.h"

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace varve::HWY_NAMESPACE {

constexpr size_t PairsOf(size_t count) {
  return (count + 1) / 2;
}

struct ManyScratch {
  float* q;             // [rows, head_dim]
  float* scores;        // [rows, kTileTokens]
  float* wide;          // [PanelWidth(), head_dim] keys before packing
  float* key_panel;     // [head_dim, PanelWidth()]
  float* value_panels;  // [o_stride / PanelWidth()][kTileTokens, PanelWidth()]
  float* weights;       // [kTileTokens] of pruned tokens
  float* key_scales;    // [kTileTokens], and the like: of codes
  float* key_offsets;
  float* value_scales;
  float* value_offsets;
  float* corrections;      // [rows]
  float* q_sums;           // [rows]
  float* q_factors;        // [rows] what one of q_codes is worth
  float* weight_factors;   // [rows] likewise
  float* offsets;          // [rows] what a tile adds to every dimension
  RowState* states;        // [rows]
  float* decoded;          // DecodedFloats
  int16_t* q_codes;        // [rows, 2 * PairsOf(head_dim)]
  int16_t* weight_codes;   // [rows, kTileTokens]
  int32_t* wide_pairs;     // [PanelWidth(), PairsOf(head_dim)]
  int32_t* key_pairs;      // [PairsOf(head_dim), PanelWidth()]
  int32_t* value_pairs;    // [o_stride / PanelWidth()][PairsOf(kTileTokens), PanelWidth()]
  bool has_codes = false;  // q_codes are those of q
};

// Points into `floats`, which is that long, or nowhere if it is null. Returns the number of floats.
inline size_t LayOutManyScratch(size_t rows,
                                size_t head_dim,
                                size_t o_stride,
                                float* floats,
                                ManyScratch* out) {
  size_t used = 0;
  const auto take = [&](size_t count, auto** part) {
    *part = nullptr;
    using Element = std::remove_reference_t<decltype(**part)>;
    static_assert(alignof(Element) <= alignof(float));
    if (floats != nullptr) {
      *part = reinterpret_cast<Element*>(floats + used);
    }
    used += (count * sizeof(Element) + sizeof(float) - 1) / sizeof(float);
  };
  take(rows * head_dim, &out->q);
  take(rows * kTileTokens, &out->scores);
  take(kRowPadding * head_dim, &out->wide);
  take(kRowPadding * head_dim, &out->key_panel);
  take(o_stride * kTileTokens, &out->value_panels);
  take(kTileTokens, &out->weights);
  take(kTileTokens, &out->key_scales);
  take(kTileTokens, &out->key_offsets);
  take(kTileTokens, &out->value_scales);
  take(kTileTokens, &out->value_offsets);
  take(rows, &out->corrections);
  take(rows, &out->q_sums);
  take(rows, &out->q_factors);
  take(rows, &out->weight_factors);
  take(rows, &out->offsets);
  take(rows, &out->states);
  take(DecodedFloats(static_cast<int32_t>(head_dim)), &out->decoded);
  take(rows * 2 * PairsOf(head_dim), &out->q_codes);
  take(rows * kTileTokens, &out->weight_codes);
  take(kRowPadding * PairsOf(head_dim), &out->wide_pairs);
  take(kRowPadding * PairsOf(head_dim), &out->key_pairs);
  take(o_stride * PairsOf(kTileTokens), &out->value_pairs);
  return used;
}

}  // namespace varve::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
