// The dense part of a transformer layer on the CPU: matrix products with weights as they lie in the
// file (bf16, fp16 or fp32, memory-mapped, never copied whole) or in int8 (weight_block.h), norms,
// rotary embedding, activations. fp32 activations, fp32 accumulation.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/thread_team.h"
#include "kernels/weight_block.h"

namespace varve {

enum class DType : uint8_t { kF32, kBf16, kF16 };
size_t DTypeBytes(DType dtype);

// A view of a weight matrix or of a slice of its rows and columns. Does not own.
struct WeightView {
  const void* data = nullptr;  // [rows, cols] of dtype
  DType dtype = DType::kF32;
  size_t rows = 0;        // output features
  size_t cols = 0;        // input features
  size_t row_stride = 0;  // elements from one row to the next

  // Not null: the weights are in int8; `data`, `dtype` and `row_stride` say nothing then.
  const WeightBlock* blocks = nullptr;  // [panels, row_groups] of the whole matrix
  size_t row_groups = 0;
  size_t first_row = 0;  // of the whole matrix; need not begin a panel
  size_t first_col = 0;  // need not begin a group

  WeightView Rows(size_t begin, size_t count) const;  // a slice of output features
  WeightView Cols(size_t begin, size_t count) const;  // a slice of input features
};

// Writes the int8 form of `w` to `blocks`, NumWeightBlocks(w.rows, w.cols) of them, and returns the
// view of it. REQUIRES: w is not in int8.
WeightView QuantiseWeights(const WeightView& w, WeightBlock* blocks, ThreadTeam& team);

// y[t, r] = sum_c x[t, c] * w[r, c] (+ bias[r]).  x: [tokens, cols] with x_stride, y: [tokens,
// rows] with y_stride. `bias` may be null; its dtype is that of `bias_dtype`. Few tokens: streams
// the weights once at memory speed. Many: panels of weights are widened once per call and
// multiplied in registers. Weights in int8: x is quantised, too, and multiplied in integers
// (weight_block.h). rows == 0 or tokens == 0 is allowed and does nothing; cols == 0 gives
// zeros (plus bias): a worker may own an empty slice.
void MatMul(const float* x,
            size_t x_stride,
            size_t tokens,
            const WeightView& w,
            const void* bias,
            DType bias_dtype,
            float* y,
            size_t y_stride,
            ThreadTeam& team);

// y = x / rms(x) * (w + weight_offset), rms over `dim`, eps inside the root. x, y: [tokens, dim],
// strides in floats; y may be x. weight_offset is 1 for the Gemma family, which stores w - 1. w may
// be null (no weight).
void RmsNorm(const float* x,
             size_t x_stride,
             size_t tokens,
             size_t dim,
             const void* w,
             DType w_dtype,
             float weight_offset,
             float eps,
             float* y,
             size_t y_stride);

// Rotates pairs (i, i + head_dim/2) of each head, the Hugging Face convention. x: [tokens,
// num_heads, head_dim] with x_stride between tokens; cos_sin: [tokens, head_dim/2, 2] computed in
// double (see worker/rope_table.h).
void ApplyRope(float* x,
               size_t x_stride,
               size_t tokens,
               size_t num_heads,
               size_t head_dim,
               const float* cos_sin);

enum class Activation : uint8_t { kSilu, kGeluTanh };
// gate = act(gate) * up, elementwise.
void GatedActivation(Activation activation, float* gate, const float* up, size_t count);

// Widens `count` values of dtype to floats.
void Widen(const void* source, DType dtype, size_t count, float* out);
// Rounds to nearest even.
void NarrowToBf16(const float* source, size_t count, uint16_t* out);

// y += x
void AddInPlace(float* y, const float* x, size_t count);
void ScaleInPlace(float* y, float factor, size_t count);
// y = cap * tanh(y / cap)
void SoftcapInPlace(float* y, float cap, size_t count);

}  // namespace varve
