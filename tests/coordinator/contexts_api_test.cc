#include "coordinator/contexts_api.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "proto/base/hash.h"
#include "tests/coordinator/coordinator_rig.h"

namespace varve {
namespace {

using Json = nlohmann::json;
using testing::HasSubstr;

Json AppendBody(uint64_t offset, const std::string& prefix, const std::string& text) {
  return {{"offset", offset}, {"hash", HashToHex(Hash64(prefix))}, {"text", text}};
}

TEST(Contexts, AreCreatedShownListedAndDeleted) {
  CoordinatorRig rig;
  const ClientResponse created = rig.Post("/v1/contexts",
                                          {{"name", "library"},
                                           {"text", "some text"},
                                           {"kv",
                                            {{"codec", "bf16"},
                                             {"exact_codec", "f32"},
                                             {"page_tokens", 64},
                                             {"sink_tokens", 8},
                                             {"recent_window_tokens", 32}}}});
  ASSERT_EQ(created.status, 202) << created.body;
  const Json first = created.json();
  EXPECT_EQ(first["id"], "library");
  EXPECT_EQ(first["object"], "context");
  EXPECT_EQ(first["status"], "ingesting");
  EXPECT_EQ(first["text_bytes_received"], 9);
  EXPECT_EQ(first["text_hash"], HashToHex(Hash64("some text")));
  ASSERT_TRUE(rig.WaitForStatus("library", "ready"));

  const Json shown = rig.Get("/v1/contexts/library").json();
  EXPECT_TRUE(shown["error"].is_null());
  EXPECT_EQ(shown["tokens"], 10);
  EXPECT_EQ(shown["tokens_computed"], 10);
  EXPECT_EQ(shown["tokens_pending"], 0);
  EXPECT_EQ(shown["text_bytes"], 9);
  EXPECT_EQ(shown["committed_text_hash"], shown["text_hash"]);
  EXPECT_EQ(shown["model"], "fake");
  EXPECT_GT(shown["created_at"], 1500000000);
  EXPECT_EQ(shown["kv"]["codec"], "bf16");
  EXPECT_EQ(shown["kv"]["recent_window_tokens"], 32);
  EXPECT_EQ(
      shown["usage"],
      Json::parse(
          R"({"pages":0,"device_bytes":0,"host_bytes":100,"disk_bytes":110,"shared_device_bytes":0,)"
          R"("shared_host_bytes":0,"shared_disk_bytes":0,"bf16_bytes":200,)"
          R"("layer_tokens":20,"kept_layer_tokens":15,"rungs":{"hot":{"pages":0,"bytes":0},)"
          R"("warm":{"pages":0,"bytes":0},"cold":{"pages":0,"bytes":0}}})"));
  EXPECT_EQ(rig.workers.Stored("library")->manifest.policy.page_tokens, 64);

  const Json list = rig.Get("/v1/contexts").json();
  EXPECT_EQ(list["object"], "list");
  ASSERT_EQ(list["data"].size(), 1U);
  EXPECT_EQ(list["data"][0], shown);

  const ClientResponse deleted = rig.Client().Delete("/v1/contexts/library");
  EXPECT_EQ(deleted.status, 200);
  EXPECT_EQ(deleted.json(),
            Json::parse(R"({"id":"library","object":"context.deleted","deleted":true})"));
  EXPECT_EQ(rig.Get("/v1/contexts/library").status, 404);
  EXPECT_EQ(rig.Client().Delete("/v1/contexts/library").error("code"), "context_not_found");
}

TEST(Contexts, AppendsContinueTheText) {
  CoordinatorRig rig;
  rig.MakeContext("doc", "one ");
  const ClientResponse appended = rig.Post("/v1/contexts/doc/append", AppendBody(4, "one ", "two"));
  EXPECT_EQ(appended.status, 202) << appended.body;
  EXPECT_EQ(appended.json()["text_bytes_received"], 7);
  EXPECT_EQ(appended.json()["text_hash"], HashToHex(Hash64("one two")));
  ASSERT_TRUE(rig.WaitForStatus("doc", "ready"));
  EXPECT_EQ(rig.workers.Stored("doc")->text, "one two");
  EXPECT_EQ(rig.workers.Stored("doc")->manifest.version, 2U);
}

TEST(Contexts, AStaleAppendLearnsWhereToGoOn) {
  CoordinatorRig rig;
  rig.MakeContext("doc", "one two");
  for (const Json& stale : {AppendBody(3, "one", " two"),          // repeats
                            AppendBody(9, "one two x", "three"),   // skips
                            AppendBody(7, "one TWO", "three")}) {  // another text
    const ClientResponse refused = rig.Post("/v1/contexts/doc/append", stale);
    EXPECT_EQ(refused.status, 409);
    const Json error = refused.json()["error"];
    EXPECT_EQ(error["code"], "conflict");
    EXPECT_EQ(error["text_bytes"], 7);
    EXPECT_EQ(error["text_hash"], HashToHex(Hash64("one two")));
  }
  EXPECT_EQ(rig.workers.Stored("doc")->text, "one two");
}

TEST(Contexts, AnAppendGoesOnAfterARestart) {
  CoordinatorRig rig;
  rig.workers.AddContext({.manifest = {.id = ContextId{5},
                                       .name = "doc",
                                       .version = 3,
                                       .num_tokens = 4,
                                       .text_bytes = 3,
                                       .text_hash = Hash64("one"),
                                       .model_hash = 0xabc,
                                       .tokenizer_hash = 0x70c},
                          .tokens = {kFakeBos, 'o', 'n', 'e'},
                          .text = "one"});
  const Json shown = rig.Get("/v1/contexts/doc").json();
  EXPECT_EQ(shown["status"], "ready");
  EXPECT_EQ(shown["text_bytes_received"], 3);
  ASSERT_EQ(rig.Post("/v1/contexts/doc/append", AppendBody(3, "one", " two")).status, 202);
  ASSERT_TRUE(rig.WaitForStatus("doc", "ready"));
  EXPECT_EQ(rig.workers.Stored("doc")->text, "one two");
  EXPECT_EQ(rig.workers.Stored("doc")->manifest.text_hash, Hash64("one two"));
}

TEST(Contexts, AStoredTextThatIsNotTheManifestsIsRefused) {
  CoordinatorRig rig;
  rig.workers.AddContext({.manifest = {.id = ContextId{5},
                                       .name = "doc",
                                       .version = 3,
                                       .num_tokens = 2,
                                       .text_bytes = 3,
                                       .text_hash = Hash64("two"),
                                       .model_hash = 0xabc,
                                       .tokenizer_hash = 0x70c},
                          .text = "one"});
  const ClientResponse refused =
      rig.Post("/v1/contexts/doc/append", AppendBody(3, "two", " three"));
  EXPECT_EQ(refused.status, 500);
  EXPECT_THAT(refused.error(), HasSubstr("is not the text of its manifest"));
}

TEST(Contexts, ARequestOnAnIngestingContextIsRefused) {
  CoordinatorRig rig;
  rig.coordinator();
  rig.workers.HoldSteps(true);
  ASSERT_EQ(rig.Post("/v1/contexts", {{"name", "doc"}, {"text", "text"}}).status, 202);
  const ClientResponse refused = rig.Complete({{"prompt", "q"}, {"context", "doc"}});
  EXPECT_EQ(refused.status, 409);
  EXPECT_THAT(refused.error(), HasSubstr("still ingesting"));
  // Progress is seen before anything is committed.
  const Json shown = rig.Get("/v1/contexts/doc").json();
  EXPECT_EQ(shown["tokens"], 0);
  EXPECT_GE(shown["tokens_pending"], 1);
  rig.workers.HoldSteps(false);
  ASSERT_TRUE(rig.WaitForStatus("doc", "ready"));
}

TEST(Contexts, AFailedIngestSaysWhy) {
  CoordinatorRig rig;
  rig.workers.FailCommit(Error{ErrorCode::kBudgetExceeded, "the disk is full"});
  ASSERT_EQ(rig.Post("/v1/contexts", {{"name", "doc"}, {"text", "text"}}).status, 202);
  ASSERT_TRUE(rig.WaitForStatus("doc", "failed"));
  const Json shown = rig.Get("/v1/contexts/doc").json();
  EXPECT_EQ(shown["error"], "the disk is full");
  EXPECT_EQ(shown["text_bytes_received"], 0);
  const ClientResponse refused = rig.Complete({{"prompt", "q"}, {"context", "doc"}});
  EXPECT_EQ(refused.status, 409);
  EXPECT_THAT(refused.error(), HasSubstr("the disk is full"));
  rig.workers.FailCommit(std::nullopt);
  ASSERT_EQ(rig.Post("/v1/contexts/doc/append", AppendBody(0, "", "text")).status, 202);
  ASSERT_TRUE(rig.WaitForStatus("doc", "ready"));
}

TEST(Contexts, PendingTextIsLimited) {
  CoordinatorOptions options;
  options.catalog.max_pending_bytes = 1000;
  CoordinatorRig rig(std::move(options));
  rig.coordinator();
  rig.workers.HoldSteps(true);
  ASSERT_EQ(rig.Post("/v1/contexts", {{"name", "a"}, {"text", std::string(900, 'x')}}).status, 202);
  const ClientResponse refused =
      rig.Post("/v1/contexts", {{"name", "b"}, {"text", std::string(101, 'x')}});
  EXPECT_EQ(refused.status, 429);
  EXPECT_EQ(refused.headers.at("retry-after"), "1");
  EXPECT_EQ(rig.Get("/v1/contexts/b").status, 404);
  const ClientResponse append = rig.Post(
      "/v1/contexts/a/append", AppendBody(900, std::string(900, 'x'), std::string(101, 'x')));
  EXPECT_EQ(append.status, 429);
  EXPECT_EQ(rig.Get("/v1/contexts/a").json()["text_bytes_received"], 900);
}

TEST(Contexts, TheirNumberIsLimited) {
  CoordinatorOptions options;
  options.catalog.max_contexts = 1;
  CoordinatorRig rig(std::move(options));
  rig.MakeContext("a", "x");
  EXPECT_EQ(rig.Post("/v1/contexts", {{"name", "b"}, {"text", "x"}}).status, 429);
}

TEST(Contexts, TheWorkersMayRefuseAPolicy) {
  CoordinatorRig rig;
  rig.workers.FailCreate(Error{ErrorCode::kInvalidArgument, "There is no codec 'x'."});
  const ClientResponse refused =
      rig.Post("/v1/contexts", {{"name", "a"}, {"text", "t"}, {"kv", {{"codec", "x"}}}});
  EXPECT_EQ(refused.status, 400);
  EXPECT_EQ(refused.error(), "There is no codec 'x'.");
  EXPECT_EQ(rig.Get("/v1/contexts/a").status, 404);
}

TEST(Contexts, TakeTheTokenPolicyOfTheRequestAndTheHotCodec) {
  CoordinatorRig rig;
  const Json kv = {{"codec", {{"hot", "int4"}}}, {"tokens", "snapkv"}, {"keep", 0.25}};
  const Json created = rig.Post("/v1/contexts", {{"name", "a"}, {"text", "t"}, {"kv", kv}}).json();
  EXPECT_EQ(created["kv"]["codec"], "int4");
  EXPECT_EQ(created["kv"]["tokens"], "snapkv");
  EXPECT_EQ(created["kv"]["keep"], 0.25);
  const Json plain = rig.Post("/v1/contexts", {{"name", "b"}, {"text", "t"}}).json();
  EXPECT_EQ(plain["kv"]["tokens"], "all");
  EXPECT_EQ(plain["kv"]["keep"], 1.0);
}

TEST(Contexts, TakeACodecForEachRungAndShowWhatStandsThere) {
  CoordinatorRig rig;
  const Json all = {{"hot", "rot4"}, {"warm", "rot2"}, {"cold", "pca"}};
  const Json no_warm = {{"hot", "rot4"}, {"cold", "pca"}};
  for (const Json& codec : {all, no_warm}) {
    const std::string name = codec.size() == 3 ? "a" : "b";
    const Json created =
        rig.Post("/v1/contexts", {{"name", name}, {"text", "t"}, {"kv", {{"codec", codec}}}})
            .json();
    EXPECT_EQ(created["kv"]["codec"], codec);
    EXPECT_EQ(rig.Get("/v1/contexts/" + name).json()["kv"]["codec"], codec);
  }
  const Json usage = rig.Get("/v1/contexts/a").json()["usage"];
  EXPECT_TRUE(usage.contains("device_bytes"));
  for (const char* rung : {"hot", "warm", "cold"}) {
    EXPECT_TRUE(usage["rungs"][rung].contains("pages")) << rung;
    EXPECT_TRUE(usage["rungs"][rung].contains("bytes")) << rung;
  }
}

TEST(Contexts, RefusesByNameWhatIsWrong) {
  CoordinatorRig rig;
  rig.MakeContext("doc", "text");
  struct Bad {
    const char* path;
    const char* body;
    int status;
    const char* param;
    const char* message_part;
  };
  const Bad kBad[] = {
      {"/v1/contexts", R"({"text":"x"})", 400, "name", "required"},
      {"/v1/contexts", R"({"name":"a"})", 400, "text", "required"},
      {"/v1/contexts", R"({"name":"a","text":""})", 400, "text", "empty"},
      {"/v1/contexts", R"({"name":"a","text":5})", 400, "text", "string"},
      {"/v1/contexts", R"({"name":"a/b","text":"x"})", 400, "", "A context name"},
      {"/v1/contexts", R"({"name":"","text":"x"})", 400, "", "A context name"},
      {"/v1/contexts", R"({"name":"..","text":"x"})", 400, "", "A context name"},
      {"/v1/contexts", R"({"name":"doc","text":"x"})", 409, "", "exists"},
      {"/v1/contexts", R"({"name":"a","text":"x","size":1})", 400, "size", "not a field"},
      {"/v1/contexts", R"({"name":"a","text":"x","kv":{"bits":4}})", 400, "kv.bits", "field"},
      {"/v1/contexts",
       R"({"name":"a","text":"x","kv":{"page_tokens":0}})",
       400,
       "kv.page_tokens",
       "from 1"},
      {"/v1/contexts",
       R"({"name":"a","text":"x","kv":{"sink_tokens":-1}})",
       400,
       "kv.sink_tokens",
       "from 0"},
      {"/v1/contexts", R"({"name":"a","text":"x","kv":{"codec":8}})", 400, "kv.codec", "string"},
      {"/v1/contexts",
       R"({"name":"a","text":"x","kv":{"codec":{}}})",
       400,
       "kv.codec.hot",
       "required"},
      {"/v1/contexts",
       R"({"name":"a","text":"x","kv":{"codec":{"hot":"int8","warm":4}}})",
       400,
       "kv.codec.warm",
       "string"},
      {"/v1/contexts",
       R"({"name":"a","text":"x","kv":{"codec":{"warm":"int4","cold":"int2"}}})",
       400,
       "kv.codec.hot",
       "required"},
      {"/v1/contexts",
       R"({"name":"a","text":"x","kv":{"codec":{"hot":"int8","tepid":"int4"}}})",
       400,
       "kv.codec.tepid",
       "field"},
      {"/v1/contexts", R"({"name":"a","text":"x","kv":{"tokens":1}})", 400, "kv.tokens", "string"},
      {"/v1/contexts", R"({"name":"a","text":"x","kv":{"keep":2}})", 400, "kv.keep", "from 0"},
      {"/v1/contexts", R"({"name":)", 400, "", "not valid JSON"},
      {"/v1/contexts/doc/append",
       R"({"hash":"0000000000000000","text":"x"})",
       400,
       "offset",
       "required"},
      {"/v1/contexts/doc/append",
       R"({"offset":-4,"hash":"0000000000000000","text":"x"})",
       400,
       "offset",
       "from 0"},
      {"/v1/contexts/doc/append", R"({"offset":4,"text":"x"})", 400, "hash", "required"},
      {"/v1/contexts/doc/append", R"({"offset":4,"hash":"xyz","text":"x"})", 400, "hash", "16 hex"},
      {"/v1/contexts/doc/append",
       R"({"offset":4,"hash":"000000000000000g","text":"x"})",
       400,
       "hash",
       "16 hex"},
      {"/v1/contexts/doc/append",
       R"({"offset":4,"hash":"0000000000000000","text":""})",
       400,
       "text",
       "empty"},
      {"/v1/contexts/none/append",
       R"({"offset":0,"hash":"0000000000000000","text":"x"})",
       404,
       "",
       "no context"},
  };
  HttpClient client = rig.Client();
  for (const Bad& bad : kBad) {
    SCOPED_TRACE(bad.body);
    const ClientResponse response = client.Send("POST", bad.path, bad.body);
    EXPECT_EQ(response.status, bad.status) << response.body;
    EXPECT_EQ(response.error("param"), bad.param);
    EXPECT_THAT(response.error(), HasSubstr(bad.message_part));
  }
  EXPECT_EQ(rig.Get("/v1/contexts").json()["data"].size(), 1U);
}

TEST(Contexts, ANameMayBePercentEncoded) {
  CoordinatorRig rig;
  rig.MakeContext("a.b-c", "text");
  EXPECT_EQ(rig.Get("/v1/contexts/a%2Eb-c").json()["id"], "a.b-c");
  EXPECT_EQ(rig.Get("/v1/contexts/a%2").status, 404);
}

}  // namespace
}  // namespace varve
