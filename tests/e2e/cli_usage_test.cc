// The `varve` binary as a shell sees it: help, exit codes, settings, output that scripts read.
#include <chrono>
#include <csignal>
#include <future>
#include <mutex>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "proto/base/file.h"
#include "tests/e2e/fake_server.h"
#include "tests/e2e/subprocess.h"
#include "tests/support/result_matchers.h"

#include "ops/cli/exit_code.h"
#include <nlohmann/json.hpp>

namespace varve {
namespace {

using cli::kExitFailure;
using cli::kExitInterrupted;
using cli::kExitOk;
using cli::kExitUnreachable;
using cli::kExitUsage;
using testing::AllOf;
using testing::HasSubstr;

const std::vector<std::vector<std::string>> kCommands = {{},
                                                         {"serve"},
                                                         {"ingest"},
                                                         {"ask"},
                                                         {"contexts"},
                                                         {"contexts", "ls"},
                                                         {"contexts", "show"},
                                                         {"contexts", "fork"},
                                                         {"contexts", "pin"},
                                                         {"contexts", "unpin"},
                                                         {"contexts", "ttl"},
                                                         {"contexts", "export"},
                                                         {"contexts", "import"},
                                                         {"contexts", "rm"},
                                                         {"doctor"},
                                                         {"bench"},
                                                         {"eval"},
                                                         {"bench", "attention"},
                                                         {"bench", "step"},
                                                         {"bench", "ingest"},
                                                         {"bench", "restart"},
                                                         {"bench", "context"},
                                                         {"bench", "scale"},
                                                         {"plan"},
                                                         {"version"}};

TEST(CliUsage, EveryCommandHasHelp) {
  for (std::vector<std::string> arguments : kCommands) {
    std::string usage = "Usage: varve";
    for (const std::string& word : arguments) {
      usage += " " + word;
    }
    arguments.emplace_back("--help");
    const RunResult result = RunVarve(arguments);
    EXPECT_EQ(result.exit_code, kExitOk) << usage;
    EXPECT_THAT(result.out, HasSubstr(usage + " "));
    EXPECT_EQ(result.err, "") << usage;
  }
  EXPECT_THAT(RunVarve({"--help"}).out,
              HasSubstr("Exit codes: 0 done, 1 failed, 2 wrong usage, 3 server unreachable"));
}

struct BadUsage {
  std::vector<std::string> arguments;
  std::string says;
};

TEST(CliUsage, WrongUsageSaysWhatIsWrongAndExitsWith2) {
  const std::vector<BadUsage> cases = {
      {{}, "A subcommand is required"},
      {{"srve"}, "\"srve\" is no command of `varve`"},
      {{"contexts"}, "A subcommand is required"},
      {{"contexts", "list"}, "\"list\" is no command of `varve contexts`"},
      {{"contexts", "rm"}, "NAME is required"},
      {{"contexts", "fork", "a"}, "NEW is required"},
      {{"contexts", "export", "a"}, "FILE is required"},
      {{"contexts", "import"}, "FILE is required"},
      {{"contexts", "ttl", "a"}, "TTL is required"},
      {{"contexts", "ttl", "a", "7 days"}, "\"7 days\" is not a duration"},
      {{"ingest", "--name", "x", "--ttl", "0d", "file"}, "\"0d\" is not a duration"},
      {{"serve"}, "--model DIR is missing"},
      {{"serve", "--port", "70000"}, "70000"},
      {{"serve", "--host-budget", "lots"}, "\"lots\" is not a size"},
      {{"serve", "--log-level", "loud"}, "loud"},
      {{"serve", "--weights", "int4"}, "--weights: int4 not in {auto,int8}"},
      {{"bench", "step", "--model", "m", "--weights", "q4"}, "--weights: q4 not in {auto,int8}"},
      {{"bench", "step", "--model", "m", "--tokens", "16,32"},
       "--tokens: '16,32' is not a number above 0"},
      {{"serve", "--bogus"}, "--bogus"},
      {{"ingest", "file"}, "--name is required"},
      {{"ingest", "--name", "x"}, "FILE is required"},
      {{"ask"}, "QUESTION is required"},
      {{"ask", "--doc", "file", "?"}, "--doc needs --model"},
      {{"ask", "--doc", "file", "--model", "m", "--context", "c", "?"}, "exclude each other"},
      {{"ask", "--temperature", "9", "?"}, "--temperature"},
      {{"ask", "--max-tokens", "0", "?"}, "--max-tokens"},
      {{"ask", "--server", "ftp://x", "?"}, "is not a server URL"},
  };
  for (const BadUsage& bad : cases) {
    const RunResult result = RunVarve(bad.arguments);
    EXPECT_EQ(result.exit_code, kExitUsage) << bad.says;
    EXPECT_THAT(result.err, HasSubstr(bad.says));
    EXPECT_THAT(result.err, HasSubstr("--help"));
    EXPECT_EQ(result.out, "");
  }
}

TEST(CliUsage, VersionIsReadableByPeopleAndScripts) {
  EXPECT_THAT(RunVarve({"version"}).out, testing::StartsWith("varve "));
  const auto object = nlohmann::json::parse(RunVarve({"version", "--json"}).out);
  EXPECT_TRUE(object.at("version").is_string());
}

class CliSettings : public testing::Test {
 protected:
  CliSettings() : file_(dir_.File("settings.yaml")) {}

