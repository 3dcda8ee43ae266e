// `varve calibrate`: makes tables that a server then uses, and says what is wrong.
#include <filesystem>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "proto/base/file.h"
#include "tests/e2e/server_process.h"
#include "tests/support/result_matchers.h"
#include "tests/support/temp_dir.h"

#include "ops/cli/exit_code.h"
#include <nlohmann/json.hpp>

namespace varve {
namespace {

using testing::HasSubstr;

class CalibrateTest : public testing::Test {
 protected:
  void SetUp() override {
    for (const auto& entry : std::filesystem::directory_iterator(TestModelDir())) {
      if (entry.is_regular_file()) {
        std::filesystem::copy(entry.path(), model_ + "/" + entry.path().filename().string());
      }
    }
    ASSERT_OK(WriteFileAtomically(text_, MakeFactDocument(71, 120).text));
  }

  RunResult Calibrate(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {"calibrate", "--model", model_, "--threads", "2"});
    return RunVarve(arguments, {.timeout_s = 300});
  }

  TempDir model_dir_;
  TempDir files_;
  std::string model_ = model_dir_.path();
  std::string text_ = files_.File("text");
};

TEST_F(CalibrateTest, TheTablesItMakesAreFoundBesideTheModel) {
  const std::vector<std::string> eval = {"eval",
                                         "--model",
                                         model_,
                                         "--parts",
                                         "divergence",
                                         "--text",
                                         text_,
                                         "--tokens",
                                         "600",
                                         "--codecs",
                                         "klt4,klt2,nuq4-1%",
                                         "--json",
                                         files_.File("rows.json")};
  const RunResult without = RunVarve(eval, {.timeout_s = 300});
  ASSERT_EQ(without.exit_code, cli::kExitOk) << without.err;
  EXPECT_THAT(without.out, HasSubstr("tables \"made\": calibrated for this run"));
  const RunResult made = Calibrate({"--text", text_, "--tokens", "1024"});
  ASSERT_EQ(made.exit_code, cli::kExitOk) << made.err;
  EXPECT_EQ(made.out, model_ + "/varve_tables.safetensors\n");
  const RunResult result = RunVarve(eval, {.timeout_s = 300});
  ASSERT_EQ(result.exit_code, cli::kExitOk) << result.err;
  const auto bytes = ReadFile(files_.File("rows.json"));
  ASSERT_OK(bytes);
  const nlohmann::json rows = nlohmann::json::parse(*bytes);
  ASSERT_EQ(rows.size(), 3U);
  EXPECT_EQ(rows[0].at("tables"), "file");
  EXPECT_LT(rows[0].at("kl_mean"), rows[1].at("kl_mean"));
  EXPECT_LT(rows[1].at("kl_mean"), 0.5);
  EXPECT_LT(rows[2].at("kl_mean"), 0.1);
}

TEST_F(CalibrateTest, SaysWhatIsWrongAndWritesNothing) {
  const RunResult none_needed = Calibrate({"--text", text_, "--codecs", "int8"});
  EXPECT_EQ(none_needed.exit_code, cli::kExitUsage);
  EXPECT_THAT(none_needed.err, HasSubstr("codec int8 needs no tables"));
  const RunResult unknown = Calibrate({"--text", text_, "--codecs", "zip"});
  EXPECT_EQ(unknown.exit_code, cli::kExitUsage);
  EXPECT_THAT(unknown.err, HasSubstr("there is no codec 'zip'"));
  ASSERT_OK(WriteFileAtomically(files_.File("short"), "A few words."));
  const RunResult too_short = Calibrate({"--text", files_.File("short")});
  EXPECT_EQ(too_short.exit_code, cli::kExitUsage);
  EXPECT_THAT(too_short.err, HasSubstr("at least 512 are needed"));
  const RunResult no_text = Calibrate({"--text", files_.File("none")});
  EXPECT_EQ(no_text.exit_code, cli::kExitFailure);
  const RunResult nowhere =
      Calibrate({"--text", text_, "--tokens", "600", "--out", files_.File("none/tables")});
  EXPECT_EQ(nowhere.exit_code, cli::kExitFailure);
  EXPECT_FALSE(std::filesystem::exists(model_ + "/varve_tables.safetensors"));
}

}  // namespace
}  // namespace varve
