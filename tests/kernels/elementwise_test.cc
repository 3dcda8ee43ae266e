#include <cmath>
#include <cstring>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/codec/bf16_block.h"
#include "kernels/cpu/simd_targets.h"
#include "kernels/dense.h"
#include "proto/base/rng.h"
#include "tests/kernels/attend_cases.h"

namespace varve {
namespace {

std::vector<float> Normals(size_t count, float scale, uint64_t seed) {
  Rng rng(seed);
  std::vector<float> values(count);
  for (float& value : values) {
    value = scale * rng.NextNormal();
  }
  return values;
}

// Runs the body once on each target.
class Elementwise : public testing::Test {
 protected:
  template <typename Body>
  void OnEveryTarget(Body body) {
    for (const SimdTarget& target : SimdTargets()) {
      ForceSimdTarget(target);
      SCOPED_TRACE(target.name);
      body();
    }
  }
  void TearDown() override { UseBestSimdTarget(); }
};

TEST_F(Elementwise, RmsNormMatchesDouble) {
  OnEveryTarget([] {
    for (const size_t dim : {1, 7, 64, 576, 577}) {
      for (const float offset : {0.0F, 1.0F}) {
        const std::vector<float> x = Normals(3 * (dim + 2), 5.0F, dim);
        const std::vector<float> w = Normals(dim, 1.0F, dim + 1);
        std::vector<uint16_t> w_bf16(dim);
        NarrowToBf16(w.data(), dim, w_bf16.data());
        std::vector<float> y(3 * (dim + 1), -1.0F);
        RmsNorm(x.data(),
                dim + 2,
                3,
                dim,
                w_bf16.data(),
                DType::kBf16,
                offset,
                1e-5F,
                y.data(),
                dim + 1);
        std::vector<double> expected(y.size(), -1.0);
        for (size_t token = 0; token < 3; ++token) {
          double squares = 0.0;
          for (size_t i = 0; i < dim; ++i) {
            squares += std::pow(x[token * (dim + 2) + i], 2.0);
          }
          const double rms = std::sqrt(squares / static_cast<double>(dim) + 1e-5);
          for (size_t i = 0; i < dim; ++i) {
            const double weight = static_cast<double>(Bf16ToFloat(w_bf16[i])) + offset;
            expected[token * (dim + 1) + i] = x[token * (dim + 2) + i] / rms * weight;
          }
        }
        EXPECT_EQ(CompareArrays(y, expected, 1e-7, 5e-7), "");
      }
    }
  });
}

TEST_F(Elementwise, RmsNormWorksInPlaceAndWithoutWeight) {
  OnEveryTarget([] {
    std::vector<float> x = Normals(100, 1e-3F, 2);
    std::vector<double> expected;
    double squares = 0.0;
    for (const float value : x) {
      squares += static_cast<double>(value) * value;
    }
    for (const float value : x) {
      expected.push_back(value / std::sqrt(squares / 100.0 + 1e-6));
    }
    RmsNorm(x.data(), 100, 1, 100, nullptr, DType::kF32, 0.0F, 1e-6F, x.data(), 100);
    EXPECT_EQ(CompareArrays(x, expected, 1e-7, 5e-7), "");
  });
}

TEST_F(Elementwise, RopeTurnsThePairsOfEachHead) {
  OnEveryTarget([] {
    for (const size_t head_dim : {2, 8, 10, 64, 80}) {
      const size_t heads = 3;
      const size_t stride = heads * head_dim + 5;
      std::vector<float> x = Normals(2 * stride, 1.0F, head_dim);
      std::vector<float> cos_sin;
      for (size_t i = 0; i < 2 * (head_dim / 2); ++i) {
        const double angle = 0.7 * static_cast<double>(i) + 0.1;
        cos_sin.push_back(static_cast<float>(std::cos(angle)));
        cos_sin.push_back(static_cast<float>(std::sin(angle)));
      }
      std::vector<double> expected(x.begin(), x.end());
      for (size_t token = 0; token < 2; ++token) {
        for (size_t head = 0; head < heads; ++head) {
          for (size_t i = 0; i < head_dim / 2; ++i) {
            const size_t at = token * stride + head * head_dim + i;
            const double angle = 0.7 * static_cast<double>(token * (head_dim / 2) + i) + 0.1;
            const double a = x[at];
            const double b = x[at + head_dim / 2];
            expected[at] = a * std::cos(angle) - b * std::sin(angle);
            expected[at + head_dim / 2] = b * std::cos(angle) + a * std::sin(angle);
          }
        }
      }
      ApplyRope(x.data(), stride, 2, heads, head_dim, cos_sin.data());
      EXPECT_EQ(CompareArrays(x, expected, 5e-7, 1e-6), "");
    }
  });
}

TEST_F(Elementwise, ActivationsMatchDouble) {
  OnEveryTarget([] {
    std::vector<float> gates = Normals(203, 6.0F, 1);
    gates.insert(gates.end(),
                 {0.0F, -0.0F, 100.0F, -100.0F, 1e-20F, -1e-20F, 20.0F, -20.0F, 1e4F, -1e4F});
    const std::vector<float> up(gates.size(), 1.5F);
    for (const Activation activation : {Activation::kSilu, Activation::kGeluTanh}) {
      std::vector<float> actual = gates;
      GatedActivation(activation, actual.data(), up.data(), actual.size());
      std::vector<double> expected;
      for (const double x : gates) {
        const double u = std::sqrt(2.0 / M_PI) * (x + 0.044715 * x * x * x);
        const double silu = x < -700.0 ? 0.0 : x / (1.0 + std::exp(-x));
        // 1 + tanh(u) without the cancellation at negative u.
        const double gelu = u < -300.0 ? 0.0 : x / (1.0 + std::exp(-2.0 * u));
        expected.push_back(1.5 * (activation == Activation::kSilu ? silu : gelu));
      }
      // The absolute part is e^-87, below which an exponential is taken as zero, times the largest
      // gate but one.
      EXPECT_EQ(CompareArrays(actual, expected, 1e-30, 1e-5), "");
    }
  });
}

TEST_F(Elementwise, SoftcapMatchesDouble) {
  OnEveryTarget([] {
    std::vector<float> y = Normals(99, 60.0F, 3);
    y.insert(y.end(), {0.0F, 1e-6F, 1e5F, -1e5F});
    std::vector<double> expected;
    for (const double value : y) {
      expected.push_back(30.0 * std::tanh(value / 30.0));
    }
    SoftcapInPlace(y.data(), 30.0F, y.size());
    EXPECT_EQ(CompareArrays(y, expected, 1e-9, 2e-6), "");
  });
}

TEST_F(Elementwise, WidenIsExactForEveryStoredValue) {
  std::vector<uint16_t> bf16;
  std::vector<double> bf16_values;
  std::vector<uint16_t> half;
  std::vector<double> half_values;
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    bf16.push_back(static_cast<uint16_t>(bits));
    bf16_values.push_back(Bf16ToFloat(bf16.back()));
    const int exponent = static_cast<int>(bits >> 10 & 31);
    if (exponent == 31) {
      continue;  // infinities and NaN: no weight has them, and emulated conversions differ
    }
    const double mantissa = bits & 1023;
    const double value =
        exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024.0 + mantissa, exponent - 25);
    half.push_back(static_cast<uint16_t>(bits));
    half_values.push_back((bits & 0x8000) != 0 ? -value : value);
  }
  OnEveryTarget([&] {
    for (const size_t unused : {size_t{0}, size_t{3}}) {
      std::vector<float> wide(bf16.size() - unused);
      Widen(bf16.data() + unused, DType::kBf16, wide.size(), wide.data());
      EXPECT_EQ(CompareArrays(wide, {bf16_values.begin() + unused, bf16_values.end()}, 0.0, 1e-30),
                "");
      wide.resize(half.size() - unused);
      Widen(half.data() + unused, DType::kF16, wide.size(), wide.data());
      EXPECT_EQ(CompareArrays(wide, {half_values.begin() + unused, half_values.end()}, 0.0, 1e-30),
                "");
    }
  });
}

TEST_F(Elementwise, AddAndScale) {
  OnEveryTarget([] {
    std::vector<float> y = {1, 2, 3, 4, 5, 6, 7, 8, 9};
    const std::vector<float> x = {9, 8, 7, 6, 5, 4, 3, 2, 1};
    AddInPlace(y.data(), x.data(), y.size());
    EXPECT_EQ(y, std::vector<float>(9, 10.0F));
    ScaleInPlace(y.data(), 0.5F, 8);
    EXPECT_EQ(y, (std::vector<float>{5, 5, 5, 5, 5, 5, 5, 5, 10}));
  });
}

}  // namespace
}  // namespace varve
