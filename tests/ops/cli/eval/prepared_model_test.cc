#include "ops/cli/eval/prepared_model.h"

#include <filesystem>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "proto/base/file.h"
#include "tests/support/result_matchers.h"
#include "tests/support/temp_dir.h"
#include "worker/codec_tables.h"

#include "ops/cli/eval/lab_model.h"

namespace varve::cli {
namespace {

using testing::HasSubstr;

const std::string kMini = std::string(VARVE_SOURCE_DIR) + "/ops/models/mini";

const Codec* CodecOf(std::string_view name) {
  return FindCodec(name).value();
}

// About 900 tokens to calibrate with, and next to none to measure.
std::vector<LabText> Texts() {
  LabText text{"text", "It rained.", ""};
  for (int i = 0; i < 120; ++i) {
    text.held_apart += "Nobody went out on day " + std::to_string(i) + ". ";
  }
  return {text};
}

std::vector<LabText> NoText() {
  return {{"none", "It rained.", "It rained."}};
}

Result<std::unique_ptr<LabModel>> Open(const PreparedModel& prepared) {
  return LabModel::Open(prepared, {.threads = 1, .data_dir = ""});
}

TEST(PreparedModel, ACopyWithOutliersGetsTablesOfItsOwn) {
  LabProgress progress(stderr);
  auto prepared = PreparedModel::Make({.model_dir = kMini, .outliers = 20, .threads = 2});
  ASSERT_OK(prepared);
  EXPECT_EQ(prepared->name(), "mini");
  EXPECT_NE(prepared->directory(), kMini);
  ASSERT_OK(prepared->NeedTables({CodecOf("klt2"), CodecOf("rot2")}, Texts(), &progress));
  EXPECT_EQ(prepared->TablesOf(*CodecOf("klt2")), kTablesMade);
  EXPECT_EQ(prepared->TablesOf(*CodecOf("rot2")), "");
  EXPECT_FALSE(FileExists(kMini + "/" + std::string(kCodecTablesFile)));
  // A model that is opened with them can keep KV so.
  const auto model = Open(*prepared);
  ASSERT_OK(model);
  KvPolicy kv;
  kv.codec = "klt2";
  EXPECT_OK((*model)->OpenSequence({.policy = kv}));
  kv.codec = "klt3";
  EXPECT_FALSE((*model)->OpenSequence({.policy = kv}));
}

TEST(PreparedModel, WhatWasMadeIsNotMadeAgain) {
  LabProgress progress(stderr);
  auto prepared = PreparedModel::Make({.model_dir = kMini, .threads = 2});
  ASSERT_OK(prepared);
  ASSERT_OK(prepared->NeedTables({CodecOf("klt2")}, Texts(), &progress));
  const std::string first = ReadFile(prepared->tables_file()).value();
  // Without text nothing could be made: what is there serves.
  ASSERT_OK(prepared->NeedTables({CodecOf("klt2"), CodecOf("int8")}, NoText(), &progress));
  EXPECT_EQ(ReadFile(prepared->tables_file()).value(), first);
  // Another codec's tables are added to those.
  ASSERT_OK(prepared->NeedTables({CodecOf("klt2"), CodecOf("nuq2")}, Texts(), &progress));
  const auto model = Open(*prepared);
  ASSERT_OK(model);
  for (const char* name : {"klt2", "nuq2"}) {
    KvPolicy kv;
    kv.codec = name;
    EXPECT_OK((*model)->OpenSequence({.policy = kv})) << name;
    EXPECT_EQ(prepared->TablesOf(*CodecOf(name)), kTablesMade);
  }
}

TEST(PreparedModel, TablesBesideTheModelAreUsedAndThoseItLacksAreMade) {
  TempDir directory;
  for (const auto& entry : std::filesystem::directory_iterator(kMini)) {
    std::filesystem::copy(entry.path(), directory.path() + "/" + entry.path().filename().string());
  }
  LabProgress progress(stderr);
  auto maker = PreparedModel::Make({.model_dir = directory.path(), .threads = 2});
  ASSERT_OK(maker);
  ASSERT_OK(maker->NeedTables({CodecOf("klt2")}, Texts(), &progress));
  const std::string beside = directory.File(std::string(kCodecTablesFile));
  ASSERT_OK(WriteFileAtomically(beside, ReadFile(maker->tables_file()).value()));

  auto prepared = PreparedModel::Make({.model_dir = directory.path(), .threads = 2});
  ASSERT_OK(prepared);
  ASSERT_OK(prepared->NeedTables({CodecOf("klt2")}, NoText(), &progress));
  EXPECT_EQ(prepared->TablesOf(*CodecOf("klt2")), kTablesOfFile);
  EXPECT_EQ(prepared->tables_file(), "");
  ASSERT_OK(prepared->NeedTables({CodecOf("klt2"), CodecOf("nuq3")}, Texts(), &progress));
  EXPECT_EQ(prepared->TablesOf(*CodecOf("klt2")), kTablesOfFile);
  EXPECT_EQ(prepared->TablesOf(*CodecOf("nuq3")), kTablesMade);
  // A copy with outliers is another model: it does not get those of the file.
  auto copy = PreparedModel::Make({.model_dir = directory.path(), .outliers = 8, .threads = 2});
  ASSERT_OK(copy);
  ASSERT_OK(copy->NeedTables({CodecOf("klt2")}, Texts(), &progress));
  EXPECT_EQ(copy->TablesOf(*CodecOf("klt2")), kTablesMade);

  ASSERT_OK(WriteFileAtomically(beside, "nothing of the kind"));
  auto damaged = PreparedModel::Make({.model_dir = directory.path(), .threads = 2});
  ASSERT_OK(damaged);
  EXPECT_FALSE(damaged->NeedTables({CodecOf("klt2")}, Texts(), &progress));
}

TEST(PreparedModel, NamedTablesAreThoseOfTheModelAndNotOfItsCopy) {
  LabProgress progress(stderr);
  auto maker = PreparedModel::Make({.model_dir = kMini, .threads = 2});
  ASSERT_OK(maker);
  ASSERT_OK(maker->NeedTables({CodecOf("klt2")}, Texts(), &progress));

  auto prepared =
      PreparedModel::Make({.model_dir = kMini, .tables_file = maker->tables_file(), .threads = 2});
  ASSERT_OK(prepared);
  ASSERT_OK(prepared->NeedTables({CodecOf("klt2")}, NoText(), &progress));
  EXPECT_EQ(prepared->TablesOf(*CodecOf("klt2")), kTablesOfFile);
  EXPECT_EQ(prepared->tables_file(), maker->tables_file());
  // What the file lacks is made beside it; the file stays as it is.
  const std::string before = ReadFile(maker->tables_file()).value();
  ASSERT_OK(prepared->NeedTables({CodecOf("klt2"), CodecOf("nuq3")}, Texts(), &progress));
  EXPECT_EQ(prepared->TablesOf(*CodecOf("nuq3")), kTablesMade);
  EXPECT_NE(prepared->tables_file(), maker->tables_file());
  EXPECT_EQ(ReadFile(maker->tables_file()).value(), before);

  auto copy = PreparedModel::Make(
      {.model_dir = kMini, .tables_file = maker->tables_file(), .outliers = 8, .threads = 2});
  ASSERT_OK(copy);
  ASSERT_OK(copy->NeedTables({CodecOf("klt2")}, Texts(), &progress));
  EXPECT_EQ(copy->TablesOf(*CodecOf("klt2")), kTablesMade);
}

TEST(PreparedModel, SaysWhatToDoWithoutTextToCalibrateWith) {
  LabProgress progress(stderr);
  auto prepared = PreparedModel::Make({.model_dir = kMini, .threads = 1});
  ASSERT_OK(prepared);
  const auto needed = prepared->NeedTables({CodecOf("klt2")}, NoText(), &progress);
  ASSERT_FALSE(needed);
  EXPECT_EQ(needed.error().code, ErrorCode::kInvalidArgument);
  EXPECT_THAT(needed.error().message, HasSubstr("--calibration-text"));
  EXPECT_EQ(prepared->tables_file(), "");
  EXPECT_FALSE(PreparedModel::Make({.model_dir = kMini + "/none"}));
  EXPECT_FALSE(PreparedModel::Make({.model_dir = kMini, .outliers = 0}));
}

}  // namespace
}  // namespace varve::cli
