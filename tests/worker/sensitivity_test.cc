#include "worker/sensitivity.h"

#include <algorithm>
#include <limits>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/codec/bf16_block.h"
#include "tests/support/result_matchers.h"
#include "tests/support/temp_dir.h"
#include "tests/worker/model_files.h"

namespace varve {
namespace {

using testing::HasSubstr;

constexpr uint64_t kHash = 0xfedcba9876543210;
const TokenSequences kSequences = {{5, 6, 7}, {8, 9}};
constexpr size_t kTokens = 5;
constexpr size_t kRow = 2 * 4;  // 2 kv heads of 4 channels

// What a file holds; a test changes some of it.
struct Contents {
  uint64_t hash = kHash;
  std::vector<int32_t> lengths = {3, 2};
  std::vector<int32_t> tokens = {5, 6, 7, 8, 9};
  // Of layers 0 and 1, k and v: value i of tensor n is n + i / 64.
  std::vector<std::vector<uint16_t>> squares;

  Contents() {
    for (int n = 0; n < 4; ++n) {
      std::vector<uint16_t>& own = squares.emplace_back();
      for (size_t i = 0; i < kTokens * kRow; ++i) {
        own.push_back(FloatToBf16(static_cast<float>(n) + static_cast<float>(i) / 64.0F));
      }
    }
  }

  std::vector<NamedTensor> Tensors() const {
    const auto bytes = [](const auto& values) { return std::as_bytes(std::span(values)); };
    std::vector<NamedTensor> tensors = {
        {"model_hash", {TensorType::kI64, {1}, std::as_bytes(std::span(&hash, 1))}},
        {"sequence_lengths", {TensorType::kI32, {lengths.size()}, bytes(lengths)}},
        {"tokens", {TensorType::kI32, {tokens.size()}, bytes(tokens)}}};
    const char* names[] = {"layer.0.k", "layer.0.v", "layer.1.k", "layer.1.v"};
    for (size_t n = 0; n < squares.size(); ++n) {
      tensors.push_back({names[n], {TensorType::kBf16, {kTokens, 2, 4}, bytes(squares[n])}});
    }
    return tensors;
  }
};

class SensitivityTest : public testing::Test {
 protected:
  SensitivityTest() {
    config_.num_layers = 2;
    config_.num_kv_heads = 2;
    config_.head_dim = 4;
  }

  Result<Sensitivity> Open(const std::vector<NamedTensor>& tensors) {
    EXPECT_OK(SaveSafetensors(path_, tensors));
    return Sensitivity::Open(path_, config_, kHash, kSequences);
  }
  void ExpectRefused(const std::vector<NamedTensor>& tensors,
                     ErrorCode code,
                     const std::string& reason) {
    const Result<Sensitivity> opened = Open(tensors);
    ASSERT_ERROR(opened, code);
    EXPECT_THAT(opened.error().message, HasSubstr(reason));
    EXPECT_THAT(opened.error().message, HasSubstr(path_));
  }

