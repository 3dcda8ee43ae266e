// Weights in int8: what the format keeps, and that every target multiplies as the reference says.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/cpu/simd_targets.h"
#include "kernels/dense.h"
#include "kernels/ref/reference_int8_matmul.h"
#include "proto/base/rng.h"
#include "tests/kernels/attend_cases.h"

namespace varve {
namespace {

std::vector<float> Normals(size_t count, uint64_t seed) {
  Rng rng(seed);
  std::vector<float> values(count);
  for (float& value : values) {
    value = rng.NextNormal();
  }
  return values;
}

// A matrix in fp32 and its int8 form.
struct Quantised {
  Quantised(std::vector<float> stored, size_t rows, size_t cols)
      : values(std::move(stored)), blocks(NumWeightBlocks(rows, cols)) {
    ThreadTeam team(2);
    view = QuantiseWeights({values.data(), DType::kF32, rows, cols, cols}, blocks.data(), team);
  }
  std::vector<float> values;
  std::vector<WeightBlock> blocks;
  WeightView view;
};

std::vector<float> Multiply(const std::vector<float>& x,
                            size_t x_stride,
                            size_t tokens,
                            const WeightView& w,
                            ThreadTeam& team,
                            const std::vector<float>* bias = nullptr) {
  std::vector<float> y(tokens * w.rows);
  MatMul(x.data(),
         x_stride,
         tokens,
         w,
         bias == nullptr ? nullptr : bias->data(),
         DType::kF32,
         y.data(),
         w.rows,
         team);
  return y;
}

class Int8MatMul : public testing::Test {
 protected:
  void TearDown() override { UseBestSimdTarget(); }
  ThreadTeam team_{2};
};

TEST_F(Int8MatMul, AWeightIsOffByHalfAStepAtMostOnEveryTarget) {
  for (const SimdTarget& target : SimdTargets()) {
    ForceSimdTarget(target);
    for (const auto& [rows, cols] : {std::pair<size_t, size_t>{1, 1}, {16, 64}, {35, 201}}) {
      const Quantised w(Normals(rows * cols, rows), rows, cols);
      for (size_t row = 0; row < rows; ++row) {
        for (size_t begin = 0; begin < cols; begin += kWeightGroupCols) {
          const size_t end = std::min(begin + kWeightGroupCols, cols);
          float largest = 0;
          for (size_t col = begin; col < end; ++col) {
            largest = std::max(largest, std::fabs(w.values[row * cols + col]));
          }
          for (size_t col = begin; col < end; ++col) {
            ASSERT_NEAR(ReferenceInt8Weight(w.view, row, col),
                        w.values[row * cols + col],
                        largest / 127 * (1 + 1.0 / 128) / 2 * (1 + 1e-6))
                << target.name << " row " << row << " col " << col;
          }
        }
      }
    }
  }
}

TEST_F(Int8MatMul, EveryTargetWritesTheSameBlocks) {
  std::vector<WeightBlock> first;
  for (const SimdTarget& target : SimdTargets()) {
    ForceSimdTarget(target);
    const Quantised w(Normals(40 * 130, 7), 40, 130);
    if (first.empty()) {
      first = w.blocks;
    }
    EXPECT_EQ(std::memcmp(first.data(), w.blocks.data(), first.size() * sizeof(WeightBlock)), 0)
        << target.name;
  }
}

TEST_F(Int8MatMul, StoredTypesQuantiseAlike) {
  const size_t rows = 20;
  const size_t cols = 70;
  const std::vector<float> normals = Normals(rows * cols, 3);
  std::vector<uint16_t> bf16(normals.size());
  std::vector<float> wide(normals.size());
  NarrowToBf16(normals.data(), normals.size(), bf16.data());
  Widen(bf16.data(), DType::kBf16, bf16.size(), wide.data());
  const Quantised expected(wide, rows, cols);
  std::vector<WeightBlock> blocks(NumWeightBlocks(rows, cols));
  QuantiseWeights({bf16.data(), DType::kBf16, rows, cols, cols}, blocks.data(), team_);
  EXPECT_EQ(std::memcmp(blocks.data(), expected.blocks.data(), blocks.size() * sizeof(WeightBlock)),
            0);
}

// Codes of x and w that are exact, and sums below 2^24: nothing may round anywhere.
TEST_F(Int8MatMul, IntegersAreExactOnEveryTarget) {
  const size_t rows = 33;
  const size_t cols = 192;
  Rng rng(11);
  std::vector<float> stored(rows * cols);
  for (float& value : stored) {
    value = static_cast<float>(rng.Below(255)) - 127.0F;
  }
  std::vector<float> x(7 * cols);
  for (float& value : x) {
    value = static_cast<float>(rng.Below(201)) - 100.0F;
  }
  for (size_t group = 0; group < x.size() / kWeightGroupCols; ++group) {
    x[group * kWeightGroupCols] = 32767.0F;  // so that a code is the value
  }
  for (size_t row = 0; row < rows; ++row) {
    for (size_t group = 0; group < cols / kWeightGroupCols; ++group) {
      stored[row * cols + group * kWeightGroupCols] = 127.0F;
    }
  }
  const Quantised w(stored, rows, cols);
  std::vector<double> expected(7 * rows);
  for (size_t token = 0; token < 7; ++token) {
    for (size_t row = 0; row < rows; ++row) {
      for (size_t i = 0; i < cols; ++i) {
        expected[token * rows + row] +=
            static_cast<double>(x[token * cols + i]) * stored[row * cols + i];
      }
    }
  }
  for (const SimdTarget& target : SimdTargets()) {
    ForceSimdTarget(target);
    EXPECT_EQ(CompareArrays(Multiply(x, cols, 7, w.view, team_), expected, 0, 0), "")
        << target.name;
  }
}

// The extremes that the 32-bit sums have to hold.
TEST_F(Int8MatMul, LargestCodesDoNotOverflow) {
  const Quantised w(std::vector<float>(16 * 64, -1.0F), 16, 64);
  const std::vector<float> x(64, 1e30F);
  for (const SimdTarget& target : SimdTargets()) {
    ForceSimdTarget(target);
    const double exact = 64.0 * ReferenceInt8Weight(w.view, 0, 0) * 1e30;
    EXPECT_NEAR(exact, -64e30, 0.4e30);
    for (const float y : Multiply(x, 64, 1, w.view, team_)) {
      EXPECT_NEAR(y, exact, -exact * 1e-6) << target.name;
    }
  }
}

TEST_F(Int8MatMul, MatchesTheReferenceForOddShapesAndSlices) {
  uint64_t seed = 0;
  for (const SimdTarget& target : SimdTargets()) {
    ForceSimdTarget(target);
    for (const size_t tokens : {1, 2, 5, 6, 13, 16, 50}) {
      for (const size_t rows : {1, 16, 37, 130}) {
        for (const size_t cols : {1, 64, 200, 641}) {
          ++seed;
          const Quantised whole(Normals(rows * cols, seed), rows, cols);
          // Half of the cases: a slice that begins inside a panel and inside a group.
          const bool sliced = seed % 2 == 0;
          const WeightView w = sliced ? whole.view.Rows(seed * 29 % (rows / 2 + 1), rows - rows / 2)
                                            .Cols(seed * 37 % (cols / 2 + 1), cols - cols / 2)
                                      : whole.view;
          const size_t x_stride = w.cols + seed % 3;
          const std::vector<float> x = Normals(tokens * x_stride, seed + 1000);
          const std::vector<float> bias = Normals(w.rows, seed + 2000);
          const bool with_bias = seed % 3 == 0;
          std::vector<double> expected = ReferenceInt8MatMul(x.data(), x_stride, tokens, w);
          for (size_t i = 0; i < expected.size() && with_bias; ++i) {
            expected[i] += bias[i % w.rows];
          }
          const std::vector<float> y =
              Multiply(x, x_stride, tokens, w, team_, with_bias ? &bias : nullptr);
          // kernels/README.md, "Tolerances": a sum over groups of sums below 64 * 8.
          const double absolute = 6e-8 * 512 * static_cast<double>(WeightGroups(cols) + 3);
          ASSERT_EQ(CompareArrays(y, expected, absolute, 1e-6), "")
              << target.name << " tokens " << tokens << " rows " << rows << " cols " << cols
              << " seed " << seed;
        }
      }
    }
  }
}

TEST_F(Int8MatMul, IsCloseToTheStoredWeights) {
  const size_t rows = 96;
  const size_t cols = 576;
  const Quantised w(Normals(rows * cols, 5), rows, cols);
  const std::vector<float> x = Normals(3 * cols, 6);
  const std::vector<float> y = Multiply(x, cols, 3, w.view, team_);
  const std::vector<float> exact =
      Multiply(x, cols, 3, {w.values.data(), DType::kF32, rows, cols, cols}, team_);
  double error = 0;
  double power = 0;
  for (size_t i = 0; i < y.size(); ++i) {
    error += (y[i] - exact[i]) * (y[i] - exact[i]);
    power += exact[i] * exact[i];
  }
  // A step of about 2.4 / 127 of a standard deviation, uniform: 0.0055. Quantised activations add
  // nothing to see.
  EXPECT_LT(std::sqrt(error / power), 0.008);
  EXPECT_GT(std::sqrt(error / power), 0.002);
}

TEST_F(Int8MatMul, ATokensResultDependsNeitherOnTheOthersNorOnTheThreads) {
  const size_t rows = 70;
  const size_t cols = 300;
  const Quantised w(Normals(rows * cols, 8), rows, cols);
  const std::vector<float> x = Normals(40 * cols, 9);
  for (const SimdTarget& target : SimdTargets()) {
    ForceSimdTarget(target);
    const std::vector<float> together = Multiply(x, cols, 40, w.view, team_);
    ThreadTeam alone(1);
    for (size_t token = 0; token < 40; ++token) {
      const std::vector<float> one(x.begin() + static_cast<int64_t>(token * cols),
                                   x.begin() + static_cast<int64_t>((token + 1) * cols));
      const auto at = together.begin() + static_cast<int64_t>(token * rows);
      ASSERT_EQ(Multiply(one, cols, 1, w.view, alone),
                std::vector<float>(at, at + static_cast<int64_t>(rows)))
          << target.name << " token " << token;
    }
  }
}

TEST_F(Int8MatMul, WhatIsNotFiniteSpoilsItsOwnTokenOnly) {
  const Quantised w(Normals(20 * 130, 1), 20, 130);
  for (const SimdTarget& target : SimdTargets()) {
    ForceSimdTarget(target);
    for (const float bad :
         {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
      std::vector<float> x = Normals(3 * 130, 2);
      x[130 + 129] = bad;
      const std::vector<float> y = Multiply(x, 130, 3, w.view, team_);
      for (size_t i = 0; i < y.size(); ++i) {
        EXPECT_EQ(std::isnan(y[i]), i / 20 == 1) << target.name << " " << i;
      }
    }
  }
}

TEST_F(Int8MatMul, NothingAndVeryLittleGiveZero) {
  const Quantised w(Normals(20 * 70, 1), 20, 70);
  for (const float value : {0.0F, 1e-38F, -1e-42F}) {
    EXPECT_EQ(Multiply(std::vector<float>(70, value), 70, 1, w.view, team_),
              std::vector<float>(20, 0.0F));
  }
  EXPECT_EQ(Multiply({}, 0, 1, w.view.Cols(5, 0), team_), std::vector<float>(20, 0.0F));
  EXPECT_TRUE(Multiply({1.0F}, 70, 0, w.view, team_).empty());
}

}  // namespace
}  // namespace varve
