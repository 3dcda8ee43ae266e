#include "worker/codec_tables.h"

#include <filesystem>
#include <limits>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/codec/klt_block.h"
#include "kernels/codec/pca_block.h"
#include "proto/base/file.h"
#include "tests/support/temp_dir.h"
#include "tests/worker/group_rig.h"
#include "worker/calibration.h"

namespace varve {
namespace {

using testing::HasSubstr;

constexpr const char* kModel = "llama3_gqa";

class CodecTablesTest : public testing::Test {
 protected:
  void SetUp() override {
    for (const auto& entry : std::filesystem::directory_iterator(GoldenDir(kModel))) {
      std::filesystem::copy(entry.path(), dir_.path() + "/" + entry.path().filename().string());
    }
  }

  std::string TablesPath() const { return dir_.path() + "/" + std::string(kCodecTablesFile); }

  // Runs the golden's tokens through the model and calibrates every codec with what was seen.
  void MakeTables(int64_t num_tokens = 1'000'000) {
    const ModelConfig config = ParseModelConfig(ReadText(dir_.path() + "/config.json")).value();
    CalibrationCollector collector(config);
    LocalWorkerGroupOptions options{.model_dir = dir_.path(),
                                    .use_tables = false,
                                    .num_threads = 1,
                                    .max_step_tokens = 512,
                                    .probe = &collector};
    GroupRig rig(options);
    const Golden golden = LoadGolden(kModel);
    const auto count = std::min<int64_t>(num_tokens, static_cast<int64_t>(golden.tokens.size()));
    const SequenceId sequence = rig.OpenPrivate(ExactPolicy());
    rig.StepOne({.sequence = sequence,
                 .first_position = 0,
                 .tokens = {golden.tokens.begin(), golden.tokens.begin() + count},
                 .return_all_logits = true});
    model_hash_ = rig.group().model().model_hash;
    const std::vector<CalibrationSample> samples = collector.Take();
    CodecTableSet set;
    for (const Codec* codec : AllCodecs()) {
      for (int32_t layer = 0; codec->needs_tables() && layer < config.num_layers; ++layer) {
        set.Add(codec->id(), layer, codec->Calibrate(samples[static_cast<size_t>(layer)]));
      }
    }
    ASSERT_OK(SaveCodecTables(TablesPath(), set, model_hash_));
  }

  // Logits of the golden's tokens, in two steps, so that the second reads sealed pages.
  std::vector<float> Logits(GroupRig& rig, const std::string& codec) {
    const Golden golden = LoadGolden(kModel);
    const auto half = static_cast<ptrdiff_t>(golden.tokens.size() / 2);
    const SequenceId sequence = rig.OpenPrivate(PolicyOf(codec, "f32"));
    rig.StepOne({.sequence = sequence,
                 .first_position = 0,
                 .tokens = {golden.tokens.begin(), golden.tokens.begin() + half}});
    return rig
        .StepOne({.sequence = sequence,
                  .first_position = half,
                  .tokens = {golden.tokens.begin() + half, golden.tokens.end()},
                  .return_all_logits = true})
        .logits;
  }

