// IngestSession against a server that keeps a context as the real one does, and misbehaves where a
// test says so.
#include <functional>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "proto/base/hash.h"
#include "tests/e2e/fake_server.h"
#include "tests/support/result_matchers.h"

#include "ops/cli/ingest_session.h"
#include <nlohmann/json.hpp>

namespace varve::cli {
namespace {

using Json = nlohmann::json;

// One context. Its text is "committed" as soon as it is received.
class FakeContext {
 public:
  FakeResponse Handle(const FakeRequest& request) {
    if (before) {
      if (auto scripted = before(request)) {
        return *scripted;
      }
    }
    if (request.method == "GET") {
      return exists ? FakeResponse{.body = Object()} : Refusal(404, "no such context");
    }
    const Json body = Json::parse(request.body);
    const auto part = body.at("text").get<std::string>();
    if (request.target == "/v1/contexts") {
      exists = true;
    } else if (body.at("offset") != text.size() || body.at("hash") != HashToHex(Hash64(text))) {
      Json error = {{"message", "wrong offset"},
                    {"text_bytes", text.size()},
                    {"text_hash", HashToHex(Hash64(text))}};
      return {.status = 409, .body = Json({{"error", error}}).dump()};
    }
    text += part;
    parts.push_back(part);
    return {.status = 202, .body = Object()};
  }

  static FakeResponse Refusal(int status, const std::string& message) {
    return {.status = status, .body = Json({{"error", {{"message", message}}}}).dump()};
  }

  std::string Object() const {
    return Json({{"name", "notes"},
                 {"status", status},
                 {"error", error.empty() ? Json(nullptr) : Json(error)},
                 {"tokens", text.size() / 4},
                 {"tokens_computed", text.size() / 4},
                 {"text_bytes", text.size()},
                 {"text_bytes_received", text.size()},
                 {"text_hash", HashToHex(Hash64(text))},
                 {"kv", {{"codec", "int8"}, {"tokens", "l2norm"}, {"keep", 0.5}}},
                 {"usage", {{"disk_bytes", 4096}}}})
        .dump();
  }

  bool exists = false;
  std::string text;
  std::string status = "ready";
  std::string error;
  std::vector<std::string> parts;  // as they arrived
  std::function<std::optional<FakeResponse>(const FakeRequest&)> before;
};

class IngestSessionTest : public testing::Test {
 protected:
  Result<IngestSummary> Ingest(const std::string& text, IngestOptions options = {}) {
    VARVE_TRY(const ApiClient client, ApiClient::Create(server_.url()));
    options.name = "notes";
    options.chunk_bytes = 64;
    return IngestSession(
               client, options, text, [this](const IngestProgress& progress) { last_ = progress; })
        .Run();
  }

  static std::string Lines(int count) {
    std::string text;
    for (int i = 0; i < count; ++i) {
      text += fmt::format("line number {}\n", i);
    }
    return text;
  }

