#include "kernels/cpu/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/codec/deco_factors.cc"
// clang-format off
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// clang-format on

#include <algorithm>
#include <cmath>

#include "kernels/codec/deco_block.h"
#include "kernels/codec/deco_factors.h"
#include "kernels/cpu/attend_plan.h"
#include "proto/base/check.h"

#ifndef VARVE_KERNELS_CODEC_DECO_FACTORS_ONCE_
#define VARVE_KERNELS_CODEC_DECO_FACTORS_ONCE_
namespace varve {

struct Symmetric {
  size_t size;
  alignas(64) double m[kDecoMaxBlocks][kDecoMaxBlocks];
};

// The entries (a, (t, b)) of M of one token, the blocks side by side: zero behind the last.
struct DecoToken {
  alignas(64) double entries[kMaxHeadDim][kDecoMaxBlocks];  // [columns, blocks]
};

}  // namespace varve
#endif

HWY_BEFORE_NAMESPACE();
namespace varve::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using DecoTag = hn::CappedTag<double, 8>;
inline constexpr size_t kDecoVectors = kDecoMaxBlocks / hn::MaxLanes(DecoTag());

// A row of kDecoMaxBlocks sums, in registers. No fused steps: the same bits on every target.
struct DecoSums {
  DecoSums() {
#pragma GCC unroll 8
    for (size_t v = 0; v < kDecoVectors; ++v) {
      vectors[v] = hn::Zero(DecoTag());
    }
  }
  // += factor * row
  void AddScaled(double factor, const double* row) {
    const DecoTag d;
#pragma GCC unroll 8
    for (size_t v = 0; v < kDecoVectors; ++v) {
      const auto product = hn::Mul(hn::Set(d, factor), hn::Load(d, row + v * hn::Lanes(d)));
      vectors[v] = hn::Add(vectors[v], product);
    }
  }

  hn::Vec<DecoTag> vectors[kDecoVectors];
};

// sum += M M^T of one token.
void AddDecoProducts(const DecoToken& token, size_t columns, Symmetric* sum) {
  const DecoTag d;
  for (size_t a = 0; a < sum->size; ++a) {
    DecoSums products;
    for (size_t b = 0; b < columns; ++b) {
      products.AddScaled(token.entries[b][a], token.entries[b]);
    }
    for (size_t v = 0; v < kDecoVectors; ++v) {
      double* own = sum->m[a] + v * hn::Lanes(d);
      hn::Store(hn::Add(hn::Load(d, own), products.vectors[v]), d, own);
    }
  }
}

// large[r * columns + b] = sum over a of vectors[a, r] * M[a, b], divided by deviations[r].
void ProjectDecoToken(const DecoToken& token,
                      size_t columns,
                      const Symmetric& vectors,
                      const double* deviations,
                      float* large) {
  const DecoTag d;
  alignas(64) double projected[kDecoMaxBlocks];
  for (size_t b = 0; b < columns; ++b) {
    DecoSums sums;
    for (size_t a = 0; a < vectors.size; ++a) {
      sums.AddScaled(token.entries[b][a], vectors.m[a]);
    }
    for (size_t v = 0; v < kDecoVectors; ++v) {
      const size_t r = v * hn::Lanes(d);
      hn::Store(hn::Div(sums.vectors[v], hn::Load(d, deviations + r)), d, projected + r);
    }
    for (size_t r = 0; r < vectors.size; ++r) {
      large[r * columns + b] = static_cast<float>(projected[r]);
    }
  }
}

}  // namespace varve::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace varve {

HWY_EXPORT(AddDecoProducts);
HWY_EXPORT(ProjectDecoToken);

