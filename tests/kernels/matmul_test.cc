#include <cmath>
#include <cstring>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/codec/bf16_block.h"
#include "kernels/cpu/simd_targets.h"
#include "kernels/dense.h"
#include "proto/base/rng.h"
#include "tests/kernels/attend_cases.h"

namespace varve {
namespace {

constexpr DType kDTypes[] = {DType::kF32, DType::kBf16, DType::kF16};

// Half precision of small integers over 16: exact in every stored type.
uint16_t HalfOf(int sixteenths) {
  const float value = static_cast<float>(sixteenths) / 16.0F;
  if (value == 0.0F) {
    return 0;
  }
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  const uint32_t exponent = (bits >> 23 & 0xff) - 127 + 15;
  return static_cast<uint16_t>((bits >> 16 & 0x8000) | exponent << 10 | (bits >> 13 & 0x3ff));
}

// A stored matrix whose values are known exactly.
struct Matrix {
  std::vector<std::byte> bytes;
  std::vector<double> values;  // [rows, stride]
};

Matrix MakeMatrix(size_t rows, size_t stride, DType dtype, uint64_t seed) {
  Rng rng(seed);
  Matrix matrix;
  for (size_t i = 0; i < rows * stride; ++i) {
    const int sixteenths = static_cast<int>(rng.Below(255)) - 127;
    const float value = static_cast<float>(sixteenths) / 16.0F;
    matrix.values.push_back(value);
    std::byte stored[4];
    const uint16_t bf16 = FloatToBf16(value);
    const uint16_t half = HalfOf(sixteenths);
    std::memcpy(stored,
                dtype == DType::kF32    ? static_cast<const void*>(&value)
                : dtype == DType::kBf16 ? &bf16
                                        : &half,
                DTypeBytes(dtype));
    matrix.bytes.insert(matrix.bytes.end(), stored, stored + DTypeBytes(dtype));
  }
  return matrix;
}

struct MatMulCase {
  size_t tokens;
  size_t rows;
  size_t cols;
  DType dtype = DType::kF32;
  size_t extra_stride = 0;  // of x, w and y
  bool with_bias = false;
  uint64_t seed = 1;
};

std::string CheckMatMul(const MatMulCase& c, ThreadTeam& team) {
  Rng rng(c.seed);
  const size_t x_stride = c.cols + c.extra_stride;
  const size_t w_stride = c.cols + c.extra_stride;
  const size_t y_stride = c.rows + c.extra_stride;
  const Matrix w = MakeMatrix(c.rows, w_stride, c.dtype, c.seed + 1);
  const Matrix bias = MakeMatrix(1, c.rows, c.dtype, c.seed + 2);
  std::vector<float> x(c.tokens * x_stride);
  for (float& value : x) {
    value = rng.NextNormal();
  }
  constexpr float kUntouched = -777.0F;
  std::vector<float> y(c.tokens * y_stride, kUntouched);
  const WeightView view{w.bytes.data(), c.dtype, c.rows, c.cols, w_stride};
  MatMul(x.data(),
         x_stride,
         c.tokens,
         view,
         c.with_bias ? bias.bytes.data() : nullptr,
         c.dtype,
         y.data(),
         y_stride,
         team);
  std::vector<double> expected(y.size(), kUntouched);
  for (size_t token = 0; token < c.tokens; ++token) {
    for (size_t row = 0; row < c.rows; ++row) {
      double sum = c.with_bias ? bias.values[row] : 0.0;
      for (size_t i = 0; i < c.cols; ++i) {
        sum += x[token * x_stride + i] * w.values[row * w_stride + i];
      }
      expected[token * y_stride + row] = sum;
    }
  }
  // kernels/README.md, "Tolerances": the rounding of a sum of `cols` products of size below 8.
  const double absolute = 8.0 * 6e-8 * (static_cast<double>(c.cols) + 8.0);
  return CompareArrays(y, expected, absolute, 1e-6);
}

class MatMulOnTarget : public testing::Test {
 protected:
  void TearDown() override { UseBestSimdTarget(); }
};

TEST_F(MatMulOnTarget, MatchesDoubleForAllSizesAndTypes) {
  ThreadTeam team(2);
  uint64_t seed = 0;
  for (const SimdTarget& target : SimdTargets()) {
    ForceSimdTarget(target);
    for (const size_t tokens : {1, 2, 3, 4, 5, 8, 15, 16, 17, 100, 131}) {
      for (const size_t rows : {1, 3, 16, 33, 130}) {
        for (const size_t cols : {1, 7, 64, 323, 700}) {
          const MatMulCase c{
              tokens, rows, cols, kDTypes[++seed % 3], seed % 4, seed % 5 == 0, seed};
          ASSERT_EQ(CheckMatMul(c, team), "") << target.name << " tokens " << tokens << " rows "
                                              << rows << " cols " << cols << " seed " << seed;
        }
      }
    }
  }
}

TEST_F(MatMulOnTarget, EmptySlicesDoNothingOrGiveTheBias) {
  ThreadTeam team(2);
  for (const size_t tokens : {0, 1, 40}) {
    for (const size_t rows : {0, 5}) {
      for (const bool with_bias : {false, true}) {
        EXPECT_EQ(CheckMatMul({tokens, rows, 0, DType::kBf16, 3, with_bias, 5}, team), "");
        EXPECT_EQ(CheckMatMul({tokens, rows, 9, DType::kBf16, 3, with_bias, 5}, team), "");
      }
    }
  }
}

TEST_F(MatMulOnTarget, SlicesOfRowsAndColumnsAddUp) {
  ThreadTeam team(1);
  for (const size_t tokens : {2, 30}) {
    const size_t rows = 50;
    const size_t cols = 90;
    const Matrix w = MakeMatrix(rows, cols, DType::kF16, 3);
    const WeightView whole{w.bytes.data(), DType::kF16, rows, cols, cols};
    std::vector<float> x(tokens * cols);
    Rng rng(4);
    for (float& value : x) {
      value = rng.NextNormal();
    }
    std::vector<float> y(tokens * rows);
    MatMul(x.data(), cols, tokens, whole, nullptr, DType::kF32, y.data(), rows, team);
    std::vector<float> parts(tokens * rows, 0.0F);
    for (const auto& [row, num_rows] : {std::pair<size_t, size_t>{0, 17}, {17, 0}, {17, 33}}) {
      for (const auto& [col, num_cols] : {std::pair<size_t, size_t>{0, 31}, {31, 59}}) {
        std::vector<float> part(tokens * num_rows);
        const WeightView slice = whole.Rows(row, num_rows).Cols(col, num_cols);
        MatMul(
            x.data() + col, cols, tokens, slice, nullptr, DType::kF32, part.data(), num_rows, team);
        for (size_t token = 0; token < tokens; ++token) {
          AddInPlace(parts.data() + token * rows + row, part.data() + token * num_rows, num_rows);
        }
      }
    }
    EXPECT_EQ(CompareArrays(parts, {y.begin(), y.end()}, 1e-4, 1e-5), "");
  }
}

TEST_F(MatMulOnTarget, ResultDoesNotDependOnTheNumberOfThreads) {
  for (const size_t tokens : {1, 64}) {
    const Matrix w = MakeMatrix(200, 150, DType::kBf16, 9);
    const WeightView view{w.bytes.data(), DType::kBf16, 200, 150, 150};
    std::vector<float> x(tokens * 150, 0.37F);
    std::vector<float> first(tokens * 200);
    for (const int threads : {1, 2, 5}) {
      ThreadTeam team(threads);
      std::vector<float> y(tokens * 200);
      MatMul(x.data(), 150, tokens, view, nullptr, DType::kF32, y.data(), 200, team);
      if (threads == 1) {
        first = y;
      }
      EXPECT_EQ(y, first);
    }
  }
}

TEST_F(MatMulOnTarget, TeamsOfManyWorkersMultiplyAtOnce) {
  std::vector<std::thread> workers;
  std::vector<std::string> wrong(6);
  for (size_t worker = 0; worker < wrong.size(); ++worker) {
    workers.emplace_back([worker, &wrong] {
      ThreadTeam team(1);
      for (uint64_t seed = 0; seed < 5 && wrong[worker].empty(); ++seed) {
        wrong[worker] = CheckMatMul({32 + worker, 60, 100, DType::kBf16, 0, false, seed}, team);
      }
    });
  }
  for (size_t worker = 0; worker < wrong.size(); ++worker) {
    workers[worker].join();
    EXPECT_EQ(wrong[worker], "");
  }
}

}  // namespace
}  // namespace varve
