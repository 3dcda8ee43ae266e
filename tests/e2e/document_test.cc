// The whole path: a document goes in through HTTP, an answer comes out, streamed.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "proto/base/file.h"
#include "tests/e2e/server_process.h"
#include "tests/support/result_matchers.h"

#include "ops/cli/exit_code.h"
#include <nlohmann/json.hpp>

namespace varve {
namespace {

using testing::HasSubstr;

class DocumentTest : public testing::TestWithParam<int> {
 protected:
  TempDir data_;
  ServerProcess server_{data_.path(), {"--workers", std::to_string(GetParam())}};

  RunResult Varve(std::vector<std::string> arguments, const std::string& input = "") {
    arguments.insert(arguments.end(), {"--server", server_.url()});
    return RunVarve(arguments, {.input = input});
  }
};

TEST_P(DocumentTest, ADocumentGoesInAndAnAnswerComesOut) {
  const FactDocument document = MakeFactDocument(3, 400);
  const RunResult ingested = Varve({"ingest", "--name", "doc", "-"}, document.text);
  ASSERT_EQ(ingested.exit_code, cli::kExitOk) << ingested.err;
  EXPECT_THAT(ingested.out, HasSubstr("tokens ready in"));

  const RunResult asked = Varve({"ask", "--context", "doc", "--usage", document.question});
  ASSERT_EQ(asked.exit_code, cli::kExitOk) << asked.err;
  EXPECT_THAT(asked.out, HasSubstr(document.answer));
  EXPECT_THAT(asked.err, HasSubstr("first token after"));

  // The same as JSON, the question from the standard input.
  const RunResult json = Varve({"ask", "--context", "doc", "--json", "-"}, document.question);
  const auto answer = nlohmann::json::parse(json.out);
  EXPECT_THAT(answer.at("answer").get<std::string>() + "\n", testing::EndsWith(asked.out));
  EXPECT_EQ(answer.at("finish_reason"), "stop");
  EXPECT_GT(answer.at("prompt_tokens"), 1000);
}

TEST_P(DocumentTest, AnAnswerStreamsInPieces) {
  const FactDocument document = MakeFactDocument(4, 200);
  ASSERT_EQ(Varve({"ingest", "--name", "doc", "-"}, document.text).exit_code, cli::kExitOk);
  int pieces = 0;
  const auto answer = server_.api().Ask({.context = "doc", .question = document.question},
                                        [&](std::string_view) { ++pieces; });
  ASSERT_OK(answer);
  EXPECT_GT(pieces, 3);
  EXPECT_LE(pieces, answer->completion_tokens);
  EXPECT_THAT(answer->text, HasSubstr(document.answer));
}

TEST_P(DocumentTest, AContextIsListedShownAppendedAndRemoved) {
  const TempDir files;
  const FactDocument first = MakeFactDocument(5, 100);
  const FactDocument second = MakeFactDocument(6, 100);
  ASSERT_OK(WriteFileAtomically(files.File("a"), first.text));
  ASSERT_OK(WriteFileAtomically(files.File("b"), second.text));
  ASSERT_EQ(Varve({"ingest", "--name", "doc", files.File("a")}).exit_code, cli::kExitOk);
  EXPECT_THAT(Varve({"ingest", "--name", "doc", files.File("a")}).out,
              HasSubstr("already complete"));

  const RunResult appended =
      Varve({"ingest", "--name", "doc", "--json", files.File("a"), files.File("b")});
  ASSERT_EQ(appended.exit_code, cli::kExitOk) << appended.err;
  const auto context = nlohmann::json::parse(appended.out);
  EXPECT_EQ(context.at("resumed_at_bytes"), first.text.size());
  EXPECT_GT(context.at("tokens"), 1000);
  EXPECT_THAT(Varve({"contexts", "ls"}).out, HasSubstr("doc   ready"));
  EXPECT_THAT(Varve({"ask", "--context", "doc", second.question}).out, HasSubstr(second.answer));

  const RunResult other = Varve({"ingest", "--name", "doc", files.File("b")});
  EXPECT_EQ(other.exit_code, cli::kExitFailure);
  EXPECT_THAT(other.err, HasSubstr("holds another text"));

  EXPECT_EQ(Varve({"contexts", "rm", "--yes", "doc"}).exit_code, cli::kExitOk);
  EXPECT_THAT(Varve({"contexts", "show", "doc"}).err, HasSubstr("there is no context \"doc\""));
  EXPECT_EQ(Varve({"ask", "--context", "doc", "?"}).exit_code, cli::kExitFailure);
}

INSTANTIATE_TEST_SUITE_P(Workers,
                         DocumentTest,
                         testing::Values(1, 3),
                         testing::PrintToStringParamName());

TEST(Serve, ReadsItsSettingsFile) {
  const TempDir files;
  ASSERT_OK(WriteFileAtomically(files.File("varve.yaml"),
                                "workers: 2\nthreads: 1\nhost_budget: 64MiB\nlog_level: warn\n"));
  const ServerProcess server(files.File("data"),
                             {"--config", files.File("varve.yaml"), "--threads", "2"});
  EXPECT_THAT(server.process().Out(), HasSubstr("with 2 workers on 2 threads"));
  EXPECT_THAT(server.process().Out(), HasSubstr("serving mini at http://127.0.0.1:"));
  EXPECT_THAT(server.process().Out(),
              HasSubstr("data in " + files.File("data") + "; 0 contexts recovered"));
}

TEST(Serve, SaysWhyItDoesNotStart) {
  const TempDir files;
  const auto serve = [&](const std::string& model, const std::string& data) {
    return RunVarve({"serve", "--model", model, "--data", data, "--port", "0"});
  };
  const RunResult no_model = serve(files.File("none"), files.File("data"));
  EXPECT_EQ(no_model.exit_code, cli::kExitFailure);
  EXPECT_THAT(no_model.err, HasSubstr("there is no model directory"));

  ASSERT_OK(WriteFileAtomically(files.File("config.json"),
                                R"({"architectures":["MambaForCausalLM"],"model_type":"mamba"})"));
  const RunResult unsupported = serve(files.path(), files.File("data"));
  EXPECT_EQ(unsupported.exit_code, cli::kExitFailure);
  EXPECT_THAT(unsupported.err, HasSubstr("amba"));

  const RunResult no_directory = serve(TestModelDir(), files.File("config.json"));
  EXPECT_EQ(no_directory.exit_code, cli::kExitFailure);
  EXPECT_THAT(no_directory.err, HasSubstr("config.json"));
}

TEST(AskDocument, NeedsNoServer) {
  const TempDir files;
  const FactDocument document = MakeFactDocument(7, 100);
  ASSERT_OK(WriteFileAtomically(files.File("doc"), document.text));
  const RunResult asked =
      RunVarve({"ask", "--model", TestModelDir(), "--doc", files.File("doc"), document.question},
               {.environment = {{"TMPDIR", files.path()}}});
  ASSERT_EQ(asked.exit_code, cli::kExitOk) << asked.err;
  EXPECT_THAT(asked.out, HasSubstr(document.answer));
  EXPECT_THAT(asked.err, HasSubstr("tokens"));
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(files.path()), {}), 1)
      << "left something behind";
}

TEST(AskDocument, SaysWhatIsWrongWithTheModel) {
  const TempDir files;
  const RunResult asked =
      RunVarve({"ask", "--model", files.File("none"), "--doc", "-", "?"}, {.input = "text"});
  EXPECT_EQ(asked.exit_code, cli::kExitFailure);
  EXPECT_THAT(asked.err, HasSubstr("there is no model directory"));
}

}  // namespace
}  // namespace varve
