#include "coordinator/coordinator.h"

#include <future>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "proto/base/trace.h"
#include "tests/coordinator/coordinator_rig.h"
#include "tests/support/result_matchers.h"

namespace varve {
namespace {

using Json = nlohmann::json;
using testing::HasSubstr;

TEST(Coordinator, ListsItsModel) {
  CoordinatorRig rig;
  const Json list = rig.Get("/v1/models").json();
  EXPECT_EQ(list["object"], "list");
  EXPECT_EQ(list["data"][0]["id"], "fake");
  EXPECT_EQ(list["data"][0]["max_model_len"], 100000);
  EXPECT_EQ(rig.Get("/v1/models/fake").json(), list["data"][0]);
  const ClientResponse unknown = rig.Get("/v1/models/other");
  EXPECT_EQ(unknown.status, 404);
  EXPECT_EQ(unknown.error("code"), "model_not_found");
}

TEST(Coordinator, RefusesUnknownPathsAndVerbs) {
  CoordinatorRig rig;
  HttpClient client = rig.Client();
  for (const char* path : {"/", "/v1", "/v1/nothing", "/v1/contexts/", "/v1/contexts/a/b"}) {
    const ClientResponse response = client.Get(path);
    EXPECT_EQ(response.status, 404) << path;
    EXPECT_THAT(response.error(), HasSubstr(path));
    EXPECT_EQ(response.error("code"), "not_found");
  }
  const ClientResponse verb = client.Get("/v1/completions");
  EXPECT_EQ(verb.status, 405);
  EXPECT_EQ(verb.headers.at("allow"), "POST");
  EXPECT_EQ(verb.error("code"), "method_not_allowed");
  EXPECT_EQ(client.Delete("/v1/contexts").headers.at("allow"), "POST, GET");
  EXPECT_EQ(client.Send("PUT", "/healthz", "x").status, 405);
  EXPECT_EQ(client.Get("/v1/models?limit=5").status, 200);
}

TEST(Coordinator, OpensItsPortBeforeItIsReady) {
  FakeWorkerGroup workers;
  workers.HoldList(true);
  std::promise<uint16_t> listening;
  CoordinatorOptions options;
  options.on_listening = [&](uint16_t port) { listening.set_value(port); };
  auto started = std::async(std::launch::async, [&] {
    return Coordinator::Start(std::move(options), &workers, std::make_unique<FakeTextModel>());
  });
  HttpClient client(listening.get_future().get());
  EXPECT_EQ(client.Get("/healthz").status, 200);
  EXPECT_EQ(client.Get("/readyz").status, 503);
  const ClientResponse refused = client.Get("/v1/models");
  EXPECT_EQ(refused.status, 503);
  EXPECT_EQ(refused.headers.at("retry-after"), "1");
  workers.HoldList(false);
  ASSERT_OK(started.get());
}

TEST(Coordinator, FailsToStartWithAReason) {
  FakeWorkerGroup workers;
  workers.FailList(Error{ErrorCode::kDataDirLocked, "locked"});
  EXPECT_ERROR(Coordinator::Start({}, &workers, std::make_unique<FakeTextModel>()),
               ErrorCode::kDataDirLocked);
  workers.FailList(std::nullopt);
  CoordinatorOptions bad_host;
  bad_host.http.host = "no-address";
  EXPECT_ERROR(Coordinator::Start(bad_host, &workers, std::make_unique<FakeTextModel>()),
               ErrorCode::kInvalidArgument);
  CoordinatorOptions no_model;
  no_model.model_dir = "/nonexistent";
  EXPECT_FALSE(Coordinator::Start(no_model, &workers).has_value());
  auto first = Coordinator::Start({}, &workers, std::make_unique<FakeTextModel>());
  ASSERT_OK(first);
  CoordinatorOptions taken;
  taken.http.port = (*first)->port();
  EXPECT_ERROR(Coordinator::Start(taken, &workers, std::make_unique<FakeTextModel>()),
               ErrorCode::kIoError);
}

TEST(Coordinator, RefusesATokenizerLargerThanTheModel) {
  class LargeTextModel final : public FakeTextModel {
   public:
    int32_t vocab_size() const override { return kFakeVocab + 1; }
  };
  FakeWorkerGroup workers;
  EXPECT_ERROR(Coordinator::Start({}, &workers, std::make_unique<LargeTextModel>()),
               ErrorCode::kBadModel);
}

TEST(Coordinator, LostWorkersMakeItUnready) {
  CoordinatorRig rig;
  EXPECT_EQ(rig.Get("/readyz").status, 200);
  rig.workers.FailNextStep(Error{ErrorCode::kUnavailable, "worker 1 is lost"});
  const ClientResponse lost = rig.Complete({{"prompt", "a"}});
  EXPECT_EQ(lost.status, 503);
  EXPECT_THAT(lost.error(), HasSubstr("worker 1 is lost"));
  const ClientResponse ready = rig.Get("/readyz");
  EXPECT_EQ(ready.status, 503);
  EXPECT_THAT(ready.error(), HasSubstr("worker 1 is lost"));
  EXPECT_EQ(rig.Get("/healthz").status, 200);
  EXPECT_EQ(rig.Complete({{"prompt", "a"}}).status, 503);
  EXPECT_EQ(rig.Post("/v1/contexts", {{"name", "a"}, {"text", "x"}}).status, 503);
}

TEST(Coordinator, DrainsAndStops) {
  CoordinatorRig rig;
  rig.coordinator();
  rig.workers.HoldSteps(true);
  auto running = std::async(std::launch::async, [&] { return rig.Complete({{"prompt", "a"}}); });
  ASSERT_TRUE(rig.workers.WaitUntil([](const FakeWorkerGroup& w) { return w.num_open() == 1; }));
  auto drained =
      std::async(std::launch::async, [&] { rig.coordinator().Drain(int64_t{60} * 1000000); });
  ASSERT_TRUE(Eventually([&] { return rig.Get("/readyz").status == 503; }));
  EXPECT_EQ(rig.Complete({{"prompt", "b"}}).status, 503);
  EXPECT_EQ(rig.Post("/v1/contexts", {{"name", "a"}, {"text", "x"}}).status, 503);
  rig.workers.HoldSteps(false);
  drained.get();
  EXPECT_EQ(running.get().json()["choices"][0]["text"], "a");
  auto waited = std::async(std::launch::async, [&] { rig.coordinator().Wait(); });
  rig.coordinator().Stop();
  waited.get();
  rig.coordinator().Stop();
}

TEST(Coordinator, ExportsMetrics) {
  CoordinatorRig rig;
  rig.Complete({{"prompt", "hello"}});
  rig.Complete({{"prompt", "hello"}, {"max_tokens", 2}});
  rig.Get("/v1/contexts/none");
  rig.Get("/secret/path");
  const ClientResponse metrics = rig.Get("/metrics");
  EXPECT_THAT(metrics.headers.at("content-type"), HasSubstr("text/plain; version=0.0.4"));
  EXPECT_EQ(rig.Metric("varve_prompt_tokens_total"), 12);
  EXPECT_EQ(rig.Metric("varve_generation_tokens_total"), 8);
  EXPECT_EQ(rig.Metric("varve_request_success_total", "finished_reason=\"stop\""), 1);
  EXPECT_EQ(rig.Metric("varve_request_success_total", "finished_reason=\"length\""), 1);
  EXPECT_EQ(rig.Metric("varve_time_to_first_token_seconds_count"), 2);
  EXPECT_EQ(rig.Metric("varve_inter_token_latency_seconds_count"), 6);
  EXPECT_EQ(rig.Metric("varve_e2e_request_latency_seconds_count"), 2);
  EXPECT_EQ(rig.Metric("varve_request_queue_time_seconds_count"), 2);
  EXPECT_EQ(rig.Metric("varve_step_seconds_count"), 8);
  EXPECT_EQ(rig.Metric("varve_num_requests_running"), 0);
  EXPECT_EQ(rig.Metric("varve_num_requests_waiting"), 0);
  EXPECT_EQ(
      rig.Metric("varve_http_requests_total", "model_name=\"fake\",code=\"404\",path=\"other\""),
      1);
  EXPECT_EQ(rig.Metric("varve_http_requests_total", "path=\"/v1/contexts/{name}\""), 1);
  EXPECT_EQ(rig.Metric("varve_tier_budget_bytes", "tier=\"host\",worker=\"1\""), 100);
  EXPECT_EQ(rig.Metric("varve_page_reads_total", "tier=\"disk\",worker=\"1\""), 7);
  EXPECT_EQ(rig.Metric("varve_selective_pages_read_total", "worker=\"1\""), 3);
  EXPECT_EQ(rig.Metric("varve_selective_pages_offered_total", "worker=\"1\""), 11);
  EXPECT_EQ(rig.Metric("varve_ladder_pages", "rung=\"cold\",worker=\"1\""), 4);
  EXPECT_EQ(rig.Metric("varve_ladder_bytes", "rung=\"cold\",worker=\"1\""), 40);
  EXPECT_EQ(rig.Metric("varve_demotions_total", "rung=\"warm\",worker=\"1\""), 6);
  EXPECT_EQ(rig.Metric("varve_demoted_bytes_total", "rung=\"warm\",worker=\"1\""), 60);
  EXPECT_EQ(rig.Metric("varve_demotion_failures_total", "reason=\"write\",worker=\"1\""), 2);
  EXPECT_THAT(metrics.body, testing::Not(HasSubstr("tier=\"device\""))) << "there is none";
  EXPECT_THAT(metrics.body, testing::Not(HasSubstr("secret")));
  for (const char* name : {"varve_tier_used_bytes",
                           "varve_disk_bytes_read_total",
                           "varve_disk_bytes_written_total",
                           "varve_disk_file_bytes_written_total",
                           "varve_checksum_failures_total",
                           "varve_pages",
                           "varve_pages_sealed_total"}) {
    EXPECT_EQ(rig.Metric(name, "worker=\"0\""), 0) << name;
  }
}

TEST(Coordinator, TracesTheTokensPath) {
  CoordinatorRig rig;
  rig.coordinator();
  StartTrace();
  rig.Complete({{"prompt", "a"}, {"max_tokens", 1}});
  std::vector<std::string_view> names;
  for (const TraceEvent& event : StopTrace()) {
    names.push_back(event.name);
  }
  ASSERT_GE(names.size(), 4U);
  names.resize(4);
  EXPECT_THAT(names,
              testing::ElementsAre("coordinator/http_server",
                                   "coordinator/completions_api",
                                   "coordinator/scheduler",
                                   "coordinator/engine"));
}

}  // namespace
}  // namespace varve