  FakeContext context_;
  FakeServer server_{[this](const FakeRequest& request) { return context_.Handle(request); }};
  IngestProgress last_;
};

TEST_F(IngestSessionTest, UploadsInChunksAndWaits) {
  const std::string text = Lines(40);
  const auto summary = Ingest(text);
  ASSERT_OK(summary);
  EXPECT_EQ(context_.text, text);
  EXPECT_GT(context_.parts.size(), 5U);
  EXPECT_FALSE(summary->already_complete);
  EXPECT_EQ(summary->resumed_at_bytes, 0U);
  EXPECT_EQ(summary->context.tokens, static_cast<int64_t>(text.size() / 4));
  EXPECT_EQ(last_.text_bytes, text.size());
  EXPECT_EQ(last_.text_bytes_done, text.size());
}

TEST_F(IngestSessionTest, ResumesWithTheCutsOfAnUninterruptedUpload) {
  const std::string text = Lines(40);
  ASSERT_OK(Ingest(text));
  const std::vector<std::string> uninterrupted = context_.parts;
  context_.parts.clear();
  context_.text =
      text.substr(0, 100);  // in the middle of a chunk: the server commits where it likes
  const auto summary = Ingest(text);
  ASSERT_OK(summary);
  EXPECT_EQ(context_.text, text);
  EXPECT_EQ(summary->resumed_at_bytes, 100U);
  for (size_t i = 1; i < context_.parts.size(); ++i) {
    EXPECT_EQ(context_.parts[context_.parts.size() - i], uninterrupted[uninterrupted.size() - i]);
  }
}

TEST_F(IngestSessionTest, SendsNothingWhenAllIsThere) {
  ASSERT_OK(Ingest("the text"));
  context_.parts.clear();
  const auto summary = Ingest("the text");
  ASSERT_OK(summary);
  EXPECT_TRUE(summary->already_complete);
  EXPECT_TRUE(context_.parts.empty());
}

TEST_F(IngestSessionTest, AppendsWhatIsNew) {
  ASSERT_OK(Ingest("one\n"));
  ASSERT_OK(Ingest("one\ntwo\n"));
  EXPECT_EQ(context_.parts, (std::vector<std::string>{"one\n", "two\n"}));
}

TEST_F(IngestSessionTest, RefusesAnotherText) {
  ASSERT_OK(Ingest("the text"));
  EXPECT_ERROR(Ingest("a text that differs"), ErrorCode::kConflict);
  EXPECT_ERROR(Ingest("the"), ErrorCode::kConflict);  // shorter than what is there
  EXPECT_EQ(context_.text, "the text");
}

// Nothing would be sent, so the server could not object: only the hash tells.
TEST_F(IngestSessionTest, DoesNotTakeAnotherTextOfTheSameLengthForComplete) {
  ASSERT_OK(Ingest("the text"));
  const auto summary = Ingest("THE TEXT");
  ASSERT_ERROR(summary, ErrorCode::kConflict);
  EXPECT_NE(summary.error().message.find("holds another text"), std::string::npos);
}

TEST_F(IngestSessionTest, RefusesAnotherCodec) {
  ASSERT_OK(Ingest("the text", {.kv = {.codec = "int8"}}));
  EXPECT_OK(Ingest("the text", {.kv = {.codec = "int8"}}));
  EXPECT_ERROR(Ingest("the text", {.kv = {.codec = "bf16"}}), ErrorCode::kConflict);
}

TEST_F(IngestSessionTest, RefusesAnotherTokenPolicyOrShare) {
  ASSERT_OK(Ingest("the text", {.kv = {.tokens = "l2norm", .keep = 0.5}}));
  EXPECT_OK(Ingest("the text", {.kv = {.tokens = "l2norm", .keep = 0.5}}));
  EXPECT_ERROR(Ingest("the text", {.kv = {.tokens = "all"}}), ErrorCode::kConflict);
  EXPECT_ERROR(Ingest("the text", {.kv = {.keep = 0.25}}), ErrorCode::kConflict);
}

TEST_F(IngestSessionTest, BacksOffWhileTheServerIsFull) {
  int refusals = 2;
  context_.before = [&](const FakeRequest& request) -> std::optional<FakeResponse> {
    if (request.method == "POST" && refusals > 0) {
      --refusals;
      return FakeContext::Refusal(429, "full");
    }
    return std::nullopt;
  };
  ASSERT_OK(Ingest(Lines(10)));
  EXPECT_EQ(refusals, 0);
  EXPECT_EQ(context_.text, Lines(10));
}

TEST_F(IngestSessionTest, GoesOnWhereTheServerSays) {
  // The answer to an append is lost after the server took it: the next one comes with an offset
  // that is too low.
  const std::string text = Lines(20);
  bool lost = false;
  context_.before = [&](const FakeRequest& request) -> std::optional<FakeResponse> {
    if (request.target.ends_with("/append") && !lost) {
      lost = true;
      context_.text += text.substr(context_.text.size(), 10);
    }
    return std::nullopt;
  };
  ASSERT_OK(Ingest(text));
  EXPECT_EQ(context_.text, text);
}

TEST_F(IngestSessionTest, SendsAgainWhatARestartForgot) {
  const std::string text = Lines(20);
  int polls = 0;
  context_.before = [&](const FakeRequest& request) -> std::optional<FakeResponse> {
    if (request.method == "GET" && context_.text == text && ++polls == 1) {
      context_.text.resize(30);
    }
    return std::nullopt;
  };
  ASSERT_OK(Ingest(text));
  EXPECT_EQ(context_.text, text);
}

TEST_F(IngestSessionTest, ReportsAFailedIngest) {
  context_.status = "failed";
  context_.error = "the disk is full";
  const auto summary = Ingest("the text");
  ASSERT_ERROR(summary, ErrorCode::kInternal);
  EXPECT_NE(summary.error().message.find("the disk is full"), std::string::npos);
}

TEST_F(IngestSessionTest, EndsOnAConflictThatIsNotAboutTheOffset) {
  context_.before = [&](const FakeRequest& request) -> std::optional<FakeResponse> {
    if (!request.target.ends_with("/append")) {
      return std::nullopt;
    }
    Json error = Json::parse(FakeContext::Refusal(409, "being deleted").body);
    error["error"]["text_bytes"] = context_.text.size();
    error["error"]["text_hash"] = HashToHex(Hash64(context_.text));
    return FakeResponse{.status = 409, .body = error.dump()};
  };
  EXPECT_ERROR(Ingest(Lines(20)), ErrorCode::kConflict);
}

TEST_F(IngestSessionTest, EndsWhenTheContextIsDeletedMeanwhile) {
  context_.before = [&](const FakeRequest& request) -> std::optional<FakeResponse> {
    return request.target.ends_with("/append") ? std::optional(FakeContext::Refusal(404, "gone"))
                                               : std::nullopt;
  };
  EXPECT_ERROR(Ingest(Lines(20)), ErrorCode::kNotFound);
}

TEST_F(IngestSessionTest, DoesNotWaitWhenTold) {
  context_.status = "ingesting";
  const auto summary = Ingest("the text", {.wait = false});
  ASSERT_OK(summary);
  EXPECT_EQ(summary->context.status, "ingesting");
}

}  // namespace
}  // namespace varve::cli
