// What was promised durable survives: kill -9 at bad moments, restarts, a second server, SIGTERM.
#include <chrono>
#include <csignal>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "proto/base/file.h"
#include "tests/e2e/server_process.h"
#include "tests/support/result_matchers.h"

#include "ops/cli/exit_code.h"
#include "ops/cli/http_client.h"
#include <nlohmann/json.hpp>

namespace varve {
namespace {

using Json = nlohmann::json;
using testing::HasSubstr;

RunResult Ingest(const ServerProcess& server, const std::string& file) {
  return RunVarve({"ingest", "--name", "doc", "--server", server.url(), file});
}

// The greedy answer with the log-probabilities of every token: equal only if the KV behind it is
// equal.
std::string Fingerprint(const ServerProcess& server,
                        const std::string& question,
                        const std::string& name = "doc") {
  const auto http = cli::HttpClient::Create(server.url());
  const auto model = server.api().ModelName();
  EXPECT_OK(http);
  EXPECT_OK(model);
  const Json body = {{"model", *model},
                     {"context", name},
                     {"messages", {{{"role", "user"}, {"content", question}}}},
                     {"temperature", 0},
                     {"max_tokens", 24},
                     {"logprobs", true},
                     {"top_logprobs", 3}};
  const auto response =
      http->Send({.method = "POST", .target = "/v1/chat/completions", .body = body.dump()});
  EXPECT_OK(response);
  EXPECT_EQ(response->status, 200) << response->body;
  const Json answer = Json::parse(response->body);
  return Json({answer.at("choices"), answer.at("usage")}).dump();
}

class DurabilityTest : public testing::Test {
 protected:
  void SetUp() override { ASSERT_OK(WriteFileAtomically(file_, document_.text)); }