namespace {

// Cyclic Jacobi converges quadratically: six to eight sweeps of a matrix of this size.
constexpr int kMaxSweeps = 30;
// Off the diagonal, relative to it: less than a double keeps of the sum of both.
constexpr double kNegligible = 1e-17;
// Directions below this share of the largest variance are rounding, not data.
constexpr double kLeastVariance = 1e-13;

void LoadToken(const float* row, size_t blocks, size_t columns, DecoToken* token) {
  for (size_t b = 0; b < columns; ++b) {
    for (size_t a = 0; a < blocks; ++a) {
      token->entries[b][a] = row[a * columns + b];
    }
  }
}

// M M^T / (num_tokens * columns).
Symmetric BlockCovariance(const float* x, size_t num_tokens, size_t blocks, size_t columns) {
  Symmetric sum{blocks, {}};
  DecoToken token{};
  for (size_t t = 0; t < num_tokens; ++t) {
    LoadToken(x + t * blocks * columns, blocks, columns, &token);
    HWY_DYNAMIC_DISPATCH(AddDecoProducts)(token, columns, &sum);
  }
  for (auto& row : sum.m) {
    for (double& entry : row) {
      entry /= static_cast<double>(num_tokens * columns);
    }
  }
  return sum;
}

// Turns rows and columns p and q so that entry (p, q) vanishes (H. Rutishauser, 1966).
void Rotate(size_t p, size_t q, Symmetric* s, Symmetric* vectors) {
  auto& m = s->m;
  const double theta = (m[q][q] - m[p][p]) / (2.0 * m[p][q]);
  const double tangent =
      (theta < 0.0 ? -1.0 : 1.0) / (std::fabs(theta) + std::sqrt(theta * theta + 1.0));
  const double cosine = 1.0 / std::sqrt(tangent * tangent + 1.0);
  const double sine = tangent * cosine;
  for (size_t i = 0; i < s->size; ++i) {
    const double left = m[i][p];
    const double right = m[i][q];
    m[i][p] = cosine * left - sine * right;
    m[i][q] = sine * left + cosine * right;
  }
  for (size_t i = 0; i < s->size; ++i) {
    const double upper = m[p][i];
    const double lower = m[q][i];
    m[p][i] = cosine * upper - sine * lower;
    m[q][i] = sine * upper + cosine * lower;
  }
  m[p][q] = m[q][p] = 0.0;
  for (size_t i = 0; i < s->size; ++i) {
    const double left = vectors->m[i][p];
    const double right = vectors->m[i][q];
    vectors->m[i][p] = cosine * left - sine * right;
    vectors->m[i][q] = sine * left + cosine * right;
  }
}

// Leaves the eigenvalues on the diagonal of `s`; columns of the result are the eigenvectors.
Symmetric Diagonalise(Symmetric* s) {
  Symmetric vectors{s->size, {}};
  for (size_t i = 0; i < s->size; ++i) {
    vectors.m[i][i] = 1.0;
  }
  for (int sweep = 0; sweep < kMaxSweeps; ++sweep) {
    bool changed = false;
    for (size_t p = 0; p + 1 < s->size; ++p) {
      for (size_t q = p + 1; q < s->size; ++q) {
        const double diagonal = std::sqrt(std::fabs(s->m[p][p]) * std::fabs(s->m[q][q]));
        if (std::fabs(s->m[p][q]) > kNegligible * diagonal) {
          Rotate(p, q, s, &vectors);
          changed = true;
        }
      }
    }
    if (!changed) {
      break;
    }
  }
  return vectors;
}

}  // namespace

DecoFactors FactorDeco(const float* x, size_t num_tokens, size_t blocks, size_t columns) {
  VARVE_CHECK(blocks <= kDecoMaxBlocks);
  DecoFactors factors;
  factors.small.resize(blocks * blocks);
  factors.large.resize(num_tokens * blocks * columns);
  if (num_tokens == 0) {
    return factors;
  }
  Symmetric variances = BlockCovariance(x, num_tokens, blocks, columns);
  const Symmetric vectors = Diagonalise(&variances);
  double most = 0.0;
  for (size_t r = 0; r < blocks; ++r) {
    most = std::fmax(most, variances.m[r][r]);
  }
  // Directions of rounding vanish, in whole rows of zeros.
  alignas(64) double deviations[kDecoMaxBlocks];
  std::fill_n(deviations, kDecoMaxBlocks, INFINITY);
  for (size_t r = 0; r < blocks; ++r) {
    if (variances.m[r][r] > kLeastVariance * most) {
      deviations[r] = std::sqrt(variances.m[r][r]);
      for (size_t a = 0; a < blocks; ++a) {
        factors.small[a * blocks + r] = static_cast<float>(vectors.m[a][r] * deviations[r]);
      }
    }
  }
  DecoToken token{};
  for (size_t t = 0; t < num_tokens; ++t) {
    const size_t at = t * blocks * columns;
    LoadToken(x + at, blocks, columns, &token);
    HWY_DYNAMIC_DISPATCH(ProjectDecoToken)
    (token, columns, vectors, deviations, factors.large.data() + at);
  }
  return factors;
}

}  // namespace varve
#endif  // HWY_ONCE
