// pca and pca10: what coding all heads together, and sharing out the bytes, is for.
#include "kernels/codec/pca_calibration.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/kernels/pca_cases.h"

namespace varve {
namespace {

// Rows: orthonormal directions, drawn at random.
std::vector<std::vector<double>> OrthonormalBasis(size_t width, Rng* rng) {
  std::vector<std::vector<double>> basis;
  const auto dot = [](const std::vector<double>& a, const std::vector<double>& b) {
    return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
  };
  while (basis.size() < width) {
    std::vector<double> direction(width);
    for (double& value : direction) {
      value = rng->NextNormal();
    }
    for (const std::vector<double>& other : basis) {
      const double common = dot(direction, other);
      for (size_t i = 0; i < width; ++i) {
        direction[i] -= common * other[i];
      }
    }
    const double norm = std::sqrt(dot(direction, direction));
    for (double& value : direction) {
      value /= norm;
    }
    basis.push_back(direction);
  }
  return basis;
}

// The least distortion of independent normal sources of these variances at so many bits for all
// of them: reverse water-filling (T. Berger, "Rate distortion theory", 1971).
double LeastDistortion(const std::vector<double>& variances, double bits) {
  double low = 0.0;
  double high = *std::max_element(variances.begin(), variances.end());
  for (int i = 0; i < 200; ++i) {
    const double water = (low + high) / 2.0;
    double rate = 0.0;
    for (const double variance : variances) {
      rate += variance > water ? 0.5 * std::log2(variance / water) : 0.0;
    }
    (rate > bits ? low : high) = water;
  }
  return std::accumulate(variances.begin(), variances.end(), 0.0, [&](double sum, double variance) {
    return sum + std::min(variance, high);
  });
}

TEST(PcaCalibration, ComesWithinAFewDecibelsOfTheRateDistortionBound) {
  // Keys that do not vary leave all bytes to the values, which are normal with a known spectrum in
  // a random basis.
  const RunShape shape{2, 64, 512};
  const size_t width = TokenValues(shape);
  Rng rng(17);
  const std::vector<std::vector<double>> basis = OrthonormalBasis(width, &rng);
  std::vector<double> variances;
  for (size_t c = 0; c < width; ++c) {
    variances.push_back(std::pow(0.97, 2.0 * static_cast<double>(c)));
  }
  const auto draw = [&](std::vector<float>* values) {
    std::vector<double> x(width, 0.0);
    for (size_t c = 0; c < width; ++c) {
      const double factor = std::sqrt(variances[c]) * rng.NextNormal();
      for (size_t i = 0; i < width; ++i) {
        x[i] += factor * basis[c][i];
      }
    }
    values->insert(values->end(), x.begin(), x.end());
  };
  Mixed made = MakeMixed(shape, 1, 0.0F, 5);
  std::fill(made.sample.k.begin(), made.sample.k.end(), 0.5F);
  std::fill(made.tokens.k.begin(), made.tokens.k.end(), 0.5F);
  made.sample.v.clear();
  made.tokens.v.clear();
  for (int64_t t = 0; t < made.sample.num_tokens; ++t) {
    draw(&made.sample.v);
  }
  for (int32_t t = 0; t < shape.token_capacity; ++t) {
    draw(&made.tokens.v);
  }
  for (const char* name : kPcaNames) {
    const Codec& codec = NamedCodec(name);
    const CodecTables tables = codec.Calibrate(made.sample);
    const RunContext context{.tables = &tables};
    const Tokens decoded =
        DecodeWith(codec, shape, EncodeWith(codec, shape, 512, made.tokens, context), context);
    EXPECT_LT(MeanSquare(decoded.k, made.tokens.k), 1e-12);
    const double bits = 2.0 * static_cast<double>(width) * codec.BitsPerValue(shape);
    const double bound = LeastDistortion(variances, bits) / static_cast<double>(width);
    const double error = MeanSquare(decoded.v, made.tokens.v);
    // Lloyd-Max levels are 1.5 dB off at one bit and 4.35 dB at many; a basis from 1,500 tokens and
    // groups of eight cost some tenths.
    EXPECT_GT(error, bound) << name;
    EXPECT_LT(10.0 * std::log10(error / bound), 4.6) << name;
  }
}

TEST(PcaCalibration, WhatHeadsShareIsStoredOnce) {
  const RunShape shape{4, 32, 128};
  const Mixed made = MakeMixed(shape, 24, 0.02F, 7);
  const auto error = [&](const char* name) {
    const Codec& codec = NamedCodec(name);
    const CodecTables tables = codec.Calibrate(made.sample);
    const RunContext context{.tables = &tables};
    const Tokens decoded =
        DecodeWith(codec, shape, EncodeWith(codec, shape, 128, made.tokens, context), context);
    return std::pair(MeanSquare(decoded.k, made.tokens.k), MeanSquare(decoded.v, made.tokens.v));
  };
  const auto [klt_k, klt_v] = error("klt2");
  const auto [k, v] = error("pca");
  const auto [fine_k, fine_v] = error("pca10");
  // At less than half of the bytes.
  EXPECT_LT(k, 0.2 * klt_k);
  EXPECT_LT(v, 0.1 * klt_v);
  EXPECT_LT(fine_k, k);
  EXPECT_LT(fine_v, v);
}

TEST(PcaCalibration, TheBudgetGoesToTheSideThatLosesMore) {
  const RunShape shape{2, 32, 1};
  const size_t budget = PcaRowBytes({.tenths_of_bit = 10}, TokenValues(shape)) - kPcaScales;
  const auto bytes_of = [&](const CodecTables& tables) {
    const PcaTables at = PcaTablesOf(tables.values.data(), 2, 32);
    return std::pair(PcaCodeBytes(at.keys), PcaCodeBytes(at.values));
  };
  Mixed made = MakeMixed(shape, 12, 0.1F, 9);
  const auto [k, v] = bytes_of(NamedCodec("pca").Calibrate(made.sample));
  EXPECT_LE(k + v, budget);
  EXPECT_GE(k + v, budget - 1);
  // Queries that hardly look leave the keys unimportant.
  for (double& moment : made.sample.q_moment) {
    moment *= 1e-4;
  }
  const CodecTables tables = NamedCodec("pca").Calibrate(made.sample);
  const auto [less_k, more_v] = bytes_of(tables);
  EXPECT_LT(less_k, k);
  EXPECT_GT(more_v, v);
  EXPECT_EQ(tables.values.size(), PcaTableFloats(2, 32));
  EXPECT_EQ(NamedCodec("pca").Calibrate(made.sample).hash, tables.hash);
}

TEST(PcaCalibration, ASampleThatDoesNotVaryIsItsMean) {
  const RunShape shape{2, 16, 20};
  Mixed made = MakeMixed(shape, 1, 0.0F, 11);
  std::fill(made.sample.k.begin(), made.sample.k.end(), 2.0F);
  std::fill(made.sample.v.begin(), made.sample.v.end(), -3.0F);
  for (const char* name : kPcaNames) {
    const CodecTables tables = NamedCodec(name).Calibrate(made.sample);
    const RunContext context{.tables = &tables};
    const Tokens decoded = DecodeWith(NamedCodec(name),
                                      shape,
                                      EncodeWith(NamedCodec(name), shape, 20, made.tokens, context),
                                      context);
    EXPECT_THAT(decoded.k, testing::Each(2.0F));
    EXPECT_THAT(decoded.v, testing::Each(-3.0F));
  }
}

}  // namespace
}  // namespace varve
