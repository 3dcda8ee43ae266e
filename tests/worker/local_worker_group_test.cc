#include "worker/local_worker_group.h"

#include <atomic>
#include <filesystem>
#include <set>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "proto/base/rng.h"
#include "tests/support/temp_dir.h"
#include "tests/worker/group_rig.h"

namespace varve {
namespace {

using testing::HasSubstr;

constexpr const char* kModel = "smollm3";  // sliding and global layers, with and without positions

std::vector<int32_t> Tokens(uint64_t seed, size_t count) {
  Rng rng(seed);
  std::vector<int32_t> tokens(count);
  for (int32_t& token : tokens) {
    token = static_cast<int32_t>(rng.Below(96));
  }
  return tokens;
}

LocalWorkerGroupOptions Options(int num_workers, const std::string& data_dir = "") {
  return {.model_dir = GoldenDir(kModel),
          .num_workers = num_workers,
          .num_threads = 2,
          .data_dir = data_dir,
          .host_budget_bytes = uint64_t{256} << 20};
}

ContextManifest NewContext(const LocalWorkerGroup& group, const KvPolicy& policy, uint64_t id = 7) {
  return {.id = {id},
          .name = "doc" + std::to_string(id),
          .model_hash = group.model().model_hash,
          .policy = policy};
}

// Feeds `tokens` to the open ingest and commits them as the next version.
void IngestAndCommit(GroupRig& rig,
                     SequenceId sequence,
                     ContextManifest& manifest,
                     const std::vector<int32_t>& tokens) {
  rig.Feed(sequence, tokens, 50, manifest.num_tokens);
  manifest.num_tokens += static_cast<int64_t>(tokens.size());
  manifest.version += 1;
  const std::string text = "text of version " + std::to_string(manifest.version) + ". ";
  manifest.text_bytes += text.size();
  ASSERT_OK(rig.group().CommitContext(sequence, manifest, {.tokens = tokens, .text = text}));
}

TEST(LocalWorkerGroup, DescribesItsModel) {
  GroupRig rig(Options(3));
  EXPECT_EQ(rig.group().num_workers(), 3);
  const ModelDescription& model = rig.group().model();
  EXPECT_EQ(model.name, kModel);
  EXPECT_EQ(model.architecture, "SmolLM3ForCausalLM");
  EXPECT_EQ(model.vocab_size, 96);
  EXPECT_EQ(model.max_positions, 1024);
  EXPECT_EQ(model.num_layers, 4);
  EXPECT_NE(model.model_hash, 0U);
  EXPECT_GT(model.weight_bytes, 100'000U);
  EXPECT_EQ(rig.group().Stats().size(), 3U);
}

TEST(LocalWorkerGroup, RefusesBadOptionsAndModels) {
  const auto open = [](const std::function<void(LocalWorkerGroupOptions&)>& change) {
    LocalWorkerGroupOptions options = Options(1);
    change(options);
    return LocalWorkerGroup::Open(options);
  };
  EXPECT_ERROR(open([](auto& o) { o.num_workers = 0; }), ErrorCode::kInvalidArgument);
  EXPECT_ERROR(open([](auto& o) { o.num_workers = 100000; }), ErrorCode::kInvalidArgument);
  EXPECT_ERROR(open([](auto& o) { o.num_threads = -1; }), ErrorCode::kInvalidArgument);
  EXPECT_ERROR(open([](auto& o) { o.max_step_tokens = 0; }), ErrorCode::kInvalidArgument);
  EXPECT_ERROR(open([](auto& o) { o.max_step_sequences = 0; }), ErrorCode::kInvalidArgument);
  const auto missing = open([](auto& o) { o.model_dir = "/nonexistent"; });
  ASSERT_FALSE(missing.has_value());
  EXPECT_THAT(missing.error().message, HasSubstr("/nonexistent"));
  TempDir directory;
  WriteText(directory.File("config.json"), R"({"model_type":"t5"})");
  EXPECT_ERROR(open([&](auto& o) { o.model_dir = directory.path(); }), ErrorCode::kUnsupported);
}

// Page p of a sequence lies on one worker, the next page on the next.
TEST(LocalWorkerGroup, EachWorkerHoldsOnlyItsOwnPages) {
  for (const int workers : {1, 2, 3, 8}) {
    SCOPED_TRACE(workers);
    GroupRig rig(Options(workers));
    const KvPolicy policy = ExactPolicy(/*page_tokens=*/8);
    constexpr int64_t kTokens = 203;
    const SequenceId sequence = rig.OpenPrivate(policy);
    rig.Feed(sequence, Tokens(1, kTokens), 64);
    std::map<std::pair<int32_t, int64_t>, int> owner;  // (layer, page) -> worker
    for (int worker = 0; worker < workers; ++worker) {
      for (const KvStore::HeldPage& page : rig.group().HeldPages(worker)) {
        EXPECT_EQ(page.owner, sequence.value);
        EXPECT_TRUE(page.is_private);
        EXPECT_TRUE(owner.emplace(std::pair(page.layer, page.page), worker).second)
            << "layer " << page.layer << " page " << page.page << " is held twice";
      }
    }
    const int64_t num_pages = (kTokens + 7) / 8;
    for (int64_t page = 0; page < num_pages; ++page) {
      for (const int32_t layer : {1, 3}) {  // the global layers hold everything
        ASSERT_TRUE(owner.contains({layer, page})) << "layer " << layer << " page " << page;
        EXPECT_EQ(owner.at({layer, page}), (owner.at({layer, 0}) + page) % workers);
      }
    }
  }
}

TEST(LocalWorkerGroup, RefusesStepsThatAreOver) {
  GroupRig rig(Options(2));
  LocalWorkerGroup& group = rig.group();
  const SequenceId sequence = rig.OpenPrivate(ExactPolicy());
  const auto step = [&](uint32_t epoch, uint64_t number, int64_t position) {
    return group.Step(
        {.epoch = {epoch},
         .step = number,
         .work = {{.sequence = sequence, .first_position = position, .tokens = {1}}}});
  };
  ASSERT_OK(step(3, 5, 0));
  EXPECT_ERROR(step(3, 5, 1), ErrorCode::kStaleEpoch);
  EXPECT_ERROR(step(3, 4, 1), ErrorCode::kStaleEpoch);
  EXPECT_ERROR(step(2, 9, 1), ErrorCode::kStaleEpoch);
  EXPECT_FALSE(step(3, 6, 1)->results[0].error);
  EXPECT_FALSE(step(4, 1, 2)->results[0].error);
}

TEST(LocalWorkerGroup, FailsSequencesOneByOne) {
  GroupRig rig(Options(2));
  const SequenceId good = rig.OpenPrivate(ExactPolicy());
  const SequenceId wrong_position = rig.OpenPrivate(ExactPolicy());
  const SequenceId bad_token = rig.OpenPrivate(ExactPolicy());
  const SequenceId too_long = rig.OpenPrivate(ExactPolicy());
  const Result<StepResult> result =
      rig.Step({{.sequence = {999}, .tokens = {1}},
                {.sequence = wrong_position, .first_position = 5, .tokens = {1}},
                {.sequence = bad_token, .tokens = {96}},
                {.sequence = bad_token, .tokens = {-1}},
                {.sequence = good, .tokens = {1, 2}, .sample = true},
                {.sequence = good, .tokens = {3}},
                {.sequence = too_long, .first_position = 1024, .tokens = {1}},
                {.sequence = too_long, .tokens = {}},
                {.sequence = too_long, .first_position = -1, .tokens = {1}}});
  ASSERT_OK(result);
  const auto code = [&](size_t i) {
    return result->results[i].error ? result->results[i].error->code : ErrorCode{};
  };
  EXPECT_EQ(code(0), ErrorCode::kNotFound);
  EXPECT_EQ(code(1), ErrorCode::kConflict);
  EXPECT_EQ(code(2), ErrorCode::kInvalidArgument);
  EXPECT_EQ(code(3), ErrorCode::kInvalidArgument);
  EXPECT_FALSE(result->results[4].error);
  EXPECT_TRUE(result->results[4].sampled);
  EXPECT_EQ(code(5), ErrorCode::kInvalidArgument);
  EXPECT_EQ(code(6), ErrorCode::kContextLength);
  EXPECT_THAT(result->results[6].error->message, HasSubstr("max_position_embeddings"));
  EXPECT_EQ(code(7), ErrorCode::kInvalidArgument);
  EXPECT_EQ(code(8), ErrorCode::kInvalidArgument);
}

TEST(LocalWorkerGroup, RefusesStepsOverItsLimits) {
  LocalWorkerGroupOptions options = Options(2);
  options.max_step_tokens = 10;
  options.max_step_sequences = 2;
  GroupRig rig(options);
  std::vector<SequenceWork> work;
  for (int i = 0; i < 3; ++i) {
    work.push_back({.sequence = rig.OpenPrivate(ExactPolicy()), .tokens = Tokens(1, 5)});
  }
  EXPECT_ERROR(rig.Step(work), ErrorCode::kInvalidArgument);
  work.pop_back();
  work[1].tokens = Tokens(1, 8);
  EXPECT_ERROR(rig.Step(work), ErrorCode::kInvalidArgument);
  work[1].tokens = Tokens(1, 7);
  EXPECT_OK(rig.Step(work));
  EXPECT_OK(rig.Step({}));
}

TEST(LocalWorkerGroup, SequencesOpenOnceAndClose) {
  GroupRig rig(Options(3));
  const SequenceId sequence = rig.OpenPrivate(ExactPolicy());
  EXPECT_ERROR(rig.group().OpenSequence(sequence, {.policy = ExactPolicy()}),
               ErrorCode::kAlreadyExists);
  rig.Feed(sequence, Tokens(1, 40), 40);
  ASSERT_OK(rig.group().CloseSequence(sequence));
  EXPECT_ERROR(rig.group().CloseSequence(sequence), ErrorCode::kNotFound);
  for (int worker = 0; worker < 3; ++worker) {
    EXPECT_TRUE(rig.group().HeldPages(worker).empty());
  }
  EXPECT_ERROR(rig.group().OpenSequence({50}, {.base = ContextId{4}, .policy = ExactPolicy()}),
               ErrorCode::kNotFound);
}

class ContextsOfGroup : public testing::TestWithParam<bool> {
 protected:
  std::string DataDir() const { return GetParam() ? directory_.File("data") : ""; }
  TempDir directory_;
};

// What a request reads of a context is what it would have computed from the same tokens itself.
TEST_P(ContextsOfGroup, RequestsContinueACommittedContext) {
  for (const int workers : {1, 3, 8}) {
    GroupRig rig(
        Options(workers, GetParam() ? directory_.File("data" + std::to_string(workers)) : ""));
    ContextManifest manifest = NewContext(rig.group(), ExactPolicy());
    ASSERT_OK(rig.group().CreateContext(manifest));
    EXPECT_TRUE(rig.group().ListContexts()->empty()) << "nothing is committed yet";
    const SequenceId ingest = rig.OpenOn({.context = manifest.id});
    const std::vector<int32_t> document = Tokens(1, 150);
    const std::vector<int32_t> question = Tokens(2, 21);
    IngestAndCommit(rig, ingest, manifest, document);
    ASSERT_EQ(rig.group().ListContexts()->size(), 1U);
    EXPECT_EQ(*rig.group().ReadContextText(manifest.id), "text of version 1. ");
    EXPECT_EQ(*rig.group().ReadContextTokens(manifest.id), document);

    const SequenceId request = rig.OpenOn(
        {.base = manifest.id, .base_tokens = manifest.num_tokens, .policy = ExactPolicy()});
    const std::vector<float> logits = rig.Feed(request, question, 10, manifest.num_tokens);
    std::vector<int32_t> all = document;
    all.insert(all.end(), question.begin(), question.end());
    const std::vector<float> whole = rig.Feed(rig.OpenPrivate(ExactPolicy()), all, 64);
    EXPECT_LE(RelativeDifference(logits, std::span(whole).last(logits.size())), 1e-5)
        << workers << " workers";
    const Result<ContextUsage> usage = rig.group().GetContextUsage(manifest.id);
    ASSERT_OK(usage);
    EXPECT_GT(usage->num_pages, 0);
  }
}

TEST_P(ContextsOfGroup, RefusesWhatDoesNotFitItsState) {
  GroupRig rig(Options(2, DataDir()));
  LocalWorkerGroup& group = rig.group();
  ContextManifest manifest = NewContext(group, ExactPolicy());
  ContextManifest foreign = manifest;
  foreign.model_hash ^= 1;
  EXPECT_ERROR(group.CreateContext(foreign), ErrorCode::kModelMismatch);
  ASSERT_OK(group.CreateContext(manifest));
  EXPECT_ERROR(group.CreateContext(manifest), ErrorCode::kAlreadyExists);
  ContextManifest same_name = manifest;
  same_name.id = {8};
  EXPECT_ERROR(group.CreateContext(same_name), ErrorCode::kAlreadyExists);
  ContextManifest bad_policy = NewContext(group, PolicyOf("zip", "f32"), 9);
  EXPECT_FALSE(group.CreateContext(bad_policy).has_value());
  EXPECT_ERROR(group.ReadContextText({9}), ErrorCode::kNotFound);

  const SequenceId ingest = rig.OpenOn({.context = manifest.id});
  EXPECT_ERROR(group.OpenSequence({77}, {.context = manifest.id}), ErrorCode::kConflict);
  EXPECT_ERROR(group.DeleteContext(manifest.id), ErrorCode::kConflict);
  ContextManifest early = manifest;
  early.version = 1;
  early.num_tokens = 10;
  EXPECT_FALSE(group.CommitContext(ingest, early, {}).has_value()) << "nothing was ingested";
  IngestAndCommit(rig, ingest, manifest, Tokens(1, 30));
  ASSERT_OK(group.CloseSequence(ingest));
  ASSERT_OK(group.DeleteContext(manifest.id));
  EXPECT_ERROR(group.DeleteContext(manifest.id), ErrorCode::kNotFound);
  EXPECT_ERROR(group.ReadContextTokens(manifest.id), ErrorCode::kNotFound);
  EXPECT_ERROR(group.GetContextUsage(manifest.id), ErrorCode::kNotFound);
  EXPECT_ERROR(group.CommitContext(ingest, manifest, {}), ErrorCode::kNotFound);
  EXPECT_TRUE(group.ListContexts()->empty());
  for (int worker = 0; worker < 2; ++worker) {
    EXPECT_TRUE(group.HeldPages(worker).empty());
  }
}

INSTANTIATE_TEST_SUITE_P(MemoryAndDisk, ContextsOfGroup, testing::Bool(), [](const auto& info) {
  return info.param ? "Disk" : "Memory";
});

// Reopened contexts answer with the same bits, without any prefill; also after a second commit, and
// with another codec.
TEST(LocalWorkerGroupDurability, ReopenedContextsGiveIdenticalLogits) {
  for (const int workers : {1, 3, 8}) {
    for (const char* codec : {"f32", "int8"}) {
      SCOPED_TRACE(testing::Message() << workers << " workers, codec " << codec);
      TempDir directory;
      GroupRig rig(Options(workers, directory.File("data")));
      ContextManifest manifest = NewContext(rig.group(), PolicyOf(codec, "bf16"));
      ASSERT_OK(rig.group().CreateContext(manifest));
      const SequenceId ingest = rig.OpenOn({.context = manifest.id});
      IngestAndCommit(rig, ingest, manifest, Tokens(1, 150));
      IngestAndCommit(rig, ingest, manifest, Tokens(2, 77));
      rig.Feed(ingest, Tokens(3, 30), 30, manifest.num_tokens);  // never committed
      const std::vector<int32_t> question = Tokens(4, 12);
      const auto ask = [&] {
        const SequenceId request = rig.OpenOn({.base = manifest.id,
                                               .base_tokens = manifest.num_tokens,
                                               .policy = PolicyOf(codec, "bf16")});
        std::vector<float> logits = rig.Feed(request, question, 5, manifest.num_tokens);
        EXPECT_OK(rig.group().CloseSequence(request));
        return logits;
      };
      const std::vector<float> before = ask();
      rig.Reopen();
      const Result<std::vector<ContextManifest>> contexts = rig.group().ListContexts();
      ASSERT_OK(contexts);
      ASSERT_EQ(contexts->size(), 1U);
      EXPECT_EQ(contexts->front().num_tokens, 227);
      EXPECT_EQ(*rig.group().ReadContextText(manifest.id),
                "text of version 1. text of version 2. ");
      EXPECT_EQ(rig.group().ReadContextTokens(manifest.id)->size(), 227U);
      EXPECT_EQ(ask(), before);

      // And the ingest goes on where it stood.
      const SequenceId resumed = rig.OpenOn({.context = manifest.id});
      IngestAndCommit(rig, resumed, manifest, Tokens(5, 20));
      EXPECT_EQ(ask().size(), before.size());
    }
  }
}

TEST(LocalWorkerGroupDurability, AnotherNumberOfWorkersReadsTheSameContext) {
  TempDir directory;
  std::vector<float> expected;
  ContextManifest manifest;
  const std::vector<int32_t> question = Tokens(4, 12);
  for (const int workers : {3, 1, 8}) {
    GroupRig rig(Options(workers, directory.File("data")));
    if (expected.empty()) {
      manifest = NewContext(rig.group(), ExactPolicy());
      ASSERT_OK(rig.group().CreateContext(manifest));
      IngestAndCommit(rig, rig.OpenOn({.context = manifest.id}), manifest, Tokens(1, 150));
    }
    const SequenceId request = rig.OpenOn(
        {.base = manifest.id, .base_tokens = manifest.num_tokens, .policy = ExactPolicy()});
    const std::vector<float> logits = rig.Feed(request, question, 5, manifest.num_tokens);
    expected = expected.empty() ? logits : expected;
    EXPECT_LE(RelativeDifference(logits, expected), 1e-5) << workers << " workers";
  }
}

TEST(LocalWorkerGroupDurability, AContextOfAnotherModelIsListedAndDeletedButNotRead) {
  TempDir directory;
  LocalWorkerGroupOptions options = Options(2, directory.File("data"));
  ContextManifest manifest;
  {
    GroupRig rig(options);
    manifest = NewContext(rig.group(), ExactPolicy());
    ASSERT_OK(rig.group().CreateContext(manifest));
    IngestAndCommit(rig, rig.OpenOn({.context = manifest.id}), manifest, Tokens(1, 40));
  }
  options.model_dir = GoldenDir("llama3_gqa");
  GroupRig rig(options);
  EXPECT_EQ(rig.group().ListContexts()->size(), 1U);
  const Result<void> opened = rig.group().OpenSequence(
      {1}, {.base = manifest.id, .base_tokens = 40, .policy = ExactPolicy()});
  ASSERT_ERROR(opened, ErrorCode::kModelMismatch);
  EXPECT_THAT(opened.error().message, HasSubstr("doc7"));
  EXPECT_ERROR(rig.group().GetContextUsage(manifest.id), ErrorCode::kModelMismatch);
  ASSERT_OK(rig.group().DeleteContext(manifest.id));
  EXPECT_TRUE(rig.group().ListContexts()->empty());
}

TEST(LocalWorkerGroupDurability, ASecondGroupOnTheDataDirectoryIsRefused) {
  TempDir directory;
  GroupRig rig(Options(1, directory.File("data")));
  EXPECT_ERROR(LocalWorkerGroup::Open(Options(1, directory.File("data"))),
               ErrorCode::kDataDirLocked);
}

// Calls from other threads while steps run back to back.
TEST(LocalWorkerGroup, OtherThreadsGetTheirTurnBetweenSteps) {
  GroupRig rig(Options(2));
  std::atomic<bool> stop = false;
  std::atomic<int> turns = 0;
  std::thread other([&] {
    for (uint64_t id = 100; !stop; ++id) {
      EXPECT_OK(rig.group().CreateContext(NewContext(rig.group(), ExactPolicy(), id)));
      EXPECT_OK(rig.group().GetContextUsage({id}));
      EXPECT_OK(rig.group().DeleteContext({id}));
      rig.group().Stats();
      ++turns;
    }
  });
  const SequenceId sequence = rig.OpenPrivate(ExactPolicy());
  int64_t position = 0;
  while (position < 1000 && (position < 200 || turns < 3)) {
    rig.StepOne({.sequence = sequence, .first_position = position++, .tokens = {1}});
  }
  stop = true;
  other.join();
  EXPECT_GE(turns, 3);
}

}  // namespace
}  // namespace varve