  // The URL that a client command would go to shows in its complaint that nothing is there.
  std::string Complaint(std::vector<std::string> flags,
                        std::map<std::string, std::string> environment = {}) {
    std::vector<std::string> arguments = {"contexts", "ls"};
    arguments.insert(arguments.end(), flags.begin(), flags.end());
    const RunResult result = RunVarve(arguments, {.environment = std::move(environment)});
    exit_code_ = result.exit_code;
    return result.err;
  }
  void WriteSettings(const std::string& text) { ASSERT_OK(WriteFileAtomically(file_, text)); }

  TempDir dir_;
  std::string file_;
  int exit_code_ = -1;
};

TEST_F(CliSettings, AFlagBeatsAVariableBeatsTheFile) {
  WriteSettings("server: http://127.0.0.1:1\n");
  EXPECT_THAT(Complaint({"--config", file_}), HasSubstr("cannot reach http://127.0.0.1:1 "));
  EXPECT_EQ(exit_code_, kExitUnreachable);
  EXPECT_THAT(Complaint({}, {{"VARVE_CONFIG", file_}}), HasSubstr("http://127.0.0.1:1 "));
  EXPECT_THAT(Complaint({"--config", file_}, {{"VARVE_SERVER", "http://127.0.0.1:2"}}),
              HasSubstr("http://127.0.0.1:2 "));
  EXPECT_THAT(Complaint({"--config", file_, "--server", "http://127.0.0.1:3"},
                        {{"VARVE_SERVER", "http://127.0.0.1:2"}}),
              HasSubstr("http://127.0.0.1:3 "));
}

TEST_F(CliSettings, OneFileServesEveryCommand) {
  WriteSettings("server: http://127.0.0.1:1\nport: 9000\nhost_budget: 1GiB\n");
  EXPECT_THAT(Complaint({"--config", file_}), HasSubstr("http://127.0.0.1:1 "));
  WriteSettings("");
  EXPECT_THAT(Complaint({"--config", file_, "--server", "http://127.0.0.1:3"}),
              HasSubstr("http://127.0.0.1:3 "));
}

TEST_F(CliSettings, WhatIsWrongInTheFileIsNamed) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"server: x\nhost_bugdet: 1GiB\n", "settings.yaml:2: unknown setting \"host_bugdet\""},
      {"server: [a, b]\n", "the value of \"server\" must be plain text"},
      {"server: a\nserver: b\n", "given twice"},
      {"- a\n", "must be a table"},
      {"server: [a\n", "no valid YAML"},
  };
  for (const auto& [text, says] : cases) {
    WriteSettings(text);
    EXPECT_THAT(Complaint({"--config", file_}), HasSubstr(says));
    EXPECT_EQ(exit_code_, kExitUsage) << says;
  }
  EXPECT_THAT(Complaint({"--config", dir_.File("none")}), HasSubstr("cannot open"));
}

TEST_F(CliSettings, AWrongValueNamesItsSource) {
  const RunResult variable =
      RunVarve({"serve", "--model", "m"}, {.environment = {{"VARVE_PORT", "high"}}});
  EXPECT_EQ(variable.exit_code, kExitUsage);
  EXPECT_THAT(variable.err, HasSubstr("VARVE_PORT"));
  WriteSettings("workers: 1000\n");
  const RunResult file = RunVarve({"serve", "--model", "m", "--config", file_});
  EXPECT_EQ(file.exit_code, kExitUsage);
  EXPECT_THAT(file.err, HasSubstr("setting \"workers\""));
}

