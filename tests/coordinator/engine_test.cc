#include "coordinator/engine.h"

#include <atomic>
#include <future>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "proto/base/rng.h"
#include "tests/coordinator/engine_rig.h"
#include "tests/support/result_matchers.h"

namespace varve {
namespace {

constexpr int64_t kSecondUs = 1000000;

Error Boom() {
  return Error{ErrorCode::kIoError, "boom"};
}

TEST(Engine, AnswersAndClosesTheSequence) {
  EngineRig rig;
  auto request = rig.Submit("hello");
  ASSERT_OK(request.id);
  const GenerationEvent last = request.log->WaitForEnd();
  EXPECT_EQ(request.log->text(), "hello");
  EXPECT_EQ(last.finish, FinishReason::kStop);
  EXPECT_EQ(last.completion_tokens, 6);  // the end-of-text token is drawn, too
  EXPECT_EQ(rig.workers.num_open(), 0U);
}

TEST(Engine, StopsAtMaxTokens) {
  EngineRig rig;
  auto request = rig.Submit("hello", 3);
  const GenerationEvent last = request.log->WaitForEnd();
  EXPECT_EQ(request.log->text(), "hel");
  EXPECT_EQ(last.finish, FinishReason::kLength);
  EXPECT_EQ(last.completion_tokens, 3);
}

TEST(Engine, GoesOnPastTheEndOfTextTokenWhenAskedTo) {
  EngineRig rig;
  auto request = EngineRig::Request("hello", 20);
  request->ignore_eos = true;
  auto submitted = rig.Submit(std::move(request));
  const GenerationEvent last = submitted.log->WaitForEnd();
  EXPECT_EQ(submitted.log->text(), "hello");
  EXPECT_EQ(last.finish, FinishReason::kLength);
  EXPECT_EQ(last.completion_tokens, 20);
}

TEST(Engine, FindsAStopStringAcrossTokens) {
  EngineRig rig;
  auto request = EngineRig::Request("one STOP two");
  request->stop = {"STOP", "never"};
  auto submitted = rig.Submit(std::move(request));
  EXPECT_EQ(submitted.log->WaitForEnd().finish, FinishReason::kStop);
  EXPECT_EQ(submitted.log->text(), "one ");
}

TEST(Engine, ShowsHeldBackTextWhenTheAnswerEnds) {
  EngineRig rig;
  auto request = EngineRig::Request("one STO");
  request->stop = {"STOP"};
  auto submitted = rig.Submit(std::move(request));
  submitted.log->WaitForEnd();
  EXPECT_EQ(submitted.log->text(), "one STO");
}

TEST(Engine, NeverSplitsACodePoint) {
  EngineRig rig;
  auto whole = rig.Submit("a\xC3\xA9z");
  whole.log->WaitForEnd();
  EXPECT_EQ(whole.log->text(), "a\xC3\xA9z");
  auto cut = rig.Submit("a\xC3\xA9z", 2);
  cut.log->WaitForEnd();
  EXPECT_EQ(cut.log->text(), "a\xEF\xBF\xBD");
}

TEST(Engine, RunsManyRequestsTogether) {
  EngineRig rig;
  std::vector<EngineRig::Submitted> requests;
  for (int i = 0; i < 100; ++i) {
    requests.push_back(rig.Submit("request " + std::to_string(i)));
  }
  for (int i = 0; i < 100; ++i) {
    requests[static_cast<size_t>(i)].log->WaitForEnd();
    EXPECT_EQ(requests[static_cast<size_t>(i)].log->text(), "request " + std::to_string(i));
  }
}

TEST(Engine, StopsACancelledRequestAtTheNextStep) {
  EngineRig rig;
  auto request = rig.Submit("*abc", 1000000);
  ASSERT_TRUE(request.log->WaitForEvents(5));
  rig.engine.Cancel(*request.id);
  EXPECT_TRUE(rig.workers.WaitUntil([](const FakeWorkerGroup& w) { return w.num_open() == 0; }));
  const size_t num_events = request.log->size();
  rig.Submit("later").log->WaitForEnd();
  EXPECT_EQ(request.log->size(), num_events);
}

TEST(Engine, CancelsAWaitingRequest) {
  EngineLimits limits;
  limits.scheduler.max_running = 1;
  EngineRig rig(limits);
  rig.workers.HoldSteps(true);
  auto first = rig.Submit("first");
  ASSERT_TRUE(rig.workers.WaitUntil([](const FakeWorkerGroup& w) { return !w.plans().empty(); }));
  auto second = rig.Submit("second");
  auto third = rig.Submit("third");
  rig.engine.Cancel(*second.id);
  rig.workers.HoldSteps(false);
  third.log->WaitForEnd();
  EXPECT_EQ(third.log->text(), "third");
  EXPECT_EQ(second.log->size(), 0U);
}

TEST(Engine, AdmitsInOrderAndRefusesWhenTheQueueIsFull) {
  EngineLimits limits;
  limits.scheduler.max_running = 1;
  limits.max_queue = 2;
  EngineRig rig(limits);
  rig.workers.HoldSteps(true);
  auto running = rig.Submit("1");
  ASSERT_TRUE(rig.workers.WaitUntil([](const FakeWorkerGroup& w) { return !w.plans().empty(); }));
  auto waiting_1 = rig.Submit("2");
  auto waiting_2 = rig.Submit("3");
  auto refused = rig.Submit("4");
  EXPECT_ERROR(refused.id, ErrorCode::kResourceExhausted);
  rig.workers.HoldSteps(false);
  waiting_2.log->WaitForEnd();
  EXPECT_TRUE(waiting_1.log->WaitForEnd().finish.has_value());
  // The first token of each sequence's plan tells whose turn it was.
  std::vector<int32_t> order;
  for (const StepPlan& plan : rig.workers.plans()) {
    if (plan.work[0].first_position == 0) {
      order.push_back(plan.work[0].tokens[0]);
    }
  }
  EXPECT_THAT(order, testing::ElementsAre('1', '2', '3'));
}

TEST(Engine, OneFailedSequenceSparesTheOthers) {
  EngineRig rig;
  rig.workers.FailSequenceAt('!', Boom());
  auto good = rig.Submit("*good", 200);
  auto bad = rig.Submit("bad!");
  EXPECT_EQ(bad.log->WaitForEnd().error->message, "boom");
  EXPECT_EQ(good.log->WaitForEnd().completion_tokens, 200);
  EXPECT_EQ(rig.workers.num_open(), 0U);
  EXPECT_FALSE(rig.engine.Refusal().has_value());
}

TEST(Engine, ReportsASequenceThatCannotBeOpened) {
  EngineRig rig;
  rig.workers.FailOpen(Boom());
  EXPECT_EQ(rig.Submit("x").log->WaitForEnd().error->code, ErrorCode::kIoError);
  rig.workers.FailOpen(std::nullopt);
  EXPECT_TRUE(rig.Submit("x").log->WaitForEnd().finish.has_value());
}

TEST(Engine, ALostStepFailsEverythingAndMakesItRefuse) {
  EngineLimits limits;
  limits.scheduler.max_running = 1;
  EngineRig rig(limits);
  rig.workers.HoldSteps(true);
  auto running = rig.Submit("running");
  ASSERT_TRUE(rig.workers.WaitUntil([](const FakeWorkerGroup& w) { return !w.plans().empty(); }));
  auto waiting = rig.Submit("waiting");
  rig.workers.FailNextStep(Error{ErrorCode::kUnavailable, "worker 1 is lost"});
  rig.workers.HoldSteps(false);
  EXPECT_EQ(running.log->WaitForEnd().error->code, ErrorCode::kUnavailable);
  EXPECT_EQ(waiting.log->WaitForEnd().error->message, "worker 1 is lost");
  ASSERT_TRUE(rig.engine.Refusal().has_value());
  EXPECT_THAT(rig.engine.Refusal()->message, testing::HasSubstr("worker 1 is lost"));
  EXPECT_ERROR(rig.Submit("later").id, ErrorCode::kUnavailable);
  std::promise<Result<void>> deleted;
  rig.engine.DeleteContext("x", [&](Result<void> result) { deleted.set_value(std::move(result)); });
  EXPECT_ERROR(deleted.get_future().get(), ErrorCode::kUnavailable);
}

TEST(Engine, DrainLetsTheRunningFinishAndRefusesTheRest) {
  EngineLimits limits;
  limits.scheduler.max_running = 1;
  EngineRig rig(limits);
  rig.workers.HoldSteps(true);
  auto running = rig.Submit("running");
  ASSERT_TRUE(rig.workers.WaitUntil([](const FakeWorkerGroup& w) { return !w.plans().empty(); }));
  auto waiting = rig.Submit("waiting");
  auto drained = std::async(std::launch::async, [&] { rig.engine.Drain(60 * kSecondUs); });
  ASSERT_TRUE(Eventually([&] { return rig.engine.Refusal().has_value(); }));
  EXPECT_ERROR(rig.Submit("late").id, ErrorCode::kUnavailable);
  rig.workers.HoldSteps(false);
  drained.get();
  EXPECT_EQ(running.log->WaitForEnd().finish, FinishReason::kStop);
  EXPECT_EQ(waiting.log->WaitForEnd().error->code, ErrorCode::kUnavailable);
}

TEST(Engine, DrainEndsWhatOutlivesTheGrace) {
  EngineRig rig;
  auto endless = rig.Submit("*endless", 1000000000);
  ASSERT_TRUE(endless.log->WaitForEvents(1));
  rig.engine.Drain(1000);
  EXPECT_EQ(endless.log->WaitForEnd().error->code, ErrorCode::kUnavailable);
  EXPECT_EQ(rig.workers.num_open(), 0U);
}

TEST(Engine, StopEndsWhatRuns) {
  EngineRig rig;
  auto endless = rig.Submit("*endless", 1000000000);
  ASSERT_TRUE(endless.log->WaitForEvents(1));
  rig.engine.Stop();
  EXPECT_EQ(endless.log->WaitForEnd().error->code, ErrorCode::kUnavailable);
  EXPECT_ERROR(rig.Submit("late").id, ErrorCode::kUnavailable);
}

// --- Ingest ---

std::string Words(size_t num_bytes) {
  std::string text;
  for (size_t i = 0; text.size() < num_bytes; ++i) {
    text += "word" + std::to_string(i) + " ";
  }
  text.resize(num_bytes);
  return text;
}

TEST(EngineIngest, CommitsAtPieceBoundariesOftenEnough) {
  EngineRig rig;
  const std::string text = Words(50000);
  ASSERT_OK(rig.catalog.Create("doc", text, {}));
  ASSERT_TRUE(rig.WaitForStatus("doc", ContextStatus::kReady));
  const auto stored = rig.workers.Stored("doc");
  ASSERT_TRUE(stored.has_value());
  EXPECT_EQ(stored->text, text);
  EXPECT_EQ(stored->manifest.num_tokens, 50001);  // and the BOS
  EXPECT_EQ(stored->tokens[0], kFakeBos);
  EXPECT_EQ(stored->manifest.text_hash, Hash64(text));
  ASSERT_GE(stored->commits.size(), 4U);
  int64_t last = 0;
  for (const int64_t commit : stored->commits) {
    EXPECT_LE(commit - last, 16385);
    last = commit;
  }
  EXPECT_TRUE(rig.workers.WaitUntil([](const FakeWorkerGroup& w) { return w.num_open() == 0; }));
}

TEST(EngineIngest, ServesRequestsMeanwhile) {
  EngineRig rig;
  ASSERT_OK(rig.catalog.Create("doc", Words(90000), {}));
  auto request = rig.Submit("meanwhile");
  EXPECT_EQ(request.log->WaitForEnd().finish, FinishReason::kStop);
  ASSERT_TRUE(rig.WaitForStatus("doc", ContextStatus::kReady));
}

TEST(EngineIngest, ARequestReadsTheSnapshotAndHoldsItsContext) {
  EngineRig rig;
  ASSERT_OK(rig.catalog.Create("doc", "some text", {}));
  ASSERT_TRUE(rig.WaitForStatus("doc", ContextStatus::kReady));
  auto request = EngineRig::Request("*q", 1000000);
  auto lease = rig.catalog.Acquire("doc");
  ASSERT_OK(lease);
  request->context = *std::move(lease);
  auto submitted = rig.Submit(std::move(request));
  ASSERT_TRUE(submitted.log->WaitForEvents(2));
  EXPECT_EQ(rig.workers.opened().back().base_tokens, 10);
  EXPECT_EQ(rig.workers.plans().back().work[0].first_position >= 10, true);

  std::promise<Result<void>> refused;
  rig.engine.DeleteContext("doc", [&](Result<void> r) { refused.set_value(std::move(r)); });
  EXPECT_ERROR(refused.get_future().get(), ErrorCode::kConflict);

  // An append waits for the request to end.
  std::optional<AppendConflict> conflict;
  ASSERT_OK(rig.catalog.Append("doc", 9, Hash64("some text"), " more", &conflict));
  ASSERT_TRUE(submitted.log->WaitForEvents(20));
  EXPECT_EQ(rig.workers.Stored("doc")->text, "some text");
  rig.engine.Cancel(*submitted.id);
  ASSERT_TRUE(rig.WaitForStatus("doc", ContextStatus::kReady));
  EXPECT_EQ(rig.workers.Stored("doc")->text, "some text more");

  std::promise<Result<void>> deleted;
  rig.engine.DeleteContext("doc", [&](Result<void> r) { deleted.set_value(std::move(r)); });
  EXPECT_OK(deleted.get_future().get());
  EXPECT_ERROR(rig.catalog.Show("doc"), ErrorCode::kNotFound);
}

TEST(EngineIngest, DeletesWhileIngesting) {
  EngineRig rig;
  rig.workers.HoldSteps(true);
  ASSERT_OK(rig.catalog.Create("doc", Words(50000), {}));
  ASSERT_TRUE(rig.workers.WaitUntil([](const FakeWorkerGroup& w) { return !w.plans().empty(); }));
  std::promise<Result<void>> deleted;
  rig.engine.DeleteContext("doc", [&](Result<void> r) { deleted.set_value(std::move(r)); });
  rig.workers.HoldSteps(false);
  EXPECT_OK(deleted.get_future().get());
  EXPECT_EQ(rig.workers.num_open(), 0U);
  // The name is free again.
  ASSERT_OK(rig.catalog.Create("doc", "new", {}));
  ASSERT_TRUE(rig.WaitForStatus("doc", ContextStatus::kReady));
  EXPECT_EQ(rig.workers.Stored("doc")->text, "new");
}

TEST(EngineIngest, AFailedDeleteCanBeRepeated) {
  EngineRig rig;
  ASSERT_OK(rig.catalog.Create("doc", "text", {}));
  ASSERT_TRUE(rig.WaitForStatus("doc", ContextStatus::kReady));
  rig.workers.FailDelete(Boom());
  std::promise<Result<void>> failed;
  rig.engine.DeleteContext("doc", [&](Result<void> r) { failed.set_value(std::move(r)); });
  EXPECT_ERROR(failed.get_future().get(), ErrorCode::kIoError);
  EXPECT_EQ(rig.catalog.Show("doc")->status, ContextStatus::kFailed);
  rig.workers.FailDelete(std::nullopt);
  std::promise<Result<void>> deleted;
  rig.engine.DeleteContext("doc", [&](Result<void> r) { deleted.set_value(std::move(r)); });
  EXPECT_OK(deleted.get_future().get());
}

TEST(EngineIngest, AFailureFallsBackToTheCommitAndCanBeResumed) {
  EngineRig rig;
  const std::string text = Words(40000);
  rig.workers.FailSequenceAt('#', Boom());
  ASSERT_OK(rig.catalog.Create("doc", text + "#" + text, {}));
  ASSERT_TRUE(rig.WaitForStatus("doc", ContextStatus::kFailed));
  const ContextView view = *rig.catalog.Show("doc");
  EXPECT_EQ(view.error, "boom");
  const uint64_t committed = view.manifest.text_bytes;
  EXPECT_GT(committed, 0U);
  EXPECT_LE(committed, 40000U);
  EXPECT_EQ(view.text_bytes_received, committed);
  EXPECT_EQ(view.text_hash_received, Hash64(text.substr(0, committed)));
  EXPECT_EQ(view.tokens_pending, 0);
  EXPECT_ERROR(rig.catalog.Acquire("doc"), ErrorCode::kConflict);

  std::optional<AppendConflict> conflict;
  ASSERT_OK(rig.catalog.Append(
      "doc", committed, view.text_hash_received, text.substr(committed), &conflict));
  ASSERT_TRUE(rig.WaitForStatus("doc", ContextStatus::kReady));
  EXPECT_EQ(rig.workers.Stored("doc")->text, text);
  EXPECT_EQ(rig.workers.Stored("doc")->manifest.text_hash, Hash64(text));
}

TEST(EngineIngest, EveryFailureIsTheContextsOwn) {
  EngineRig rig;
  rig.workers.FailOpen(Boom());
  ASSERT_OK(rig.catalog.Create("open", "text", {}));
  ASSERT_TRUE(rig.WaitForStatus("open", ContextStatus::kFailed));
  rig.workers.FailOpen(std::nullopt);
  rig.workers.FailCommit(Boom());
  ASSERT_OK(rig.catalog.Create("commit", "text", {}));
  ASSERT_TRUE(rig.WaitForStatus("commit", ContextStatus::kFailed));
  rig.workers.FailCommit(std::nullopt);
  ASSERT_OK(rig.catalog.Create("tokens", Words(20000) + "UNTOKENISABLE", {}));
  ASSERT_TRUE(rig.WaitForStatus("tokens", ContextStatus::kFailed));
  ASSERT_OK(rig.catalog.Create("long", Words(100001), {}));  // the fake has 100,000 positions
  ASSERT_TRUE(rig.WaitForStatus("long", ContextStatus::kFailed));
  EXPECT_THAT(rig.catalog.Show("long")->error, testing::HasSubstr("100000 positions"));
  EXPECT_TRUE(rig.Submit("fine").log->WaitForEnd().finish.has_value());
  EXPECT_EQ(rig.workers.num_open(), 0U);
}

TEST(EngineIngest, DrainCommitsAtTheEndOfThePiece) {
  CatalogLimits limits;
  limits.piece_bytes = 1000;
  EngineRig rig({}, limits);
  rig.workers.HoldSteps(true);
  const std::string text = Words(50000);
  ASSERT_OK(rig.catalog.Create("doc", text, {}));
  ASSERT_TRUE(rig.workers.WaitUntil([](const FakeWorkerGroup& w) { return !w.plans().empty(); }));
  rig.workers.ReleaseSteps(3);
  ASSERT_TRUE(
      rig.workers.WaitUntil([](const FakeWorkerGroup& w) { return w.plans().size() == 4; }));
  // A step has up to 512 tokens, fewer where the tokenizer was behind.
  int64_t planned = 0;
  for (const StepPlan& plan : rig.workers.plans()) {
    planned += std::ssize(plan.work.at(0).tokens);
  }
  auto drained = std::async(std::launch::async, [&] { rig.engine.Drain(60 * kSecondUs); });
  ASSERT_TRUE(Eventually([&] { return rig.engine.Refusal().has_value(); }));
  rig.workers.HoldSteps(false);
  drained.get();
  const auto stored = rig.workers.Stored("doc");
  ASSERT_TRUE(stored.has_value());
  EXPECT_EQ(stored->commits.size(), 1U);
  // What was planned, and on to the end of that piece.
  EXPECT_GE(stored->manifest.num_tokens, planned);
  EXPECT_LE(stored->manifest.num_tokens, planned + 1000);
  EXPECT_EQ(stored->text, text.substr(0, stored->text.size()));
  EXPECT_EQ(rig.workers.num_open(), 0U);
}

TEST(EngineIngest, LostWorkersFailTheIngest) {
  EngineRig rig;
  rig.workers.FailNextStep(Boom());
  ASSERT_OK(rig.catalog.Create("doc", "text", {}));
  ASSERT_TRUE(rig.WaitForStatus("doc", ContextStatus::kFailed));
}

TEST(EngineIngest, SeveralContextsMakeProgressTogether) {
  EngineLimits limits;
  limits.max_ingests = 2;
  EngineRig rig(limits);
  for (const char* name : {"a", "b", "c"}) {
    ASSERT_OK(rig.catalog.Create(name, Words(20000), {}));
  }
  for (const char* name : {"a", "b", "c"}) {
    ASSERT_TRUE(rig.WaitForStatus(name, ContextStatus::kReady));
    EXPECT_EQ(rig.workers.Stored(name)->text, Words(20000));
  }
}

// Cancellations, appends, failures and deletions at random: every request ends or was cancelled, no
// sequence stays open, and every ready context holds exactly the text it says. The fake checks the
// contract of the workers in every call.
TEST(EngineProperty, NothingLeaksWhateverHappens) {
  for (uint64_t seed = 1; seed <= 10; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Rng rng(seed);
    EngineLimits limits;
    limits.scheduler.max_running = 8;
    limits.commit_tokens = 500;
    CatalogLimits catalog_limits;
    catalog_limits.piece_bytes = 100;
    EngineRig rig(limits, catalog_limits);
    rig.workers.FailSequenceAt('#', Boom());
    std::vector<EngineRig::Submitted> requests;
    for (int i = 0; i < 200; ++i) {
      const std::string name = "c" + std::to_string(rng.Below(3));
      switch (rng.Below(5)) {
        case 0:
          (void)rig.catalog.Create(name, Words(1 + rng.Below(3000)), {});
          break;
        case 1: {
          const auto view = rig.catalog.Show(name);
          std::optional<AppendConflict> conflict;
          if (view) {
            (void)rig.catalog.Append(name,
                                     view->text_bytes_received,
                                     view->text_hash_received,
                                     Words(rng.Below(2000)) + (rng.Below(5) == 0 ? "#" : "."),
                                     &conflict);
          }
          break;
        }
        case 2:
          rig.engine.DeleteContext(name, [](Result<void>) {});
          break;
        default: {
          auto request = EngineRig::Request(rng.Below(8) == 0 ? "bad#" : "some prompt", 30);
          if (auto lease = rig.catalog.Acquire(name)) {
            request->context = *std::move(lease);
          }
          requests.push_back(rig.Submit(std::move(request)));
          if (requests.back().id && rng.Below(3) == 0) {
            rig.engine.Cancel(*requests.back().id);
            requests.pop_back();
          }
        }
      }
    }
    for (const auto& request : requests) {
      if (request.id) {
        request.log->WaitForEnd();
      }
    }
    ASSERT_TRUE(Eventually([&] {
      for (const ContextView& view : rig.catalog.List()) {
        if (view.status == ContextStatus::kIngesting) {
          return false;
        }
      }
      return rig.workers.num_open() == 0;
    }));
    for (const ContextView& view : rig.catalog.List()) {
      const auto stored = rig.workers.Stored(view.manifest.name);
      if (stored) {
        EXPECT_EQ(stored->manifest.text_hash, Hash64(stored->text));
        EXPECT_EQ(view.text_bytes_received, stored->text.size());
      }
    }
  }
}

}  // namespace
}  // namespace varve
