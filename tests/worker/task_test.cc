#include "worker/task.h"

#include <vector>

#include <gtest/gtest.h>

namespace varve {
namespace {

struct Log {
  FrameArena arena = FrameArena(4096);
  std::vector<int> events;
  std::coroutine_handle<> waiting;
  FrameArena& frames() { return arena; }
};

// Suspends until the test resumes it.
struct Pause {
  Log& log;
  bool await_ready() { return false; }
  void await_suspend(std::coroutine_handle<> handle) { log.waiting = handle; }
  void await_resume() {}
};

Task Inner(Log& log, int number) {
  log.events.push_back(number);
  co_await Pause{log};
  log.events.push_back(number + 1);
}

Task Outer(Log& log) {
  log.events.push_back(0);
  co_await Inner(log, 10);
  log.events.push_back(1);
  co_await Inner(log, 20);
  log.events.push_back(2);
}

TEST(Task, RunsInAStraightLineAcrossSuspensions) {
  Log log;
  const Task task = Outer(log);
  EXPECT_TRUE(log.events.empty()) << "starts when it is resumed";
  task.handle().resume();
  EXPECT_EQ(log.events, (std::vector<int>{0, 10}));
  EXPECT_FALSE(task.done());
  log.waiting.resume();
  EXPECT_EQ(log.events, (std::vector<int>{0, 10, 11, 1, 20}));
  log.waiting.resume();
  EXPECT_EQ(log.events, (std::vector<int>{0, 10, 11, 1, 20, 21, 2}));
  EXPECT_TRUE(task.done());
}

TEST(Task, MayBeDroppedHalfWay) {
  Log log;
  {
    const Task task = Outer(log);
    task.handle().resume();
  }
  EXPECT_EQ(log.events, (std::vector<int>{0, 10}));
}

Task Nested(Log& log, int depth) {
  if (depth > 0) {
    co_await Nested(log, depth - 1);
  }
  log.events.push_back(depth);
}

TEST(Task, FallsBackToTheHeapWhenItsArenaIsFull) {
  Log log;
  for (int repeat = 0; repeat < 2; ++repeat) {
    log.events.clear();
    const Task task = Nested(log, 100);
    task.handle().resume();
    EXPECT_TRUE(task.done());
    EXPECT_EQ(log.events.size(), 101U);
    EXPECT_EQ(log.events.back(), 100);
  }
}

TEST(FrameArena, GivesBackInReverseOrder) {
  FrameArena arena(256);
  void* first = arena.Allocate(64);
  void* second = arena.Allocate(64);
  EXPECT_NE(first, nullptr);
  EXPECT_NE(second, first);
  EXPECT_EQ(arena.Allocate(1024), nullptr);
  arena.Free(second);
  EXPECT_EQ(arena.Allocate(64), second);
}

}  // namespace
}  // namespace varve