TEST(CliClient, EveryClientCommandSaysThatNoServerIsThere) {
  const std::string url =
      FakeServer([](const FakeRequest&) { return FakeResponse{}; }).url();  // gone again
  const std::vector<std::vector<std::string>> commands = {{"contexts", "ls"},
                                                          {"contexts", "show", "x"},
                                                          {"contexts", "rm", "--yes", "x"},
                                                          {"ask", "?"},
                                                          {"ingest", "--name", "x", "-"}};
  for (std::vector<std::string> arguments : commands) {
    arguments.insert(arguments.end(), {"--server", url});
    const RunResult result = RunVarve(arguments, {.input = "text"});
    EXPECT_EQ(result.exit_code, kExitUnreachable) << arguments[0];
    EXPECT_THAT(result.err, HasSubstr("is `varve serve` running?"));
  }
}

TEST(CliClient, AMissingContextIsNamed) {
  FakeServer server([](const FakeRequest&) { return FakeResponse{.status = 404, .body = "{}"}; });
  const RunResult result = RunVarve({"contexts", "show", "notes", "--server", server.url()});
  EXPECT_EQ(result.exit_code, kExitFailure);
  EXPECT_THAT(result.err, HasSubstr("there is no context \"notes\""));
}

TEST(CliClient, AnInterruptedIngestExitsWith130AndSaysHowToGoOn) {
  std::promise<void> asked;
  std::once_flag once;
  FakeServer server([&](const FakeRequest&) {
    std::call_once(once, [&asked] { asked.set_value(); });
    return FakeResponse{.hang = true};
  });
  ChildProcess ingest({VarveBinary(), "ingest", "--name", "x", "-", "--server", server.url()},
                      {.input = "text"});
  ASSERT_EQ(asked.get_future().wait_for(std::chrono::seconds(30)), std::future_status::ready);
  ingest.Signal(SIGINT);
  EXPECT_EQ(ingest.Wait(30), kExitInterrupted);
  EXPECT_THAT(ingest.Err(), HasSubstr("run the same command again"));
}

const char* const kContext =
    R"({"name":"notes","status":"ready","error":null,"tokens":2048,"text_bytes":9000,"text_bytes_received":9000,)"
    R"("model":"mini","created_at":0,"updated_at":60,"parent":"draft","pinned":true,"ttl_seconds":60,"expires_at":120,"kv":{"codec":"int8","tokens":"snapkv","keep":0.5},)"
    R"("usage":{"pages":32,"host_bytes":1048576,"disk_bytes":2097152,"shared_disk_bytes":1048576,"bf16_bytes":4194304,)"
    R"("layer_tokens":8192,"kept_layer_tokens":5120}})";

TEST(CliClient, ContextsAreListedAlignedOrAsJson) {
  FakeServer server([](const FakeRequest& request) {
    return request.target == "/v1/contexts"
               ? FakeResponse{.body = std::string(R"({"object":"list","data":[)") + kContext + "]}"}
               : FakeResponse{.body = kContext};
  });
  EXPECT_EQ(
      RunVarve({"contexts", "ls", "--server", server.url()}).out,
      "NAME   STATUS  TOKENS  PAGES      HOST      DISK    SHARED  BYTES/TOKEN  CODEC  PINNED  "
      "                EXPIRES  PARENT\n"
      "notes  ready    2,048     32  1.00 MiB  2.00 MiB  1.00 MiB       1024.0  int8   yes     "
      "1970-01-01 00:02:00 UTC  draft\n");
  const auto list =
      nlohmann::json::parse(RunVarve({"contexts", "ls", "--json", "--server", server.url()}).out);
  EXPECT_EQ(list.at(0).at("usage").at("pages"), 32);
  EXPECT_THAT(RunVarve({"contexts", "show", "notes", "--server", server.url()}).out,
              AllOf(HasSubstr("bytes/token  1024.0 (2048.0 as bf16)\n"),
                    HasSubstr("0.5 by snapkv (62.5 % of all tokens and layers)\n")));
  const auto shown = nlohmann::json::parse(
      RunVarve({"contexts", "show", "notes", "--json", "--server", server.url()}).out);
  EXPECT_EQ(shown.at("name"), "notes");
}

