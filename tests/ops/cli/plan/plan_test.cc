#include "ops/cli/plan/plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "proto/base/units.h"
#include "tests/support/result_matchers.h"

#include "ops/cli/bench/step_cost.h"
#include "ops/cli/plan/context_bytes.h"

namespace varve::cli {
namespace {

using testing::HasSubstr;

// Of 8 billion parameters, like Llama 3.1.
ModelConfig Model() {
  ModelConfig model;
  model.vocab_size = 128'256;
  model.hidden_size = 4096;
  model.num_layers = 32;
  model.num_qo_heads = 32;
  model.num_kv_heads = 8;
  model.head_dim = 128;
  model.ffn_size = 14'336;
  model.max_positions = 131'072;
  model.max_positions_because = "max_position_embeddings";
  model.layers.assign(32, {.window = 0, .rope = -1});
  return model;
}

PlanRequest Request(int64_t tokens, const std::string& codec = "int8") {
  PlanRequest request{.model = Model(), .tokens = tokens};
  request.policy.codec = codec;
  return request;
}

Plan PlanOf(const PlanRequest& request, const Machine& machine = *MachinePreset("h100")) {
  Result<Plan> plan = MakePlan(request, machine);
  EXPECT_OK(plan);
  return plan ? *plan : Plan();
}

TEST(Plan, AShortContextIsReadFromTheDeviceOnly) {
  const Plan plan = PlanOf(Request(100'000));
  EXPECT_TRUE(plan.fits && plan.fits_selective);
  EXPECT_EQ(plan.tiers[0].share, 1);
  EXPECT_EQ(plan.tiers[1].page_bytes, 0U);
  EXPECT_TRUE(plan.advice.empty());
  EXPECT_TRUE(plan.warnings.empty());
  EXPECT_NEAR(static_cast<double>(plan.weight_bytes), 16.06e9, 0.1e9);
}

TEST(Plan, TenMillionTokensSpreadOverTiersAndSharesAddUp) {
  const Plan plan = PlanOf(Request(10 << 20));
  EXPECT_TRUE(plan.fits);
  double share = 0;
  for (const PlannedTier& tier : plan.tiers) {
    share += tier.share;
  }
  EXPECT_DOUBLE_EQ(share, 1);
  EXPECT_LT(plan.tiers[0].share, 1);
  EXPECT_LE(plan.tiers[0].page_bytes + plan.tiers[0].other_bytes, plan.tiers[0].budget);
  // Every page lies on disk, too; all workers together have what stores would count.
  uint64_t stored = 0;
  for (int32_t rank = 0; rank < 8; ++rank) {
    const auto own = BytesOfContext(Model().Geometry(), {.codec = "int8"}, 10 << 20, {rank, 8}, 1);
    ASSERT_OK(own);
    stored += own->disk_bytes();
  }
  EXPECT_NEAR(static_cast<double>(plan.context_bytes), static_cast<double>(stored), 1);
  EXPECT_THAT(plan.warnings, testing::ElementsAre(HasSubstr("131072 tokens")));
  EXPECT_THAT(plan.advice, testing::Contains(HasSubstr("--codec int4")));
}

TEST(Plan, WhatItAdvisesHelps) {
  PlanRequest request = Request(10 << 20);
  const Plan before = PlanOf(request);
  ASSERT_THAT(before.advice.front(), HasSubstr("--gpus "));
  request.workers = std::stoi(before.advice.front().substr(7));
  EXPECT_GT(request.workers, 8);
  // Pages do not divide evenly.
  EXPECT_GT(PlanOf(request).tiers[0].share, 0.99);
  request.workers = 8;
  request.policy.codec = "int4";
  EXPECT_EQ(PlanOf(request).tiers[0].share, 1);
}

TEST(Plan, ALadderKeepsMoreInFastTiers) {
  PlanRequest request = Request(10 << 20);
  request.device_budget = 20 * kGiB;
  request.host_budget = 40 * kGiB;
  const Plan flat = PlanOf(request);
  request.policy.warm_codec = "int4";
  request.policy.cold_codec = "rot2";
  const Plan ladder = PlanOf(request);
  EXPECT_GT(flat.tiers[2].share, ladder.tiers[2].share);
  EXPECT_LT(ladder.context_bytes, flat.context_bytes);
  EXPECT_EQ(ladder.tiers[1].codec, "int4");
  EXPECT_LT(ladder.exact.total_s(), flat.exact.total_s());
  request.policy.warm_codec = "bf16";
  EXPECT_ERROR(MakePlan(request, *MachinePreset("h100")), ErrorCode::kInvalidArgument);
}

TEST(Plan, SaysWhyItDoesNotFit) {
  PlanRequest request = Request(10 << 20);
  request.device_budget = kGiB;
  const Plan small = PlanOf(request);
  EXPECT_FALSE(small.fits);
  EXPECT_THAT(small.reasons, testing::ElementsAre(HasSubstr("weights take 1.87 GiB")));
  Machine machine = *MachinePreset("h100");
  machine.disk = 10 * kGiB;
  const Plan full = PlanOf(Request(10 << 20), machine);
  EXPECT_FALSE(full.fits);
  EXPECT_THAT(full.reasons, testing::ElementsAre(HasSubstr("on disk, which has 10.0 GiB")));
  EXPECT_THAT(full.advice, testing::Contains(HasSubstr("of disk hold it")));
  request = Request(10 << 20);
  request.host_budget = kGiB;
  const Plan exact_only = PlanOf(request);
  EXPECT_TRUE(exact_only.fits);
  EXPECT_FALSE(exact_only.fits_selective);
  EXPECT_THAT(exact_only.reasons, testing::ElementsAre(HasSubstr("key sketches")));
}

// The arithmetic of times, with rates that one can reckon with.
TEST(Plan, TimesAreBytesAndOperationsOverRates) {
  Machine machine;
  machine.workers_share = true;
  machine.host_memory = 100 * kGiB;
  machine.read_bandwidth = 1e9;
  machine.host_bandwidth = 1e9;
  machine.disk_bandwidth = 0.5e9;
  machine.flops = 1e12;
  machine.matmul_efficiency = 0.5;
  machine.attention_efficiency = 0.25;
  machine.weights_efficiency = 0.5;
  machine.kv_efficiency = 1;
  machine.layer_us = 100;
  const ModelConfig model = Model();
  const StepCost cost(model, 2, 0);
  const Predictor predictor(machine, model, 1, 2);
  EXPECT_DOUBLE_EQ(predictor.Prefill(1000, 100),
                   (cost.DenseFlops(100) / 0.5 + cost.AttentionFlops(1000, 100) / 0.25) / 1e12);
  const PlannedReads reads{.codec = "int8", .host_bytes = 2e9, .disk_bytes = 1e9};
  PlannedStep step = predictor.Decode(1000, 1, reads);
  EXPECT_DOUBLE_EQ(step.weights_s, cost.WeightBytes() / 0.5e9);
  EXPECT_DOUBLE_EQ(step.attention_s, 3.0 + 2.0);  // all of it from memory, once it is there
  EXPECT_DOUBLE_EQ(step.fixed_s, 32 * 100e-6);
  EXPECT_EQ(step.sketch_s, 0);
  // A codec that takes longer than its bytes.
  machine.codec_work["int8"] = {.decode = 60'000, .per_query = 6'000, .per_row = 512'000};
  step = predictor.Decode(1000, 1, reads);
  EXPECT_DOUBLE_EQ(step.attention_s, 2.0 * 8 * 128 * 32 * 1000 * 100'000 / 1e12 + 2.0);
  // Workers of their own have rates of their own, and their tiers are read at once.
  machine.workers_share = false;
  machine.codec_work.clear();
  const Predictor four(machine, model, 4, 2);
  step = four.Decode(1000, 1, reads);
  EXPECT_DOUBLE_EQ(step.weights_s, cost.WeightBytes() / 2e9);
  EXPECT_DOUBLE_EQ(step.attention_s, 3e9 / 4e9);
}

TEST(Plan, SelectiveAttentionIsBoundedByItsBudget) {
  const Plan one = PlanOf(Request(1 << 20, "int4"));
  const Plan ten = PlanOf(Request(10 << 20, "int4"));
  EXPECT_GT(ten.exact.attention_s, 5 * one.exact.attention_s);
  EXPECT_LT(ten.selective.attention_s, 2 * one.selective.attention_s);
  EXPECT_GT(ten.selective.sketch_s, 5 * one.selective.sketch_s);
  EXPECT_GT(ten.ingest_s, 30 * one.ingest_s);
}

}  // namespace
}  // namespace varve::cli
