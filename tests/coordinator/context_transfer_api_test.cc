#include "coordinator/context_transfer_api.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/coordinator/coordinator_rig.h"
#include "tests/coordinator/test_clock.h"

namespace varve {
namespace {

using Json = nlohmann::json;
using testing::HasSubstr;

ClientResponse ImportPart(CoordinatorRig& rig,
                          const std::string& name,
                          const std::string& query,
                          const std::string& bytes) {
  return rig.Client().Send(
      "POST", "/v1/contexts/" + name + "/import?" + query, bytes, "application/octet-stream");
}

TEST(ContextTransfers, AreExportedAsAStream) {
  CoordinatorRig rig;
  rig.MakeContext("doc", "one");
  const ClientResponse file = rig.Get("/v1/contexts/doc/export");
  EXPECT_EQ(file.status, 200);
  EXPECT_EQ(file.body, "file of doc");
  EXPECT_EQ(file.headers.at("content-type"), "application/octet-stream");
  EXPECT_EQ(rig.Get("/v1/contexts/none/export").error("code"), "context_not_found");
  rig.workers.FailManifests(Error{ErrorCode::kUnsupported, "nothing is durable"});
  EXPECT_EQ(rig.Get("/v1/contexts/doc/export").status, 400);
  rig.workers.FailManifests(std::nullopt);
  // A failure behind the first bytes closes the connection: the body has no end.
  rig.MakeContext("damaged", "one");
  HttpClient client = rig.Client();
  client.Write("GET /v1/contexts/damaged/export HTTP/1.1\r\nHost: x\r\n\r\n");
  const std::string raw = client.ReadUntilClose();
  EXPECT_THAT(raw, HasSubstr("file of "));
  EXPECT_THAT(raw, testing::Not(HasSubstr("\r\n0\r\n\r\n")));
  // The lease is given back.
  EXPECT_EQ(rig.Client().Delete("/v1/contexts/damaged").status, 200);
  EXPECT_EQ(rig.Client().Delete("/v1/contexts/doc").status, 200);
}

TEST(ContextTransfers, AreImportedInParts) {
  CoordinatorRig rig;
  const ClientResponse first = ImportPart(rig, "doc", "offset=0", "all of ");
  EXPECT_EQ(first.status, 202) << first.body;
  EXPECT_EQ(first.json()["received_bytes"], 7);
  EXPECT_EQ(rig.Complete({{"context", "doc"}, {"prompt", "x"}}).status, 409) << "not there yet";
  EXPECT_EQ(rig.Post("/v1/contexts", {{"name", "doc"}, {"text", "x"}}).status, 409) << "taken";
  const ClientResponse skipped = ImportPart(rig, "doc", "offset=9", "it.");
  EXPECT_EQ(skipped.status, 409);
  EXPECT_THAT(skipped.error(), HasSubstr("7 bytes"));
  const ClientResponse last = ImportPart(rig, "doc", "offset=7&last=1", "it.");
  ASSERT_EQ(last.status, 201) << last.body;
  EXPECT_EQ(last.json()["status"], "ready");
  EXPECT_EQ(last.json()["tokens"], 10);
  EXPECT_EQ(rig.workers.Stored("doc")->text, "all of it.");
  EXPECT_EQ(rig.Complete({{"context", "doc"}, {"prompt", "x"}}).status, 200);
  EXPECT_EQ(ImportPart(rig, "doc", "offset=0", "again").status, 409);
  EXPECT_EQ(ImportPart(rig, "other", "offset=7", "x").status, 409) << "none is under way";
  // Begun again, it begins from nothing.
  EXPECT_EQ(ImportPart(rig, "other", "offset=0", "lost").status, 202);
  EXPECT_EQ(ImportPart(rig, "other", "offset=0&last=1", "whole.").status, 201);
  EXPECT_EQ(rig.workers.Stored("other")->text, "whole.");
}

TEST(ContextTransfers, AnImportThatFailsLeavesNothing) {
  TestClock clock;
  CoordinatorOptions options;
  options.clock = &clock;
  CoordinatorRig rig(std::move(options));
  EXPECT_EQ(ImportPart(rig, "doc", "offset=0", "damaged!").status, 500);
  EXPECT_EQ(rig.Get("/v1/contexts/doc").status, 404);
  EXPECT_EQ(ImportPart(rig, "doc", "offset=0&last=1", "cut").status, 400);
  EXPECT_EQ(rig.Get("/v1/contexts/doc").status, 404);
  for (const std::string query : {"", "offset=", "offset=1x", "last=1", "offset=0&first=1"}) {
    EXPECT_EQ(ImportPart(rig, "doc", query, "whole.").status, 400) << query;
  }
  EXPECT_EQ(ImportPart(rig, "a%2Fb", "offset=0&last=1", "whole.").status, 400);
  rig.workers.FailManifests(Error{ErrorCode::kUnsupported, "nothing is durable"});
  EXPECT_EQ(ImportPart(rig, "doc", "offset=0", "whole.").status, 400);
  rig.workers.FailManifests(std::nullopt);
  // A client that is gone is forgotten after ten minutes, when somebody else comes.
  EXPECT_EQ(ImportPart(rig, "doc", "offset=0", "half").status, 202);
  EXPECT_EQ(rig.Get("/v1/contexts/doc").status, 200);
  clock.AdvanceS(601);
  EXPECT_EQ(ImportPart(rig, "else", "offset=0", "half").status, 202);
  EXPECT_EQ(rig.Get("/v1/contexts/doc").status, 404);
  EXPECT_EQ(ImportPart(rig, "doc", "offset=0&last=1", "whole.").status, 201);
}

}  // namespace
}  // namespace varve