  TempDir dir_;
  uint64_t model_hash_ = 0;
};

TEST_F(CodecTablesTest, CalibratedCodecsServeCloseToExact) {
  MakeTables();
  GroupRig rig(dir_.path(), 3);
  const std::vector<float> exact = Logits(rig, "f32");
  for (const Codec* codec : AllCodecs()) {
    if (!codec->needs_tables()) {
      continue;
    }
    const double difference = RelativeDifference(Logits(rig, std::string(codec->name())), exact);
    EXPECT_GT(difference, 0.0) << codec->name();
    // Random weights and head_dim 8 spread a quantiser's error over all logits; one bit per value
    // tells little of keys and values that have nothing in common.
    EXPECT_LT(difference, codec->name().starts_with("pca") ? 1.2 : 0.8) << codec->name();
  }
  for (const char* finer : {"nuq4-1%", "nuq4", "klt4"}) {
    EXPECT_LT(RelativeDifference(Logits(rig, finer), exact), 0.25) << finer;
  }
}

TEST_F(CodecTablesTest, WithoutTablesSuchACodecIsRefusedByName) {
  GroupRig rig(dir_.path(), 1);
  const Result<void> opened =
      rig.group().OpenSequence(SequenceId{9}, {.policy = PolicyOf("klt2", "f32")});
  EXPECT_ERROR(opened, ErrorCode::kInvalidArgument);
  EXPECT_THAT(opened.error().message, HasSubstr("codec klt2 needs tables"));
  EXPECT_THAT(opened.error().message, HasSubstr("varve calibrate"));
}

TEST_F(CodecTablesTest, TablesOfAnotherModelAreRefused) {
  MakeTables();
  const ModelConfig config = ParseModelConfig(ReadText(dir_.path() + "/config.json")).value();
  ASSERT_OK(LoadCodecTables(TablesPath(), config, model_hash_));
  EXPECT_ERROR(LoadCodecTables(TablesPath(), config, model_hash_ + 1), ErrorCode::kModelMismatch);
}

// What a codec relies on, broken in one place. With head_dim 8 and two kv heads.
struct Damage {
  CodecId codec;
  size_t place;
  float value;
};

std::vector<Damage> DamageOfEveryKind() {
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  std::vector<Damage> damage;
  const auto add = [&damage](CodecId codec, size_t place, std::initializer_list<float> values) {
    for (const float value : values) {
      damage.push_back({codec, place, value});
    }
  };
  add(CodecId::kKlt2, 2 * kKltLevels, {7.0F, -1.0F, 1.5F, 0.0F});  // bits of the only group: 2
  for (const CodecId skvq : {CodecId::kSkvq4, CodecId::kSkvq2}) {
    add(skvq, 0, {1e30F, -5.0F, 8.0F, 0.5F});  // the first channel's place
    add(skvq, 16, {0.0F, 1.5F});               // the first group's alpha
  }
  add(CodecId::kLorc, 0, {0.0F, 2.5F, 9.0F, -3.0F});  // rank of the keys
  add(CodecId::kLorc, 1, {1e30F});                    // and of the values
  for (const CodecId pca : {CodecId::kPca, CodecId::kPcaFine}) {
    add(pca, kPcaLevels, {-1.0F, 0.5F, 1e30F});  // bits of the first group
    add(pca, kPcaLevels, {6.0F});                // more than a row has room for
  }
  add(CodecId::kNuq4, size_t{2} << 4, {0.0F, -1.0F});  // scale of the first channel
  add(CodecId::kNuq2Sparse, 0, {1e9F});                // levels that do not ascend
  add(CodecId::kThink, 0, {-1.0F});                    // a norm
  add(CodecId::kRvq4, 0, {101.0F, -1e30F});            // of a codeword
  for (const Codec* codec : AllCodecs()) {
    if (codec->needs_tables()) {
      add(codec->id(), 0, {kNan});
    }
  }
  return damage;
}

TEST_F(CodecTablesTest, DamagedTablesOfEveryCodecAreRefusedAlike) {
  MakeTables();
  const ModelConfig config = ParseModelConfig(ReadText(dir_.path() + "/config.json")).value();
  const auto sound = LoadCodecTables(TablesPath(), config, model_hash_).value();
  for (const auto& [codec, place, value] : DamageOfEveryKind()) {
    CodecTables tables = *sound->Find(codec, 1);
    tables.values[place] = value;
    CodecTableSet damaged;
    damaged.Add(codec, 1, tables);
    ASSERT_OK(SaveCodecTables(TablesPath(), damaged, model_hash_));
    const auto loaded = LoadCodecTables(TablesPath(), config, model_hash_);
    EXPECT_ERROR(loaded, ErrorCode::kBadModel);
    EXPECT_EQ(loaded.error().message,
              fmt::format("'{}' is damaged: these are no tables of codec {} for layer 1. Make the "
                          "file again with `varve calibrate`",
                          TablesPath(),
                          FindCodec(codec).value()->name()))
        << place << " " << value;
  }
  // Two channels at one place.
  CodecTables tables = *sound->Find(CodecId::kSkvq4, 0);
  tables.values[0] = tables.values[1];
  CodecTableSet damaged;
  damaged.Add(CodecId::kSkvq4, 0, tables);
  ASSERT_OK(SaveCodecTables(TablesPath(), damaged, model_hash_));
  EXPECT_ERROR(LoadCodecTables(TablesPath(), config, model_hash_), ErrorCode::kBadModel);
}

TEST_F(CodecTablesTest, FilesThatAreNoTablesAreRefused) {
  const ModelConfig config = ParseModelConfig(ReadText(dir_.path() + "/config.json")).value();
  EXPECT_ERROR(LoadCodecTables(dir_.path() + "/none", config, 1), ErrorCode::kNotFound);
  WriteText(TablesPath(), "no safetensors");
  EXPECT_ERROR(LoadCodecTables(TablesPath(), config, 1), ErrorCode::kBadModel);
  const std::string hash(1, '\1');
  const std::string one = hash + std::string(7, '\0');
  const std::string hash_row = R"("model_hash":{"dtype":"I64","shape":[1],"data_offsets":[0,8]})";
  WriteText(TablesPath(), Safetensors("{" + hash_row + "}", one));
  EXPECT_OK(LoadCodecTables(TablesPath(), config, 1));
  const auto with = [&](const std::string& name) {
    return Safetensors(
        "{" + hash_row + ",\"" + name + R"(":{"dtype":"F32","shape":[1],"data_offsets":[8,12]}})",
        one + std::string(4, '\0'));
  };
  WriteText(TablesPath(), with("klt2.v3.layer.0"));
  EXPECT_ERROR(LoadCodecTables(TablesPath(), config, 1), ErrorCode::kBadModel);
  WriteText(TablesPath(), with("klt2.v9.layer.0"));
  EXPECT_ERROR(LoadCodecTables(TablesPath(), config, 1), ErrorCode::kVersionSkew);
  WriteText(TablesPath(),
            Safetensors(R"({"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", one));
  EXPECT_ERROR(LoadCodecTables(TablesPath(), config, 1), ErrorCode::kBadModel);
}

TEST_F(CodecTablesTest, AContextIsNotReadWithOtherTables) {
  MakeTables();
  TempDir data;
  LocalWorkerGroupOptions options{.model_dir = dir_.path(),
                                  .num_workers = 2,
                                  .num_threads = 2,
                                  .data_dir = data.path() + "/data",
                                  .host_budget_bytes = uint64_t{64} << 20};
  GroupRig rig(options);
  const Golden golden = LoadGolden(kModel);
  ContextManifest manifest{.id = ContextId{1}, .name = "notes"};
  manifest.model_hash = model_hash_;
  manifest.policy = PolicyOf("nuq4", "f32");
  ASSERT_OK(rig.group().CreateContext(manifest));
  const SequenceId ingest = rig.OpenOn({.context = manifest.id});
  const auto count = static_cast<int64_t>(golden.tokens.size());
  rig.StepOne({.sequence = ingest, .first_position = 0, .tokens = golden.tokens});
  manifest.version = 1;
  manifest.num_tokens = count;
  ASSERT_OK(rig.group().CommitContext(ingest, manifest, {.tokens = golden.tokens, .text = ""}));
  ASSERT_OK(rig.group().CloseSequence(ingest));

  const auto read = [&] {
    const SequenceId sequence = rig.OpenOn({.base = manifest.id, .base_tokens = count});
    return rig
        .Step({{.sequence = sequence,
                .first_position = count,
                .tokens = {golden.tokens[0]},
                .return_all_logits = true}})
        .value()
        .results[0];
  };
  rig.Reopen();
  EXPECT_FALSE(read().error);
  MakeTables(40);  // others
  rig.Reopen();
  const SequenceResult refused = read();
  ASSERT_TRUE(refused.error);
  EXPECT_EQ(refused.error->code, ErrorCode::kCodecMismatch);
  EXPECT_THAT(refused.error->message, HasSubstr("tables"));
  std::filesystem::remove(TablesPath());
  rig.Reopen();
  EXPECT_ERROR(
      rig.group().OpenSequence(SequenceId{77}, {.base = manifest.id, .base_tokens = count}),
      ErrorCode::kModelMismatch);
}

}  // namespace
}  // namespace varve
