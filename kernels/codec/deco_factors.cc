#include "kernels/codec/deco_factors.h"

#include <cmath>

#include "kernels/codec/deco_block.h"
#include "proto/base/check.h"

namespace varve {
namespace {

// Cyclic Jacobi converges quadratically: six to eight sweeps of a matrix of this size.
constexpr int kMaxSweeps = 30;
// Off the diagonal, relative to it: less than a double keeps of the sum of both.
constexpr double kNegligible = 1e-17;
// Directions below this share of the largest variance are rounding, not data.
constexpr double kLeastVariance = 1e-13;

struct Symmetric {
  size_t size;
  double m[kDecoMaxBlocks][kDecoMaxBlocks];
};

// M M^T / (num_tokens * columns).
Symmetric BlockCovariance(const float* x, size_t num_tokens, size_t blocks, size_t columns) {
  Symmetric sum{blocks, {}};
  for (size_t t = 0; t < num_tokens; ++t) {
    const float* row = x + t * blocks * columns;
    for (size_t a = 0; a < blocks; ++a) {
      for (size_t other = 0; other <= a; ++other) {
        double product = 0.0;
        for (size_t b = 0; b < columns; ++b) {
          product += static_cast<double>(row[a * columns + b]) * row[other * columns + b];
        }
        sum.m[a][other] += product;
      }
    }
  }
  for (size_t a = 0; a < blocks; ++a) {
    for (size_t other = 0; other <= a; ++other) {
      sum.m[a][other] /= static_cast<double>(num_tokens * columns);
      sum.m[other][a] = sum.m[a][other];
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
  for (size_t r = 0; r < blocks; ++r) {
    if (!(variances.m[r][r] > kLeastVariance * most)) {
      continue;
    }
    const double deviation = std::sqrt(variances.m[r][r]);
    for (size_t a = 0; a < blocks; ++a) {
      factors.small[a * blocks + r] = static_cast<float>(vectors.m[a][r] * deviation);
    }
    for (size_t t = 0; t < num_tokens; ++t) {
      const float* row = x + t * blocks * columns;
      for (size_t b = 0; b < columns; ++b) {
        double sum = 0.0;
        for (size_t a = 0; a < blocks; ++a) {
          sum += vectors.m[a][r] * row[a * columns + b];
        }
        factors.large[(t * blocks + r) * columns + b] = static_cast<float>(sum / deviation);
      }
    }
  }
  return factors;
}

}  // namespace varve
