#include "kernels/thread_team.h"

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

#include "proto/base/check.h"

namespace varve {
namespace {

// About 30 microseconds of pauses: longer than the serial gaps between the loops of a layer,
// shorter than a wake-up pair.
constexpr int kSpinRounds = 1000;

void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

}  // namespace

// One word tells everything about the current loop: its number, whether it is open, and how many
// members are inside. A member joins an open loop by adding one to the word it has read, so it can
// never join a loop that has been closed, and the owner never waits for a member that is asleep or
// has been descheduled before joining.
struct ThreadTeam::Impl {
  static constexpr uint64_t kOpen = uint64_t{1} << 31;
  static constexpr uint64_t kMembers = kOpen - 1;
  static constexpr uint64_t kNextLoop = uint64_t{1} << 32;

  explicit Impl(int num_threads) : num_threads(num_threads) {}

  void RunMember(int thread);
  // Waits until a loop other than `seen` is open, or the end; returns the word.
  uint64_t AwaitLoop(uint64_t seen);
  void RunIndices(int thread);

  const int num_threads;
  std::vector<std::thread> members;

  // The loop. Written by the owner while the word is closed and no member is inside.
  Call call = nullptr;
  void* context = nullptr;
  size_t count = 0;

  alignas(64) std::atomic<uint64_t> word{0};
  alignas(64) std::atomic<size_t> next_index{0};
  alignas(64) std::atomic<int> num_sleepers{0};
  std::atomic<bool> stop{false};
  std::mutex mutex;
  std::condition_variable wake;
};

void ThreadTeam::Impl::RunIndices(int thread) {
  for (;;) {
    const size_t index = next_index.fetch_add(1, std::memory_order_relaxed);
    if (index >= count) {
      return;
    }
    call(context, index, thread);
  }
}

uint64_t ThreadTeam::Impl::AwaitLoop(uint64_t seen) {
  const auto is_news = [this, seen](uint64_t now) {
    return ((now & kOpen) != 0 && now / kNextLoop != seen / kNextLoop) || stop.load();
  };
  for (int round = 0; round < kSpinRounds; ++round) {
    const uint64_t now = word.load(std::memory_order_acquire);
    if (is_news(now)) {
      return now;
    }
    Pause();
  }
  std::unique_lock<std::mutex> lock(mutex);
  // Sequentially consistent with the owner's store of the word followed by its load of
  // num_sleepers: one of the two sees the other, so no wake-up is lost.
  num_sleepers.fetch_add(1);
  uint64_t now = word.load();
  while (!is_news(now)) {
    wake.wait(lock);
    now = word.load();
  }
  num_sleepers.fetch_sub(1);
  return now;
}

void ThreadTeam::Impl::RunMember(int thread) {
  uint64_t seen = 0;
  for (;;) {
    uint64_t now = AwaitLoop(seen);
    if (stop.load()) {
      return;
    }
    while ((now & kOpen) != 0 && now / kNextLoop != seen / kNextLoop) {
      if (word.compare_exchange_weak(now, now + 1)) {
        seen = now;
        RunIndices(thread);
        word.fetch_sub(1, std::memory_order_release);
      }
    }
  }
}

ThreadTeam::ThreadTeam(int num_threads) : impl_(std::make_unique<Impl>(num_threads)) {
  VARVE_CHECK(num_threads >= 1);
  for (int thread = 1; thread < num_threads; ++thread) {
    impl_->members.emplace_back([impl = impl_.get(), thread] { impl->RunMember(thread); });
  }
}

ThreadTeam::~ThreadTeam() {
  {
    const std::lock_guard<std::mutex> lock(impl_->mutex);
    impl_->stop.store(true);
  }
  impl_->wake.notify_all();
  for (std::thread& member : impl_->members) {
    member.join();
  }
}

int ThreadTeam::num_threads() const {
  return impl_->num_threads;
}

void ThreadTeam::RunLoop(size_t count, Call call, void* context) {
  Impl& impl = *impl_;
  if (impl.num_threads == 1 || count <= 1) {
    for (size_t index = 0; index < count; ++index) {
      call(context, index, 0);
    }
    return;
  }
  impl.call = call;
  impl.context = context;
  impl.count = count;
  impl.next_index.store(0, std::memory_order_relaxed);
  const uint64_t loop = impl.word.load(std::memory_order_relaxed) / Impl::kNextLoop + 1;
  impl.word.store(loop * Impl::kNextLoop + Impl::kOpen);
  if (impl.num_sleepers.load() > 0) {
    { const std::lock_guard<std::mutex> lock(impl.mutex); }
    impl.wake.notify_all();
  }
  impl.RunIndices(0);
  impl.word.fetch_and(~Impl::kOpen);
  for (int round = 0; (impl.word.load(std::memory_order_acquire) & Impl::kMembers) != 0; ++round) {
    if (round < kSpinRounds) {
      Pause();
    } else {
      std::this_thread::yield();  // a member inside has been descheduled: let it run
    }
  }
}

}  // namespace varve
