#include "ops/cli/eval/outliers.h"

#include <cmath>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/codec/bf16_block.h"
#include "proto/base/file.h"
#include "proto/base/rng.h"
#include "tests/support/result_matchers.h"
#include "tests/support/temp_dir.h"
#include "tests/worker/group_rig.h"

namespace varve::cli {
namespace {

using testing::HasSubstr;

// f32 against f32 with other rounding.
constexpr double kSameFunction = 1e-4;

std::vector<float> LogitsOf(const std::string& model_dir,
                            const KvPolicy& policy,
                            const std::vector<int32_t>& tokens) {
  GroupRig rig(model_dir, 1);
  return rig.Feed(rig.OpenPrivate(policy), tokens, 16);
}

class OutliersOfModel : public testing::TestWithParam<const char*> {
 protected:
  std::string Inject(double scale) {
    const std::string directory = copies_.File("copy");
    EXPECT_OK(MakeDirectories(directory));
    EXPECT_OK(InjectOutliers(GoldenDir(GetParam()), {.scale = scale, .seed = 3}, directory));
    return directory;
  }
  TempDir copies_;
};

TEST_P(OutliersOfModel, LeaveTheFunctionAsItIs) {
  const Golden golden = LoadGolden(GetParam());
  const auto before = LogitsOf(GoldenDir(GetParam()), ExactPolicy(), golden.tokens);
  const auto after = LogitsOf(Inject(20), ExactPolicy(), golden.tokens);
  EXPECT_LE(RelativeDifference(after, before), kSameFunction);
}

// Every projection and norm, biases and both kinds of offsets.
INSTANTIATE_TEST_SUITE_P(Families,
                         OutliersOfModel,
                         testing::Values("llama3_gqa",
                                         "llama2_mha",
                                         "mistral",
                                         "qwen2",
                                         "qwen3",
                                         "gemma2",
                                         "gemma3",
                                         "smollm3"));

const std::string kMini = std::string(VARVE_SOURCE_DIR) + "/ops/models/mini";

std::vector<int32_t> RandomTokens(size_t count) {
  Rng rng(11);
  std::vector<int32_t> tokens;
  for (size_t i = 0; i < count; ++i) {
    tokens.push_back(static_cast<int32_t>(8 + rng.Below(4000)));
  }
  return tokens;
}

TEST(Outliers, MakeTwoBitsPerTokenUselessAndExactKvNot) {
  TempDir copy;
  ASSERT_OK(InjectOutliers(kMini, {.scale = 20, .seed = 1}, copy.path()));
  const std::vector<int32_t> tokens = RandomTokens(160);
  const auto exact = LogitsOf(kMini, ExactPolicy(), tokens);
  EXPECT_LE(RelativeDifference(LogitsOf(copy.path(), ExactPolicy(), tokens), exact), kSameFunction);
  const double plain = RelativeDifference(LogitsOf(kMini, PolicyOf("int2", "f32"), tokens), exact);
  const double with =
      RelativeDifference(LogitsOf(copy.path(), PolicyOf("int2", "f32"), tokens), exact);
  EXPECT_GT(with, 2 * plain);
}

// The rows of a bf16 matrix of the bundled model that differ in the copy, all of them `factor`
// times as large as before.
std::vector<size_t> ScaledRows(uint64_t seed, const std::string& name, float factor) {
  TempDir copy;
  EXPECT_OK(InjectOutliers(kMini, {.scale = 16, .seed = seed}, copy.path()));
  const auto before = SafetensorsModel::OpenDirectory(kMini);
  const auto after = SafetensorsModel::OpenDirectory(copy.path());
  const Tensor& old_weights = before->tensors().at(name);
  const Tensor& new_weights = after->tensors().at(name);
  EXPECT_EQ(old_weights.type, TensorType::kBf16);
  EXPECT_EQ(new_weights.type, TensorType::kF32);
  const size_t width = old_weights.shape[1];
  std::vector<size_t> rows;
  for (size_t i = 0; i < old_weights.shape[0] * width; ++i) {
    uint16_t half = 0;
    float value = 0;
    std::memcpy(&half, old_weights.bytes.data() + i * sizeof(half), sizeof(half));
    std::memcpy(&value, new_weights.bytes.data() + i * sizeof(value), sizeof(value));
    const float old_value = Bf16ToFloat(half);
    if (value != old_value) {
      EXPECT_EQ(value, factor * old_value);
      if (rows.empty() || rows.back() != i / width) {
        rows.push_back(i / width);
      }
    }
  }
  return rows;
}

TEST(Outliers, ScaleAFewSeededRowsOfKeysAndValuesAndNothingElse) {
  const auto config = ParseModelConfig(ReadText(kMini + "/config.json"));
  ASSERT_OK(config);
  const auto kv_heads = static_cast<size_t>(config->num_kv_heads);
  const auto group = static_cast<size_t>(config->num_qo_heads) / kv_heads;
  const std::string layer = "model.layers.1.self_attn.";
  const auto k = ScaledRows(1, layer + "k_proj.weight", 16);
  EXPECT_EQ(k.size(), kv_heads * 4);  // two pairs
  EXPECT_EQ(ScaledRows(1, layer + "v_proj.weight", 16).size(), kv_heads * 2);
  EXPECT_EQ(ScaledRows(1, layer + "q_proj.weight", 1.0F / 16).size(), kv_heads * group * 4);
  EXPECT_EQ(ScaledRows(1, layer + "k_proj.weight", 16), k);
  EXPECT_NE(ScaledRows(2, layer + "k_proj.weight", 16), k);
  EXPECT_NE(ScaledRows(1, "model.layers.3.self_attn.k_proj.weight", 16), k);
  // Both partners of a rotary pair.
  const auto half = static_cast<size_t>(config->head_dim) / 2;
  for (size_t i = 0; i < k.size(); ++i) {
    const size_t partner = k[i] % (2 * half) < half ? k[i] + half : k[i] - half;
    EXPECT_TRUE(std::find(k.begin(), k.end(), partner) != k.end()) << k[i];
  }
}

TEST(Outliers, CopyTheTokenizerAndLeaveOtherFilesBehind) {
  TempDir model;
  ASSERT_OK(WriteFileAtomically(model.File("config.json"), ReadText(kMini + "/config.json")));
  ASSERT_OK(
      WriteFileAtomically(model.File("model.safetensors"), ReadText(kMini + "/model.safetensors")));
  ASSERT_OK(WriteFileAtomically(model.File("tokenizer.json"), "{}"));
  ASSERT_OK(WriteFileAtomically(model.File("tables.bin"), "of the other weights"));
  TempDir copy;
  ASSERT_OK(InjectOutliers(model.path(), {}, copy.path()));
  EXPECT_TRUE(FileExists(copy.File("tokenizer.json")));
  EXPECT_FALSE(FileExists(copy.File("tables.bin")));
}

TEST(Outliers, RefuseWhatMakesNoSense) {
  TempDir copy;
  for (const OutlierOptions& options : {OutlierOptions{.scale = 0},
                                        OutlierOptions{.scale = std::nan("")},
                                        OutlierOptions{.scale = 20, .key_pairs = 33},
                                        OutlierOptions{.scale = 20, .value_channels = 65}}) {
    const auto injected = InjectOutliers(kMini, options, copy.path());
    ASSERT_FALSE(injected);
    EXPECT_EQ(injected.error().code, ErrorCode::kInvalidArgument);
    EXPECT_THAT(injected.error().message, HasSubstr("outliers of scale"));
  }
  EXPECT_THAT(InjectOutliers(copy.path(), {}, copy.path()).error().message,
              HasSubstr("config.json"));
  const auto nowhere = InjectOutliers(kMini, {}, copy.File("not-there"));
  ASSERT_FALSE(nowhere);
  EXPECT_THAT(nowhere.error().message, HasSubstr("not-there"));
}

}  // namespace
}  // namespace varve::cli