TEST(CliClient, ContextsAreForkedPinnedAndGivenATimeToLive) {
  std::mutex mutex;
  std::vector<std::string> asked;
  FakeServer server([&](const FakeRequest& request) {
    const std::lock_guard lock(mutex);
    asked.push_back(request.method + " " + request.target + " " + request.body);
    return FakeResponse{.status = request.method == "POST" ? 201 : 200, .body = kContext};
  });
  const auto run = [&](std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), "contexts");
    arguments.insert(arguments.end(), {"--server", server.url()});
    const RunResult result = RunVarve(arguments);
    EXPECT_EQ(result.exit_code, kExitOk) << result.err;
    return result.out;
  };
  EXPECT_EQ(run({"fork", "draft", "notes"}), "notes: a fork of draft, 2,048 tokens\n");
  EXPECT_THAT(run({"pin", "notes", "draft"}), HasSubstr("notes: pinned; expires 1970-01-01"));
  run({"unpin", "notes"});
  run({"ttl", "notes", "7d"});
  run({"ttl", "notes", "none", "--json"});
  EXPECT_THAT(asked,
              testing::ElementsAre(R"(POST /v1/contexts/draft/fork {"name":"notes"})",
                                   R"(PATCH /v1/contexts/notes {"pinned":true})",
                                   R"(PATCH /v1/contexts/draft {"pinned":true})",
                                   R"(PATCH /v1/contexts/notes {"pinned":false})",
                                   R"(PATCH /v1/contexts/notes {"ttl_seconds":604800})",
                                   R"(PATCH /v1/contexts/notes {"ttl_seconds":null})"));
}

TEST(CliClient, NoContextsIsNoError) {
  FakeServer server([](const FakeRequest&) { return FakeResponse{.body = R"({"data":[]})"}; });
  const RunResult result = RunVarve({"contexts", "ls", "--server", server.url()});
  EXPECT_EQ(result.exit_code, kExitOk);
  EXPECT_THAT(result.out, HasSubstr("no contexts"));
  EXPECT_EQ(RunVarve({"contexts", "ls", "--json", "--server", server.url()}).out, "[]\n");
}

TEST(CliDoctor, ReportsTheMachineAndAModel) {
  const TempDir data;
  const std::string model = VARVE_SOURCE_DIR "/tests/golden/models/smollm3";
  const RunResult text = RunVarve({"doctor", "--data", data.path(), "--model", model});
  EXPECT_EQ(text.exit_code, kExitFailure);  // that model has no tokenizer
  EXPECT_THAT(text.out, HasSubstr("SmolLM3ForCausalLM, 4 layers"));
  const RunResult machine = RunVarve({"doctor", "--data", data.path(), "--json"});
  EXPECT_EQ(machine.exit_code, kExitOk);
  const auto object = nlohmann::json::parse(machine.out);
  EXPECT_TRUE(object.at("ok"));
  EXPECT_EQ(object.at("checks").at(0).at("check"), "cpu");
}

TEST(CliDoctor, FailsOnWhatCannotBeServed) {
  const TempDir dir;
  ASSERT_OK(WriteFileAtomically(dir.File("file"), "x"));
  const RunResult data = RunVarve({"doctor", "--data", dir.File("file")});
  EXPECT_EQ(data.exit_code, kExitFailure);
  EXPECT_THAT(data.out, HasSubstr("is not a directory"));

  ASSERT_OK(WriteFileAtomically(dir.File("config.json"),
                                R"({"architectures":["MambaForCausalLM"],"model_type":"mamba"})"));
  const RunResult model = RunVarve({"doctor", "--data", dir.path(), "--model", dir.path()});
  EXPECT_EQ(model.exit_code, kExitFailure);
  EXPECT_THAT(model.out, HasSubstr("amba"));
  EXPECT_THAT(model.out, HasSubstr("there is no .safetensors file"));
}

TEST(CliDoctor, SeesThatTheDataDirectoryIsInUse) {
  const TempDir data;
  const auto lock = FileLock::Acquire(data.File("LOCK"));
  ASSERT_OK(lock);
  const RunResult result = RunVarve({"doctor", "--data", data.path()});
  EXPECT_THAT(result.out, HasSubstr("is in use by process"));
}

}  // namespace
}  // namespace varve
