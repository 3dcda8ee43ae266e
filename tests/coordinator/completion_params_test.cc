// What requests say of the KV that they read, what they are told of it, and what the metrics say.
#include <cmath>
#include <limits>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/coordinator/coordinator_rig.h"

namespace varve {
namespace {

using Json = nlohmann::json;
using testing::HasSubstr;

struct BadKv {
  const char* kv;
  const char* param;
  const char* message_part;
};

constexpr BadKv kBadKv[] = {
    {R"({"attention":"selective"})", "kv.attention", "\"select\""},
    {R"({"epsilon":0.1})", "kv.epsilon", "needs"},
    {R"({"attention":"exact","delta":0.1})", "kv.delta", "needs"},
    {R"({"budget_tokens":64})", "kv.budget_tokens", "needs"},
    {R"({"attention":"select","epsilon":0})", "kv.epsilon", "0.0001"},
    {R"({"attention":"select","epsilon":2})", "kv.epsilon", "1"},
    {R"({"attention":"select","delta":0.7})", "kv.delta", "0.5"},
    {R"({"attention":"select","budget_tokens":0})", "kv.budget_tokens", "1"},
    {R"({"tokens":"h2o"})", "kv.tokens", "ingested"},
    {R"({"keep":0.5})", "kv.keep", "ingested"},
    {R"({"attention":"magic"})", "kv.attention", "exact"},
    {R"({"codec":"int8"})", "kv.codec", "ingested"},
    {R"("exact")", "kv", "object"},
};

TEST(KvOfRequest, IsRefusedByNameWhereItIsWrong) {
  CoordinatorRig rig;
  for (const BadKv& bad : kBadKv) {
    const ClientResponse response = rig.Complete({{"prompt", "x"}, {"kv", Json::parse(bad.kv)}});
    EXPECT_EQ(response.status, 400) << bad.kv;
    EXPECT_EQ(response.error("param"), bad.param) << bad.kv;
    EXPECT_THAT(response.error(), HasSubstr(bad.message_part)) << bad.kv;
  }
  EXPECT_TRUE(rig.workers.opened().empty());
}

TEST(KvOfRequest, SelectiveAttentionReachesTheWorkersWithItsNumbers) {
  CoordinatorRig rig;
  rig.MakeContext("library", "a long document");
  const auto ask = [&](const Json& kv, const Json& seed) {
    EXPECT_EQ(
        rig.Complete({{"prompt", "x"}, {"context", "library"}, {"kv", kv}, {"seed", seed}}).status,
        200);
    return rig.workers.opened().back();
  };
  EXPECT_FALSE(ask({{"attention", "exact"}}, nullptr).selective);
  const auto plain = ask({{"attention", "select"}}, nullptr).selective;
  ASSERT_TRUE(plain);
  EXPECT_EQ(plain->epsilon, 0.05);
  EXPECT_EQ(plain->delta, 0.01);
  EXPECT_EQ(plain->budget_tokens, 0);
  EXPECT_EQ(plain->seed, 0U) << "the same sample each time";
  const auto given =
      ask({{"attention", "select"}, {"epsilon", 0.2}, {"delta", 0.1}, {"budget_tokens", 4096}}, 17);
  ASSERT_TRUE(given.selective);
  EXPECT_FALSE(given.reads_every_page);
  EXPECT_EQ(given.selective->epsilon, 0.2);
  EXPECT_EQ(given.selective->delta, 0.1);
  EXPECT_EQ(given.selective->budget_tokens, 4096);
  EXPECT_EQ(given.selective->seed, 17U);
}

TEST(KvOfRequest, UsageAndMetricsStateTheErrorOfSelectiveAttention) {
  CoordinatorRig rig;
  rig.MakeContext("library", "a long document");
  const Json request = {
      {"prompt", "hi"}, {"context", "library"}, {"kv", {{"attention", "select"}}}};
  rig.workers.ReadPagesByChoice(
      {.read = 2, .total = 10, .error_bound = 0.03F, .missed_mass = 0.5, .num_missed_masses = 2});
  const Json usage = rig.Complete(request).json()["usage"];
  EXPECT_EQ(usage["pages_read"], 6);  // three steps
  EXPECT_FLOAT_EQ(usage["attention_error_bound"], 0.03F);
  EXPECT_DOUBLE_EQ(usage["missed_mass_estimate"], 0.25);
  rig.workers.ReadPagesByChoice(
      {.read = 2, .total = 10, .error_bound = std::numeric_limits<float>::infinity()});
  const Json unknown = rig.Complete(request).json()["usage"];
  EXPECT_TRUE(unknown["attention_error_bound"].is_null()) << unknown;
  EXPECT_EQ(rig.Metric("varve_attention_error_bound_count"), 2);
  EXPECT_EQ(rig.Metric("varve_attention_error_bound_bucket", "le=\"0.02\""), 0);
  EXPECT_EQ(rig.Metric("varve_attention_error_bound_bucket", "le=\"0.05\""), 1);
  EXPECT_EQ(rig.Metric("varve_attention_missed_mass_count"), 2);
}

TEST(KvOfRequest, WhatTheQualityMeterSawIsCountedByCodecAndPolicy) {
  CoordinatorRig rig;
  rig.MakeContext("library", "a long document");
  rig.workers.ReadPagesByChoice({.read = 2, .total = 10});
  rig.workers.SampleQuality({{.error = 0.04F, .mass_recall = 0.9F}, {.error = 0.3F}});
  const Json request = {{"prompt", "hi"}, {"context", "library"}};
  rig.Complete(request);
  Json selective = request;
  selective["kv"]["attention"] = "select";
  rig.Complete(selective);
  // Two samples in each of three steps.
  for (const char* policy : {"policy=\"all\"", "policy=\"select\""}) {
    EXPECT_EQ(rig.Metric("varve_sampled_attention_error_count", policy), 6) << policy;
    EXPECT_EQ(rig.Metric("varve_sampled_mass_recall_count", policy), 6) << policy;
  }
  EXPECT_EQ(rig.Metric("varve_sampled_attention_error_count", "codec=\"int8\""), 6);
  EXPECT_NEAR(rig.Metric("varve_sampled_attention_error_sum", "policy=\"select\""), 1.02, 1e-6);
}

// Of all steps of the request, in one piece and streamed.
TEST(KvOfRequest, UsageSaysWhatWasReadOfAContextByChoice) {
  CoordinatorRig rig;
  rig.MakeContext("library", "a long document");
  const Json whole = rig.Complete({{"prompt", "hi"}, {"context", "library"}}).json();
  EXPECT_FALSE(whole["usage"].contains("pages_read"));
  EXPECT_FALSE(whole["usage"].contains("pages_total"));
  rig.workers.ReadPagesByChoice({.read = 2, .total = 10});
  // Three steps: the prompt draws 'h', then come 'i' and the end.
  const Json chosen = rig.Complete({{"prompt", "hi"}, {"context", "library"}}).json();
  EXPECT_EQ(chosen["usage"]["pages_read"], 6) << chosen;
  EXPECT_EQ(chosen["usage"]["pages_total"], 30);
  EXPECT_FALSE(rig.Complete({{"prompt", "hi"}}).json()["usage"].contains("pages_read"));
  HttpClient client = rig.Client();
  const std::string body =
      R"({"model":"fake","messages":[{"role":"user","content":"hi"}],"context":"library",)"
      R"("temperature":0,"max_tokens":2,"stream":true,"stream_options":{"include_usage":true}})";
  client.Write("POST /v1/chat/completions HTTP/1.1\r\nContent-Length: " +
               std::to_string(body.size()) + "\r\n\r\n" + body);
  const std::vector<std::string> events = client.ReadResponse().events();
  ASSERT_GE(events.size(), 2U);
  const Json usage = Json::parse(events[events.size() - 2])["usage"];
  EXPECT_EQ(usage["pages_read"], 4) << usage;
  EXPECT_EQ(usage["pages_total"], 20);
}

}  // namespace
}  // namespace varve