  // About 15,000 tokens, several commits.
  const FactDocument document_ = MakeFactDocument(11, 900);
  const std::vector<std::string> flags_ = {"--workers", "2", "--commit-tokens", "2048"};
  TempDir files_;
  TempDir data_;
  const std::string file_ = files_.File("doc.txt");
};

TEST_F(DurabilityTest, AnIngestKilledInTheMiddleResumesToTheSameContext) {
  ServerProcess server(data_.path(), flags_);
  ChildProcess ingest({VarveBinary(), "ingest", "--name", "doc", "--server", server.url(), file_});
  // Kill it behind the first commit and before the last.
  uint64_t durable_bytes = 0;
  while (durable_bytes == 0) {
    const auto context = server.api().FindContext("doc");
    ASSERT_OK(context);
    durable_bytes = *context ? (*context)->text_bytes : 0;
    ASSERT_TRUE(ingest.Running()) << "finished before it could be killed: " << ingest.Err();
  }
  server.Kill();
  EXPECT_EQ(ingest.Wait(60), cli::kExitUnreachable);
  EXPECT_THAT(ingest.Err(), HasSubstr("run the same command again"));
  ASSERT_LT(durable_bytes, document_.text.size());

  ServerProcess again(data_.path(), flags_);
  const auto reopened = again.api().GetContext("doc");
  ASSERT_OK(reopened);
  EXPECT_GE(reopened->text_bytes, durable_bytes);
  EXPECT_LT(reopened->text_bytes, document_.text.size());
  const RunResult resumed = Ingest(again, file_);
  ASSERT_EQ(resumed.exit_code, cli::kExitOk) << resumed.err;

  const TempDir other_data;
  ServerProcess uninterrupted(other_data.path(), flags_);
  ASSERT_EQ(Ingest(uninterrupted, file_).exit_code, cli::kExitOk);
  const auto context = again.api().GetContext("doc");
  const auto expected = uninterrupted.api().GetContext("doc");
  ASSERT_OK(context);
  ASSERT_OK(expected);
  EXPECT_EQ(context->tokens, expected->tokens);
  EXPECT_EQ(context->text_hash, expected->text_hash);
  EXPECT_EQ(context->pages, expected->pages);
  EXPECT_LT(again.DocumentTokensPrefilled(), static_cast<double>(context->tokens));
  const std::string fingerprint = Fingerprint(again, document_.question);
  EXPECT_EQ(fingerprint, Fingerprint(uninterrupted, document_.question));
  EXPECT_THAT(fingerprint, HasSubstr(document_.answer));
}

TEST_F(DurabilityTest, AReadyContextSurvivesKillWithoutPrefill) {
  std::string before;
  int64_t tokens = 0;
  {
    ServerProcess server(data_.path(), flags_);
    ASSERT_EQ(Ingest(server, file_).exit_code, cli::kExitOk);
    before = Fingerprint(server, document_.question);
    tokens = server.api().GetContext("doc")->tokens;
    EXPECT_EQ(server.DocumentTokensPrefilled(), static_cast<double>(tokens));
    server.Kill();
  }
  ServerProcess server(data_.path(), flags_);
  EXPECT_THAT(server.process().Out(), HasSubstr("1 context recovered"));
  EXPECT_EQ(server.api().GetContext("doc")->tokens, tokens);
  EXPECT_EQ(Fingerprint(server, document_.question), before);
  EXPECT_EQ(server.DocumentTokensPrefilled(), 0);
}

TEST_F(DurabilityTest, AnotherNumberOfWorkersReadsTheSameContext) {
  {
    ServerProcess server(data_.path(), flags_);
    ASSERT_EQ(Ingest(server, file_).exit_code, cli::kExitOk);
    EXPECT_EQ(server.Terminate(), cli::kExitOk);
  }
  for (const char* workers : {"1", "3"}) {
    ServerProcess server(data_.path(), {"--workers", workers});
    EXPECT_THAT(Fingerprint(server, document_.question), HasSubstr(document_.answer))
        << workers << " workers";
    EXPECT_EQ(server.DocumentTokensPrefilled(), 0);
  }
}

TEST_F(DurabilityTest, ADeletedContextStaysDeleted) {
  {
    ServerProcess server(data_.path(), flags_);
    ASSERT_EQ(Ingest(server, file_).exit_code, cli::kExitOk);
    ASSERT_EQ(RunVarve({"contexts", "rm", "--yes", "doc", "--server", server.url()}).exit_code,
              cli::kExitOk);
    server.Kill();
  }
  ServerProcess server(data_.path(), flags_);
  const auto contexts = server.api().ListContexts();
  ASSERT_OK(contexts);
  EXPECT_TRUE(contexts->empty());
}

TEST_F(DurabilityTest, AForkAnswersLikeItsParentAndOutlivesIt) {
  const std::string more_file = files_.File("more.txt");
  const std::string more = document_.text + " The registry code of Aldmoor is 4711.";
  ASSERT_OK(WriteFileAtomically(more_file, more));
  std::string before;
  std::string grown;
  {
    ServerProcess server(data_.path(), flags_);
    ASSERT_EQ(Ingest(server, file_).exit_code, cli::kExitOk);
    before = Fingerprint(server, document_.question);
    const RunResult forked =
        RunVarve({"contexts", "fork", "doc", "draft", "--server", server.url()});
    EXPECT_EQ(forked.exit_code, cli::kExitOk) << forked.err;
    EXPECT_EQ(Fingerprint(server, document_.question, "draft"), before);
    EXPECT_EQ(server.DocumentTokensPrefilled(),
              static_cast<double>(server.api().GetContext("doc")->tokens));
    const RunResult appended =
        RunVarve({"ingest", "--name", "draft", "--server", server.url(), more_file});
    ASSERT_EQ(appended.exit_code, cli::kExitOk) << appended.err;
    grown = Fingerprint(server, document_.question, "draft");
    EXPECT_EQ(Fingerprint(server, document_.question), before);
    ASSERT_EQ(RunVarve({"contexts", "rm", "--yes", "doc", "--server", server.url()}).exit_code,
              cli::kExitOk);
    EXPECT_EQ(Fingerprint(server, document_.question, "draft"), grown);
    server.Kill();
  }
  ServerProcess server(data_.path(), flags_);
  EXPECT_EQ(Fingerprint(server, document_.question, "draft"), grown);
  EXPECT_EQ(server.DocumentTokensPrefilled(), 0);
  const auto draft = server.api().GetContext("draft");
  ASSERT_OK(draft);
  EXPECT_EQ(draft->parent, "doc");
  EXPECT_EQ(draft->text_bytes, more.size());
  EXPECT_EQ(draft->shared_disk_bytes, 0U) << "its parent is gone: all it reads is its own";
  // The text behind the fork's name is still known: the same text is nothing to send.
  EXPECT_THAT(RunVarve({"ingest", "--name", "draft", "--server", server.url(), more_file}).out,
              HasSubstr("already complete"));
}

TEST_F(DurabilityTest, AnExportedContextAnswersIdenticallyElsewhere) {
  const std::string exported = files_.File("doc.varve");
  std::string before;
  {
    ServerProcess server(data_.path(), flags_);
    ASSERT_EQ(Ingest(server, file_).exit_code, cli::kExitOk);
    before = Fingerprint(server, document_.question);
    const RunResult written =
        RunVarve({"contexts", "export", "doc", exported, "--server", server.url()});
    ASSERT_EQ(written.exit_code, cli::kExitOk) << written.err;
    EXPECT_EQ(RunVarve({"contexts", "import", exported, "--server", server.url()}).exit_code,
              cli::kExitFailure)
        << "the name is taken";
    EXPECT_EQ(RunVarve({"contexts", "export", "none", exported + "2", "--server", server.url()})
                  .exit_code,
              cli::kExitFailure);
    EXPECT_FALSE(FileExists(exported + "2"));
  }
  const TempDir other_data;
  ServerProcess other(other_data.path(), flags_);
  const auto bytes = ReadFile(exported);
  ASSERT_OK(bytes);
  ASSERT_OK(WriteFileAtomically(files_.File("cut"), bytes->substr(0, bytes->size() / 2)));
  const RunResult cut =
      RunVarve({"contexts", "import", files_.File("cut"), "--server", other.url()});
  EXPECT_EQ(cut.exit_code, cli::kExitFailure);
  EXPECT_THAT(cut.err, HasSubstr("ends early"));
  EXPECT_TRUE(other.api().ListContexts()->empty());
  const RunResult imported =
      RunVarve({"contexts", "import", exported, "--name", "copy", "--server", other.url()});
  ASSERT_EQ(imported.exit_code, cli::kExitOk) << imported.err;
  EXPECT_EQ(Fingerprint(other, document_.question, "copy"), before);
  EXPECT_EQ(other.DocumentTokensPrefilled(), 0);
  other.Kill();
  ServerProcess again(other_data.path(), {"--workers", "3"});
  EXPECT_THAT(Fingerprint(again, document_.question, "copy"), HasSubstr(document_.answer));
}

TEST_F(DurabilityTest, ASecondServerOnTheSameDataIsRefused) {
  ServerProcess server(data_.path());
  const RunResult second =
      RunVarve({"serve", "--model", TestModelDir(), "--data", data_.path(), "--port", "0"});
  EXPECT_EQ(second.exit_code, cli::kExitFailure);
  EXPECT_THAT(second.err,
              HasSubstr("is in use by process " + std::to_string(server.process().pid())));
  EXPECT_OK(server.api().ListContexts());
}

TEST_F(DurabilityTest, ATakenPortIsRefused) {
  ServerProcess server(data_.path());
  const std::string port = server.url().substr(server.url().rfind(':') + 1);
  const RunResult second =
      RunVarve({"serve", "--model", TestModelDir(), "--data", files_.path(), "--port", port});
  EXPECT_EQ(second.exit_code, cli::kExitFailure);
  EXPECT_THAT(second.err, HasSubstr(port));
  EXPECT_THAT(second.err, HasSubstr("in use"));
}

// An answer of exactly max_tokens, whatever the model has to say.
Json LongAnswer(const std::string& model, int max_tokens) {
  return {{"model", model},
          {"prompt", "Once upon a time"},
          {"max_tokens", max_tokens},
          {"ignore_eos", true},
          {"seed", 1},
          {"stream", true}};
}

TEST_F(DurabilityTest, SigtermLetsARunningStreamFinish) {
  ServerProcess server(data_.path());
  const auto http = cli::HttpClient::Create(server.url());
  const auto model = server.api().ModelName();
  ASSERT_OK(model);
  std::vector<std::string> events;
  const auto response = http->SendStreaming(
      {.method = "POST", .target = "/v1/completions", .body = LongAnswer(*model, 400).dump()},
      [&](std::string_view data) {
        if (events.empty()) {
          server.process().Signal(SIGTERM);
        }
        events.emplace_back(data);
        return true;
      });
  ASSERT_OK(response);
  ASSERT_GT(events.size(), 20U);
  EXPECT_EQ(events.back(), "[DONE]");
  EXPECT_NE(Json::parse(events[events.size() - 2]).at("choices").at(0).at("finish_reason"),
            nullptr);
  EXPECT_EQ(server.process().Wait(60), cli::kExitOk);
  EXPECT_THAT(server.process().Err(), HasSubstr("draining"));
}

TEST_F(DurabilityTest, ASecondSignalStopsAtOnce) {
  ServerProcess server(data_.path());
  const auto http = cli::HttpClient::Create(server.url());
  const auto model = server.api().ModelName();
  ASSERT_OK(model);
  int events = 0;
  const auto response = http->SendStreaming(
      {.method = "POST", .target = "/v1/completions", .body = LongAnswer(*model, 1000000).dump()},
      [&](std::string_view) {
        if (++events <= 2) {
          server.process().Signal(SIGTERM);
          std::this_thread::sleep_for(std::chrono::milliseconds(100));
        }
        return true;
      });
  EXPECT_ERROR(response, ErrorCode::kUnavailable);
  EXPECT_EQ(server.process().Wait(60), cli::kExitInterrupted);
}

}  // namespace
}  // namespace varve
