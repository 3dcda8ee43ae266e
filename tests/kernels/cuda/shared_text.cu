// Proof that the scalar text shared by CPU and CUDA compiles for the device: the merge and the
// block formats of the codecs. Compiled in every build that has nvcc; never run.
#include "kernels/attn_state.h"
#include "kernels/codec/bf16_block.h"
#include "kernels/codec/exact_block.h"
#include "kernels/codec/fp8_block.h"
#include "kernels/codec/int8_block.h"

__global__ void MergeStatesKernel(float* o_a,
                                  float* lse_a,
                                  const float* o_b,
                                  const float* lse_b,
                                  int head_dim) {
  const int row = static_cast<int>(blockIdx.x);
  varve::MergeState(o_a + row * head_dim, lse_a + row, o_b + row * head_dim, lse_b[row], head_dim);
}

__global__ void RoundKernel(float* x) {
  *x = varve::Bf16ToFloat(varve::FloatToBf16(*x));
}
