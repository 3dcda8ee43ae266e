#include "tests/e2e/crash_client.h"

#include <algorithm>
#include <chrono>
#include <thread>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "tests/support/result_matchers.h"

#include <nlohmann/json.hpp>

namespace varve {
namespace {

using Json = nlohmann::json;

constexpr int kDocumentPieces = 5;
constexpr int kSentencesPerPiece = 28;
constexpr int kCommitTimeoutMs = 120'000;
constexpr int kGoneTimeoutS = 60;
// Of log-probabilities: an int4 or int8 value of the KV that falls to the other side moves them by
// about a thousandth; a page that is missing or another's moves them by more than one.
constexpr double kRounding = 0.05;

Error Gone() {
  return Error{ErrorCode::kUnavailable, "the server is gone"};
}

// A client that gets no answer learns nothing; here the process tells whether it died.
Result<cli::HttpResponse> Send(const ServerProcess& server,
                               const std::string& method,
                               const std::string& target,
                               const Json& body = nullptr) {
  auto response = server.Send(method, target, body.is_null() ? "" : body.dump());
  if (!response) {
    EXPECT_NE(server.process().Wait(kGoneTimeoutS), -1)
        << "no answer from a process that lives: " << response.error().message;
    return Gone();
  }
  return response;
}

Result<std::optional<cli::ContextInfo>> Find(const ServerProcess& server, const std::string& name) {
  auto found = server.api().FindContext(name);
  if (!found) {
    EXPECT_NE(server.process().Wait(kGoneTimeoutS), -1) << found.error().message;
    return Gone();
  }
  return found;
}

// How many pieces `text_bytes` are; fails the test if it is not a number of pieces.
size_t PiecesOf(const CrashDocument& document, uint64_t text_bytes) {
  uint64_t sum = 0;
  for (size_t pieces = 0; pieces <= document.pieces.size(); ++pieces) {
    if (sum == text_bytes) {
      return pieces;
    }
    sum += pieces < document.pieces.size() ? document.pieces[pieces].size() : 0;
  }
  ADD_FAILURE() << document.name << " has " << text_bytes << " bytes, which is half a piece";
  return 0;
}

}  // namespace

Result<Fingerprint> AskFingerprint(const ServerProcess& server,
                                   const std::string& context,
                                   const std::string& question) {
  const Json body = {{"model", "mini"},
                     {"context", context},
                     {"messages", {{{"role", "user"}, {"content", question}}}},
                     {"temperature", 0},
                     {"max_tokens", 6},
                     {"logprobs", true},
                     {"top_logprobs", 3}};
  VARVE_TRY(const auto response, Send(server, "POST", "/v1/chat/completions", body));
  if (response.status != 200) {
    return Error{ErrorCode::kInternal, response.body};
  }
  const Json answer = Json::parse(response.body);
  const Json& choice = answer.at("choices").at(0);
  Fingerprint fingerprint;
  fingerprint.all = Json({choice, answer.at("usage")}).dump();
  fingerprint.text = choice.at("message").at("content");
  for (const Json& token : choice.at("logprobs").at("content")) {
    fingerprint.logprobs.push_back(token.at("logprob"));
  }
  return fingerprint;
}

std::vector<CrashDocument> MakeCrashDocuments() {
  std::vector<CrashDocument> documents = {
      {.name = "plain", .kv = R"({"codec": "int8"})"},
      {.name = "small-pages",
       .kv = R"({"codec": "int4", "page_tokens": 32, "recent_window_tokens": 32})"},
      {.name = "ladder",
       .kv = R"({"codec": {"hot": "int8", "warm": "rot4", "cold": "rot3"}, "page_tokens": 64})",
       .has_ladder = true},
      {.name = "two-rungs",
       .kv = R"({"codec": {"hot": "int8", "cold": "int4"}, "page_tokens": 64})",
       .has_ladder = true},
  };
  uint64_t seed = 20;
  for (CrashDocument& document : documents) {
    for (int piece = 0; piece < kDocumentPieces; ++piece) {
      const FactDocument part = MakeFactDocument(++seed, kSentencesPerPiece);
      document.pieces.push_back(part.text);
      document.question = piece == 0 ? part.question : document.question;
    }
  }
  return documents;
}

void FillStates(const ServerProcess& server, std::vector<CrashDocument>& documents) {
  for (CrashDocument& document : documents) {
    document.states.resize(1);
    uint64_t sent = 0;
    std::string hash;
    for (const std::string& piece : document.pieces) {
      const bool first = sent == 0;
      Json body = {{"text", piece}};
      if (first) {
        body["name"] = document.name;
        body["kv"] = Json::parse(document.kv);
      } else {
        body["offset"] = sent;
        body["hash"] = hash;
      }
      const auto sending =
          server.Send("POST",
                      first ? "/v1/contexts" : "/v1/contexts/" + document.name + "/append",
                      body.dump());
      ASSERT_OK(sending);
      ASSERT_EQ(sending->status, 202) << sending->body;
      sent += piece.size();
      cli::ContextInfo info;
      int waited_ms = 0;
      do {
        ASSERT_LT(waited_ms, kCommitTimeoutMs) << document.name << " is still ingesting";
        waited_ms += 5;
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
        const auto found = server.api().GetContext(document.name);
        ASSERT_OK(found);
        ASSERT_EQ(found->error, "");
        info = *found;
      } while (info.text_bytes < sent || info.status != "ready");
      hash = info.text_hash;
      const auto fingerprint = AskFingerprint(server, document.name, document.question);
      ASSERT_OK(fingerprint);
      document.states.push_back({sent, info.text_hash, info.tokens, info.pages, *fingerprint});
    }
  }
}

Result<void> CrashClient::Act(const ServerProcess& server, Rng& rng) {
  const size_t at = rng.Below(documents_->size());
  const size_t pieces = (*documents_)[at].pieces.size();
  const uint64_t what = rng.Below(100);
  // Steps that a prompt shares with an ingest begin elsewhere, and compute other last bits.
  if (what >= 8 || answers_ == CrashAnswers::kIdentical) {
    VARVE_RETURN_IF_ERROR(WaitForCommits(server));
  }
  if (what < 8) {
    return SpillScratch(server);
  }
  const Expected& expected = expected_[at];
  if (expected.most == 0) {
    return Create(server, at);
  }
  if (what < 60 && expected.least < pieces) {
    return Append(server, at);
  }
  return what < 85 ? Ask(server, at) : Delete(server, at);
}

Result<void> CrashClient::Create(const ServerProcess& server, size_t at) {
  const CrashDocument& document = (*documents_)[at];
  expected_[at] = {.least = 0, .most = 1, .may_be_absent = true};
  const Json body = {
      {"name", document.name}, {"text", document.pieces[0]}, {"kv", Json::parse(document.kv)}};
  VARVE_TRY(const auto response, Send(server, "POST", "/v1/contexts", body));
  EXPECT_EQ(response.status, 202) << response.body;
  return {};
}

Result<void> CrashClient::Append(const ServerProcess& server, size_t at) {
  const CrashDocument& document = (*documents_)[at];
  const size_t pieces = expected_[at].least;
  expected_[at].most = pieces + 1;
  const Json body = {{"offset", document.states[pieces].text_bytes},
                     {"hash", document.states[pieces].text_hash},
                     {"text", document.pieces[pieces]}};
  VARVE_TRY(const auto response,
            Send(server, "POST", "/v1/contexts/" + document.name + "/append", body));
  EXPECT_EQ(response.status, 202) << response.body;
  return {};
}

Result<void> CrashClient::Ask(const ServerProcess& server, size_t at) {
  const CrashDocument& document = (*documents_)[at];
  const auto fingerprint = AskFingerprint(server, document.name, document.question);
  if (!fingerprint && fingerprint.error().code == ErrorCode::kUnavailable) {
    return fingerprint.error();
  }
  EXPECT_OK(fingerprint);
  if (!fingerprint) {
    return {};
  }
  ++counts_.answers;
  SCOPED_TRACE(fmt::format("{} of {} pieces", document.name, expected_[at].least));
  const Fingerprint& reference = document.states[expected_[at].least].fingerprint;
  if (answers_ == CrashAnswers::kIdentical) {
    EXPECT_EQ(fingerprint->all, reference.all);
  } else if (!document.has_ladder) {
    EXPECT_EQ(fingerprint->text, reference.text);
    for (size_t i = 0; i < std::min(fingerprint->logprobs.size(), reference.logprobs.size()); ++i) {
      EXPECT_NEAR(fingerprint->logprobs[i], reference.logprobs[i], kRounding) << "token " << i;
    }
  }
  return {};
}

Result<void> CrashClient::Delete(const ServerProcess& server, size_t at) {
  expected_[at].may_be_absent = true;
  VARVE_TRY(const auto response, Send(server, "DELETE", "/v1/contexts/" + (*documents_)[at].name));
  EXPECT_EQ(response.status, 200) << response.body;
  expected_[at] = {};
  ++counts_.deletions;
  return {};
}

// A prompt of its own that is longer than memory has room for: its sealed pages go to scratch,
// whose garbage a kill must not leave either.
Result<void> CrashClient::SpillScratch(const ServerProcess& server) {
  const Json body = {{"model", "mini"},
                     {"prompt", (*documents_)[0].pieces[0] + (*documents_)[1].pieces[0]},
                     {"temperature", 0},
                     {"max_tokens", 2}};
  VARVE_TRY(const auto response, Send(server, "POST", "/v1/completions", body));
  EXPECT_TRUE(response.status == 200 || response.status == 507) << response.body;
  return {};
}

Result<void> CrashClient::WaitForCommits(const ServerProcess& server) {
  for (size_t at = 0; at < expected_.size(); ++at) {
    if (expected_[at].least < expected_[at].most) {
      VARVE_RETURN_IF_ERROR(WaitForCommit(server, at));
    }
  }
  return {};
}

Result<void> CrashClient::WaitForCommit(const ServerProcess& server, size_t at) {
  const CrashDocument& document = (*documents_)[at];
  for (int waited_ms = 0; waited_ms < kCommitTimeoutMs; waited_ms += 2) {
    VARVE_TRY(const auto info, Find(server, document.name));
    if (!info || info->status == "failed") {
      ADD_FAILURE() << document.name << " failed: " << (info ? info->error : "it is gone");
      return {};
    }
    const size_t pieces = PiecesOf(document, info->text_bytes);
    if (pieces >= expected_[at].most && info->status == "ready") {
      expected_[at] = {.least = pieces, .most = pieces, .may_be_absent = false};
      ++counts_.commits;
      return {};
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  ADD_FAILURE() << document.name << " is not committed after " << kCommitTimeoutMs << " ms";
  return {};
}

Result<void> CrashClient::Check(const ServerProcess& server) {
  for (size_t at = 0; at < documents_->size(); ++at) {
    const CrashDocument& document = (*documents_)[at];
    Expected& expected = expected_[at];
    SCOPED_TRACE(document.name);
    VARVE_TRY(const auto info, Find(server, document.name));
    if (!info) {
      EXPECT_TRUE(expected.may_be_absent) << expected.least << " pieces were reported durable";
      expected = {};
      continue;
    }
    const size_t pieces = PiecesOf(document, info->text_bytes);
    EXPECT_GE(pieces, std::max<size_t>(1, expected.least)) << "were reported durable";
    EXPECT_LE(pieces, expected.most) << "were sent";
    if (testing::Test::HasFailure()) {
      return {};
    }
    expected = {.least = pieces, .most = pieces, .may_be_absent = false};
    const CrashDocument::State& state = document.states[pieces];
    EXPECT_EQ(info->status, "ready") << info->error;
    EXPECT_EQ(info->text_hash, state.text_hash);
    EXPECT_EQ(info->tokens, state.tokens);
    EXPECT_EQ(info->pages, state.pages);
    VARVE_RETURN_IF_ERROR(Ask(server, at));
  }
  return {};
}

}  // namespace varve
