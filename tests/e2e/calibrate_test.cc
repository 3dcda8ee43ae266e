// `varve calibrate`: makes tables that a server then uses, and says what is wrong.
#include <cstring>
#include <filesystem>
#include <span>
#include <utility>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "proto/base/file.h"
#include "tests/e2e/server_process.h"
#include "tests/support/result_matchers.h"
#include "tests/support/temp_dir.h"
#include "worker/safetensors.h"

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

// The values of one table of a file that `varve calibrate` wrote.
std::vector<float> TableIn(const std::string& path, const std::string& name) {
  const auto file = SafetensorsModel::OpenFile(path);
  EXPECT_OK(file);
  const Tensor& tensor = file->tensors().at(name);
  std::vector<float> values(tensor.bytes.size() / sizeof(float));
  std::memcpy(values.data(), tensor.bytes.data(), tensor.bytes.size());
  return values;
}

TEST_F(CalibrateTest, SensitivityMovesWhatIsFittedAndBelongsToItsTokens) {
  const std::vector<std::string> tokens = {"--text", text_, "--tokens", "600"};
  const auto calibrate = [&](std::vector<std::string> more) {
    more.insert(more.end(), tokens.begin(), tokens.end());
    return Calibrate(more);
  };
  const RunResult written = calibrate({"--write-tokens", files_.File("tokens")});
  ASSERT_EQ(written.exit_code, cli::kExitOk) << written.err;
  EXPECT_EQ(written.out, files_.File("tokens") + "\n");
  EXPECT_FALSE(std::filesystem::exists(model_ + "/varve_tables.safetensors"));

  // What ops/calibration/gradients makes of it, with one in eight tokens that counts.
  const auto file = SafetensorsModel::OpenFile(files_.File("tokens"));
  ASSERT_OK(file);
  const size_t num_tokens = file->tensors().at("tokens").shape[0];
  std::vector<uint16_t> squares(num_tokens * 2 * 64);
  for (size_t i = 0; i < squares.size(); ++i) {
    squares[i] = i / 128 % 8 == 7 ? 0x3f80 : 0x3580;  // bf16: 1 and about 10^-6
  }
  std::vector<NamedTensor> tensors;
  for (const auto& [name, tensor] : file->tensors()) {
    tensors.push_back({name, tensor});
  }
  for (int layer = 0; layer < 4; ++layer) {
    for (const std::string side : {".k", ".v"}) {
      tensors.push_back(
          {"layer." + std::to_string(layer) + side,
           {TensorType::kBf16, {num_tokens, 2, 64}, std::as_bytes(std::span(squares))}});
    }
  }
  const std::string sensitivity = files_.File("sensitivity");
  ASSERT_OK(SaveSafetensors(sensitivity, tensors));
  const auto tables = [&](const std::string& out, std::vector<std::string> more) {
    more.insert(more.end(), {"--codecs", "nuq3,klt2", "--out", files_.File(out)});
    const RunResult made = calibrate(more);
    EXPECT_EQ(made.exit_code, cli::kExitOk) << made.err;
    return files_.File(out);
  };
  const std::string without = tables("without", {});
  const std::string with = tables("with", {"--sensitivity", sensitivity});
  EXPECT_NE(TableIn(with, "nuq3.v2.layer.2"), TableIn(without, "nuq3.v2.layer.2"));
  EXPECT_EQ(TableIn(with, "klt2.v3.layer.2"), TableIn(without, "klt2.v3.layer.2"));

  const RunResult other = Calibrate(
      {"--text", text_, "--tokens", "700", "--codecs", "nuq3", "--sensitivity", sensitivity});
  EXPECT_EQ(other.exit_code, cli::kExitUsage);
  EXPECT_THAT(other.err, HasSubstr("was made from other tokens"));
  const RunResult both = calibrate({"--write-tokens", "x", "--sensitivity", sensitivity});
  EXPECT_EQ(both.exit_code, cli::kExitUsage);
  EXPECT_FALSE(std::filesystem::exists(model_ + "/varve_tables.safetensors"));
}