  TempDir directory_;
  std::string path_ = directory_.File("sensitivity");
  ModelConfig config_;
};

TEST_F(SensitivityTest, FillsEveryLayersSample) {
  const Contents contents;
  const Result<Sensitivity> opened = Open(contents.Tensors());
  ASSERT_OK(opened);
  std::vector<CalibrationSample> samples(2);
  for (CalibrationSample& sample : samples) {
    sample.num_tokens = kTokens;
    sample.k.resize(kTokens * kRow);
    sample.v.resize(kTokens * kRow);
  }
  opened->FillIn(0, &samples);
  for (size_t i = 0; i < kTokens * kRow; ++i) {
    const float rest = static_cast<float>(i) / 64.0F;
    ASSERT_EQ(samples[0].k_sensitivity.at(i), rest);
    ASSERT_EQ(samples[0].v_sensitivity.at(i), Bf16ToFloat(FloatToBf16(1.0F + rest)));
    ASSERT_EQ(samples[1].k_sensitivity.at(i), Bf16ToFloat(FloatToBf16(2.0F + rest)));
    ASSERT_EQ(samples[1].v_sensitivity.at(i), Bf16ToFloat(FloatToBf16(3.0F + rest)));
  }
  // The first tokens of each sequence, tokens 0, 1, 3 and 4 of all, stay exact.
  opened->FillIn(2, &samples);
  for (size_t i = 0; i < kTokens * kRow; ++i) {
    ASSERT_EQ(samples[1].v_sensitivity[i] > 0.0F, i / kRow == 2) << i;
  }
}

TEST_F(SensitivityTest, TokensThatAreWrittenAreThoseThatAreRead) {
  ASSERT_OK(SaveCalibrationTokens(path_, kHash, kSequences));
  const Result<SafetensorsModel> file = SafetensorsModel::OpenFile(path_);
  ASSERT_OK(file);
  EXPECT_EQ(file->FindNumber("model_hash"), kHash);
  EXPECT_EQ(file->FindNumber("tokens"), std::nullopt);
  Contents contents;
  std::vector<NamedTensor> tensors = contents.Tensors();
  for (size_t i = 1; i < 3; ++i) {
    tensors[i].tensor = file->tensors().at(tensors[i].name);
  }
  path_ += ".with_squares";
  EXPECT_OK(Open(tensors));
}

TEST_F(SensitivityTest, OfAnotherModelIsRefused) {
  Contents contents;
  contents.hash = 7;
  ExpectRefused(contents.Tensors(), ErrorCode::kModelMismatch, "the model 0000000000000007");
}

TEST_F(SensitivityTest, OfOtherTokensIsRefusedByTheFirstThatDiffers) {
  Contents contents;
  contents.tokens[3] = 44;
  ExpectRefused(contents.Tensors(),
                ErrorCode::kInvalidArgument,
                "token 1 of its sequence 2 is 44, where it is 8 here");
  contents = {};
  contents.lengths = {3, 2, 4};
  ExpectRefused(
      contents.Tensors(), ErrorCode::kInvalidArgument, "of 3 sequences, where there are 2 here");
  contents = {};
  contents.lengths = {4, 1};
  ExpectRefused(contents.Tensors(),
                ErrorCode::kInvalidArgument,
                "its sequence 1 has 4 tokens, where there are 3 here");
  contents = {};
  contents.tokens.pop_back();
  ExpectRefused(
      contents.Tensors(), ErrorCode::kInvalidArgument, "4 in all, where there are 5 here");
  contents = {};
  contents.tokens.push_back(1);
  ExpectRefused(
      contents.Tensors(), ErrorCode::kInvalidArgument, "6 in all, where there are 5 here");
}

TEST_F(SensitivityTest, WhatIsMissingIsNamed) {
  const Contents contents;
  const char* reasons[] = {"names no model",
                           "has no sequence_lengths",
                           "has no tokens",
                           "has no layer.0.k",
                           "has no layer.0.v",
                           "has no layer.1.k",
                           "has no layer.1.v"};
  for (size_t i = 0; i < std::size(reasons); ++i) {
    std::vector<NamedTensor> tensors = contents.Tensors();
    tensors.erase(tensors.begin() + static_cast<ptrdiff_t>(i));
    ExpectRefused(tensors, ErrorCode::kBadModel, reasons[i]);
  }
  EXPECT_ERROR(Sensitivity::Open(directory_.File("none"), config_, kHash, kSequences),
               ErrorCode::kNotFound);
  WriteText(path_, "no safetensors");
  EXPECT_ERROR(Sensitivity::Open(path_, config_, kHash, kSequences), ErrorCode::kBadModel);
}

TEST_F(SensitivityTest, OtherShapesAndTypesAreRefused) {
  const Contents contents;
  const auto expect_refused = [&](size_t index, const Tensor& tensor, const std::string& reason) {
    std::vector<NamedTensor> tensors = contents.Tensors();
    tensors[index].tensor = tensor;
    ExpectRefused(tensors, ErrorCode::kBadModel, reason);
  };
  const std::vector<NamedTensor> good = contents.Tensors();
  const auto squares = good[5].tensor.bytes;
  expect_refused(
      5, {TensorType::kBf16, {kTokens, 4, 2}, squares}, "layer.1.k must be BF16 of [5, 2, 4]");
  expect_refused(5, {TensorType::kF16, {kTokens, 2, 4}, squares}, "layer.1.k must be BF16");
  expect_refused(
      1, {TensorType::kI32, {1, 2}, good[1].tensor.bytes}, "sequence_lengths must be I32");
  expect_refused(2, {TensorType::kF32, {kTokens}, good[2].tensor.bytes}, "tokens must be I32");
  expect_refused(0, {TensorType::kI32, {2}, good[0].tensor.bytes}, "names no model");
}

TEST_F(SensitivityTest, ValuesThatAreNoSquaresAreRefused) {
  for (const float value :
       {-1.0F, std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    Contents contents;
    contents.squares[2][17] = FloatToBf16(value);
    ExpectRefused(contents.Tensors(), ErrorCode::kBadModel, "value 17 of layer.1.k is");
  }
}

}  // namespace
}  // namespace varve
