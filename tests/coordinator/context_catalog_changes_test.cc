// Forks, pins and times to live, as HTTP has them.
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "proto/base/hash.h"
#include "tests/coordinator/coordinator_rig.h"
#include "tests/coordinator/test_clock.h"

namespace varve {
namespace {

using Json = nlohmann::json;
using testing::HasSubstr;

Json AppendBody(uint64_t offset, const std::string& prefix, const std::string& text) {
  return {{"offset", offset}, {"hash", HashToHex(Hash64(prefix))}, {"text", text}};
}

TEST(ContextChanges, AForkBeginsWithWhatItsParentHas) {
  CoordinatorRig rig;
  rig.MakeContext("doc", "one two");
  const ClientResponse forked = rig.Post("/v1/contexts/doc/fork", {{"name", "draft"}});
  ASSERT_EQ(forked.status, 201) << forked.body;
  EXPECT_EQ(forked.json()["status"], "ready");
  EXPECT_EQ(forked.json()["parent"], "doc");
  EXPECT_EQ(forked.json()["tokens"], 8);
  EXPECT_EQ(forked.json()["usage"]["shared_disk_bytes"], 88);
  EXPECT_TRUE(rig.Get("/v1/contexts/doc").json()["parent"].is_null());
  EXPECT_EQ(rig.Post("/v1/contexts/draft/append", AppendBody(7, "one two", " three")).status, 202);
  ASSERT_TRUE(rig.WaitForStatus("draft", "ready"));
  EXPECT_EQ(rig.workers.Stored("draft")->text, "one two three");
  EXPECT_EQ(rig.workers.Stored("draft")->manifest.tail, TailRef{});
  EXPECT_EQ(rig.workers.Stored("doc")->text, "one two");
  EXPECT_EQ(rig.Client().Delete("/v1/contexts/doc").status, 200);
  EXPECT_EQ(rig.Complete({{"context", "draft"}, {"prompt", "x"}}).status, 200);
}

TEST(ContextChanges, AForkThatCannotBeIsRefused) {
  CoordinatorRig rig;
  rig.MakeContext("doc", "one");
  EXPECT_EQ(rig.Post("/v1/contexts/none/fork", {{"name", "x"}}).error("code"), "context_not_found");
  EXPECT_EQ(rig.Post("/v1/contexts/doc/fork", {{"name", "doc"}}).status, 409);
  EXPECT_EQ(rig.Post("/v1/contexts/doc/fork", {{"name", "a/b"}}).status, 400);
  EXPECT_EQ(rig.Post("/v1/contexts/doc/fork", {{"title", "x"}}).status, 400);
  EXPECT_EQ(rig.Client().Send("POST", "/v1/contexts/doc/fork", "[]").status, 400);
  rig.workers.HoldSteps(true);
  EXPECT_EQ(rig.Post("/v1/contexts", {{"name", "new"}, {"text", "text"}}).status, 202);
  rig.workers.HoldSteps(false);
  ASSERT_TRUE(rig.WaitForStatus("new", "ready"));
  rig.workers.FailManifests(Error{ErrorCode::kIoError, "the disk is gone"});
  const ClientResponse failed = rig.Post("/v1/contexts/doc/fork", {{"name", "x"}});
  EXPECT_EQ(failed.status, 500);
  EXPECT_THAT(failed.error(), HasSubstr("the disk is gone"));
  EXPECT_EQ(rig.Client().Send("PATCH", "/v1/contexts/doc", R"({"pinned":true})").status, 500);
  EXPECT_EQ(rig.Get("/v1/contexts/doc").json()["pinned"], false);
  rig.workers.FailManifests(std::nullopt);
  EXPECT_EQ(rig.Get("/v1/contexts/x").status, 404);
  EXPECT_EQ(rig.Post("/v1/contexts/doc/fork", {{"name", "x"}}).status, 201);
}

TEST(ContextChanges, ArePinnedAndGivenATimeToLive) {
  CoordinatorRig rig;
  EXPECT_EQ(
      rig.Post("/v1/contexts", {{"name", "doc"}, {"text", "one"}, {"ttl_seconds", 3600}}).status,
      202);
  ASSERT_TRUE(rig.WaitForStatus("doc", "ready"));
  Json shown = rig.Get("/v1/contexts/doc").json();
  EXPECT_EQ(shown["ttl_seconds"], 3600);
  EXPECT_EQ(shown["expires_at"].get<int64_t>(), shown["last_used_at"].get<int64_t>() + 3600);
  EXPECT_EQ(rig.workers.Stored("doc")->manifest.attributes.ttl_s, 3600);
  const auto patch = [&](const std::string& body) {
    return rig.Client().Send("PATCH", "/v1/contexts/doc", body);
  };
  shown = patch(R"({"pinned":true})").json();
  EXPECT_EQ(shown["pinned"], true);
  EXPECT_EQ(shown["ttl_seconds"], 3600);
  EXPECT_TRUE(shown["expires_at"].is_null());
  EXPECT_TRUE(rig.workers.Stored("doc")->manifest.attributes.pinned);
  shown = patch(R"({"pinned":false,"ttl_seconds":null})").json();
  EXPECT_EQ(shown["pinned"], false);
  EXPECT_TRUE(shown["ttl_seconds"].is_null());
  EXPECT_EQ(patch("{}").status, 400);
  EXPECT_EQ(patch(R"({"ttl_seconds":0})").status, 400);
  EXPECT_EQ(patch(R"({"name":"other"})").status, 400);
  EXPECT_EQ(patch("pinned").status, 400);
  EXPECT_EQ(rig.Client().Send("PATCH", "/v1/contexts/none", R"({"pinned":true})").status, 404);
  EXPECT_EQ(rig.Client().Send("PATCH", "/v1/contexts/doc", "{}", "text/plain").status, 415);
  // A commit keeps them.
  patch(R"({"pinned":true})");
  EXPECT_EQ(rig.Post("/v1/contexts/doc/append", AppendBody(3, "one", " two")).status, 202);
  ASSERT_TRUE(rig.WaitForStatus("doc", "ready"));
  EXPECT_EQ(rig.Get("/v1/contexts/doc").json()["tokens"], 8);
  EXPECT_TRUE(rig.workers.Stored("doc")->manifest.attributes.pinned);
}

TEST(ContextChanges, AreDeletedWhenTheirTimeToLiveIsOver) {
  TestClock clock;
  CoordinatorOptions options;
  options.clock = &clock;
  options.expiry_interval_ms = 1;
  CoordinatorRig rig(std::move(options));
  rig.MakeContext("stays", "text");
  for (const std::string name : {"goes", "pinned", "used"}) {
    EXPECT_EQ(
        rig.Post("/v1/contexts", {{"name", name}, {"text", "x"}, {"ttl_seconds", 100}}).status,
        202);
    ASSERT_TRUE(rig.WaitForStatus(name, "ready"));
  }
  rig.Client().Send("PATCH", "/v1/contexts/pinned", R"({"pinned":true})");
  clock.AdvanceS(60);
  EXPECT_EQ(rig.Complete({{"context", "used"}, {"prompt", "x"}}).status, 200);
  // The use is written down without another one: it lags by more than a sixteenth.
  EXPECT_TRUE(Eventually([&] {
    return rig.workers.Stored("used")->manifest.attributes.last_used_unix_s == clock.UnixTimeS();
  }));
  clock.AdvanceS(60);
  EXPECT_TRUE(Eventually([&] { return rig.Get("/v1/contexts/goes").status == 404; }));
  EXPECT_TRUE(Eventually([&] { return rig.Metric("varve_contexts_expired_total") == 1; }));
  EXPECT_FALSE(rig.workers.Stored("goes"));
  for (const std::string name : {"stays", "pinned", "used"}) {
    EXPECT_EQ(rig.Get("/v1/contexts/" + name).status, 200) << name;
  }
  clock.AdvanceS(60);
  EXPECT_TRUE(Eventually([&] { return rig.Get("/v1/contexts/used").status == 404; }));
  EXPECT_EQ(rig.Get("/v1/contexts/pinned").status, 200);
}

TEST(ContextChanges, AreNotDeletedWhileARequestUsesThem) {
  TestClock clock;
  CoordinatorOptions options;
  options.clock = &clock;
  options.expiry_interval_ms = 1;
  CoordinatorRig rig(std::move(options));
  for (const std::string name : {"used", "goes"}) {
    EXPECT_EQ(
        rig.Post("/v1/contexts", {{"name", name}, {"text", "x"}, {"ttl_seconds", 100}}).status,
        202);
    ASSERT_TRUE(rig.WaitForStatus(name, "ready"));
  }
  rig.workers.HoldSteps(true);
  std::thread request([&] {
    EXPECT_EQ(rig.Complete({{"context", "used"}, {"prompt", "x"}}).status, 200);
  });
  EXPECT_TRUE(rig.workers.WaitUntil([](const auto& workers) { return workers.num_open() == 1; }));
  clock.AdvanceS(200);
  rig.workers.ReleaseSteps(1);  // commands are taken between two steps
  EXPECT_TRUE(Eventually([&] {
    rig.workers.ReleaseSteps(1);
    return rig.Get("/v1/contexts/goes").status == 404;
  }));
  EXPECT_EQ(rig.Get("/v1/contexts/used").status, 200);
  rig.workers.HoldSteps(false);
  request.join();
}

}  // namespace
}  // namespace varve