TEST_F(CalibrateTest, TablesElsewhereAreNamed) {
  const std::string tables = files_.File("klt2.tables");
  const RunResult made =
      Calibrate({"--text", text_, "--tokens", "1024", "--codecs", "klt2", "--out", tables});
  ASSERT_EQ(made.exit_code, cli::kExitOk) << made.err;
  EXPECT_FALSE(std::filesystem::exists(model_ + "/varve_tables.safetensors"));
  const std::string settings = files_.File("settings.yaml");
  ASSERT_OK(WriteFileAtomically(settings, "tables: " + tables + "\n"));

  const TempDir data;
  const auto answer_with = [&](const std::vector<std::string>& flags) {
    const ServerProcess server(data.path(), flags, model_);
    const FactDocument document = MakeFactDocument(5, 200);
    RunVarve({"ingest", "--name", "doc", "--kv-codec", "klt2", "--server", server.url(), "-"},
             {.input = document.text});
    const auto answer = server.api().Ask({.context = "doc", .question = document.question},
                                         [](std::string_view) {});
    return answer ? answer->text.find(document.answer) != std::string::npos : false;
  };
  EXPECT_FALSE(answer_with({}));
  EXPECT_TRUE(answer_with({"--tables", tables}));
  EXPECT_TRUE(answer_with({"--config", settings}));

  const RunResult eval = RunVarve({"eval",
                                   "--model",
                                   model_,
                                   "--tables",
                                   tables,
                                   "--parts",
                                   "divergence",
                                   "--text",
                                   text_,
                                   "--tokens",
                                   "600",
                                   "--codecs",
                                   "klt2"},
                                  {.timeout_s = 300});
  EXPECT_EQ(eval.exit_code, cli::kExitOk) << eval.err;
  EXPECT_THAT(eval.out, HasSubstr("tables \"file\": made by `varve calibrate`"));
  EXPECT_THAT(eval.out, testing::Not(HasSubstr("calibrated for this run")));
  for (const char* bench : {"step", "ingest"}) {
    const std::vector<std::string> command = {
        "bench", bench, "--model", model_, "--codec", "klt2", "--tokens", "300", "--runs", "1"};
    EXPECT_EQ(RunVarve(command).exit_code, cli::kExitFailure) << bench;
    std::vector<std::string> with = command;
    with.insert(with.end(), {"--tables", tables});
    const RunResult measured = RunVarve(with);
    EXPECT_EQ(measured.exit_code, cli::kExitOk) << bench << measured.err;
  }
}

TEST_F(CalibrateTest, TablesThatAreNoneOfThisModelAreRefusedByName) {
  const std::string missing = files_.File("missing");
  const std::string damaged = files_.File("damaged");
  const std::string other = files_.File("other");
  ASSERT_OK(WriteFileAtomically(damaged, "no safetensors"));
  const uint64_t hash = 1;
  const NamedTensor of_other[] = {
      {"model_hash", {TensorType::kI64, {1}, std::as_bytes(std::span(&hash, 1))}}};
  ASSERT_OK(SaveSafetensors(other, of_other));
  for (const auto& [file, says] : {std::pair{missing, "there is no file of tables"},
                                   {damaged, "damaged: "},
                                   {other, "was made for the model 0000000000000001"}}) {
    // Of the environment for the server, of a flag for the others.
    const RunResult served =
        RunVarve({"serve", "--model", model_, "--port", "0", "--data", files_.File("data")},
                 {.environment = {{"VARVE_TABLES", file}}});
    EXPECT_EQ(served.exit_code, cli::kExitFailure);
    EXPECT_THAT(served.err, HasSubstr(says));
    EXPECT_THAT(served.err, HasSubstr(file));
    for (const std::vector<std::string>& command :
         {std::vector<std::string>{"eval", "--parts", "planted"},
          {"eval", "--parts", "rate"},
          {"bench", "step"},
          {"bench", "ingest"},
          {"bench", "restart"}}) {
      std::vector<std::string> arguments = command;
      arguments.insert(arguments.end(), {"--model", model_, "--tables", file});
      const RunResult result = RunVarve(arguments);
      EXPECT_EQ(result.exit_code, cli::kExitFailure) << command[1];
      EXPECT_THAT(result.err, HasSubstr(says));
      EXPECT_THAT(result.err, HasSubstr(file));
      EXPECT_EQ(result.out, "") << command[1];
    }
  }
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
