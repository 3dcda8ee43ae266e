#include "worker/local_communicator.h"

#include <numeric>

#include <gtest/gtest.h>

#include "proto/base/rng.h"

namespace varve {
namespace {

// Random parts for `size` ranks, often empty.
std::vector<size_t> RandomCounts(Rng& rng, size_t size) {
  std::vector<size_t> counts(size);
  for (size_t& count : counts) {
    count = rng.Below(3) == 0 ? 0 : rng.Below(9);
  }
  return counts;
}

size_t Sum(const std::vector<size_t>& counts) {
  return std::accumulate(counts.begin(), counts.end(), size_t{0});
}
size_t Before(const std::vector<size_t>& counts, size_t rank) {
  return std::accumulate(
      counts.begin(), counts.begin() + static_cast<std::ptrdiff_t>(rank), size_t{0});
}

// What rank `rank` contributes at element `index` of round `round`.
float Value(size_t rank, size_t index, size_t round) {
  return static_cast<float>(Mix64(rank * 1'000'003 + index * 101 + round) % 1000) / 8.0F;
}

constexpr size_t kMaxRows = 5;
constexpr size_t kMaxColumns = 8 * 9;

// One rank of the property test: plays the same random sequence of exchanges as the others and
// checks what it gets.
struct Player {
  Communicator& communicator;
  uint64_t seed;
  size_t rounds;
  std::span<float> shared[2];
  std::vector<float> sent[2];
  std::vector<float> received = std::vector<float>(kMaxRows * kMaxColumns);
  std::vector<ReceivedRows> rows =
      std::vector<ReceivedRows>(2 * static_cast<size_t>(communicator.size()));
  std::vector<size_t> counts[4] = {};  // those of the exchange before stay untouched
  FrameArena arena = FrameArena(4096);

  FrameArena& frames() { return arena; }
  size_t rank() const { return static_cast<size_t>(communicator.rank()); }
  size_t size() const { return static_cast<size_t>(communicator.size()); }
};

Task PlayGather(Player& player, Rng& rng, size_t round) {
  const size_t rows = rng.Below(kMaxRows + 1);
  std::vector<size_t>& widths = player.counts[round % 2];
  widths = RandomCounts(rng, player.size());
  const SharedColumns shared{.data = player.shared[round % 2].data(),
                             .rows = rows,
                             .stride = Sum(widths) + 1,
                             .widths = widths};
  const size_t first = Before(widths, player.rank());
  for (size_t row = 0; row < rows; ++row) {
    for (size_t i = first; i < first + widths[player.rank()]; ++i) {
      shared.data[row * shared.stride + i] = Value(0, row * kMaxColumns + i, round);
    }
  }
  co_await player.communicator.AllGather(
      HostStream(), {.step = player.seed, .sequence = round}, shared);
  for (size_t row = 0; row < rows; ++row) {
    for (size_t i = 0; i < Sum(widths); ++i) {
      EXPECT_EQ(shared.data[row * shared.stride + i], Value(0, row * kMaxColumns + i, round));
    }
  }
}

Task PlayAllToAll(Player& player, Rng& rng, size_t round) {
  const size_t rows = rng.Below(kMaxRows + 1);
  SentColumns sent[2];
  for (size_t m = 0; m < 2; ++m) {
    std::vector<size_t>& widths = player.counts[2 * (round % 2) + m];
    widths = RandomCounts(rng, player.size());
    player.sent[m].assign(kMaxRows * kMaxColumns, 0.0F);
    sent[m] = {
        .data = player.sent[m].data(), .rows = rows, .stride = Sum(widths), .widths = widths};
    for (size_t i = 0; i < rows * Sum(widths); ++i) {
      player.sent[m][i] = Value(player.rank(), i, round + m);
    }
  }
  co_await player.communicator.AllToAll(
      HostStream(), {.step = player.seed, .sequence = round}, sent, player.rows);
  for (size_t m = 0; m < 2; ++m) {
    const std::vector<size_t>& widths = player.counts[2 * (round % 2) + m];
    const size_t first = Before(widths, player.rank());
    for (size_t from = 0; from < player.size(); ++from) {
      const ReceivedRows& got = player.rows[m * player.size() + from];
      for (size_t i = 0; i < rows * widths[player.rank()]; ++i) {
        const size_t row = i / widths[player.rank()];
        const size_t column = i % widths[player.rank()];
        EXPECT_EQ(got.data[row * got.stride + column],
                  Value(from, row * Sum(widths) + first + column, round + m));
      }
    }
  }
}

Task PlayReduce(Player& player, Rng& rng, size_t round) {
  const bool scatter = rng.Below(2) == 0;
  const size_t width = 1 + rng.Below(7);
  std::vector<size_t>& counts = player.counts[round % 2];
  counts = RandomCounts(rng, player.size());
  const size_t total = scatter ? Sum(counts) * width : width;
  std::vector<float>& source = player.sent[round % 2];
  source.assign(kMaxRows * kMaxColumns * 8, 0.0F);
  for (size_t i = 0; i < total; ++i) {
    source[i] = Value(player.rank(), i, round);
  }
  player.received.assign(total + 1, -1.0F);
  const ExchangeTag tag{.step = player.seed, .sequence = round};
  if (scatter) {
    co_await player.communicator.ReduceScatter(
        HostStream(), tag, source.data(), counts, width, player.received.data());
  } else {
    co_await player.communicator.AllReduce(
        HostStream(), tag, source.data(), width, player.received.data());
  }
  const size_t first = scatter ? Before(counts, player.rank()) * width : 0;
  const size_t own = scatter ? counts[player.rank()] * width : width;
  for (size_t i = 0; i < own; ++i) {
    float sum = 0.0F;
    for (size_t rank = 0; rank < player.size(); ++rank) {
      sum += Value(rank, first + i, round);
    }
    EXPECT_EQ(player.received[i], sum);
  }
  EXPECT_EQ(player.received[own], -1.0F) << "wrote beyond its part";
}

Task PlayBroadcast(Player& player, Rng& rng, size_t round) {
  const size_t width = rng.Below(20);
  const auto root = static_cast<int>(rng.Below(player.size()));
  float* data = player.shared[round % 2].data();
  for (size_t i = 0; player.communicator.rank() == root && i < width; ++i) {
    data[i] = Value(7, i, round);
  }
  co_await player.communicator.Broadcast(
      HostStream(), {.step = player.seed, .sequence = round}, data, width, root);
  for (size_t i = 0; i < width; ++i) {
    EXPECT_EQ(data[i], Value(7, i, round));
  }
}

Task Play(Player& player) {
  Rng rng(player.seed);
  for (size_t round = 0; round < player.rounds; ++round) {
    switch (rng.Below(4)) {
      case 0:
        co_await PlayGather(player, rng, round);
        break;
      case 1:
        co_await PlayAllToAll(player, rng, round);
        break;
      case 2:
        co_await PlayReduce(player, rng, round);
        break;
      default:
        co_await PlayBroadcast(player, rng, round);
        break;
    }
    // Buffers are used again in the next round.
    co_await player.communicator.Barrier(HostStream(),
                                         {.step = player.seed, .sequence = round + player.rounds});
  }
}

TEST(LocalCommunicator, ExchangesBringEachRankItsPart) {
  for (const int size : {1, 2, 3, 8, 17}) {
    for (const int threads : {1, 2, 5}) {
      SCOPED_TRACE(testing::Message() << size << " ranks on " << threads << " threads");
      LocalGroup group(size, threads);
      std::vector<std::unique_ptr<Player>> players;
      for (int rank = 0; rank < size; ++rank) {
        auto player = std::make_unique<Player>(Player{.communicator = group.communicator(rank),
                                                      .seed = static_cast<uint64_t>(size),
                                                      .rounds = 60,
                                                      .shared = {},
                                                      .sent = {}});
        for (std::span<float>& shared : player->shared) {
          shared = player->communicator.AllocateReplicated(kMaxRows * 17 * 10, MemoryKind::kHost);
        }
        players.push_back(std::move(player));
      }
      for (int repeat = 0; repeat < 3; ++repeat) {
        std::vector<Task> tasks;
        for (const auto& player : players) {
          player->seed += 100;
          tasks.push_back(Play(*player));
        }
        group.Run(tasks);
      }
      EXPECT_TRUE(group.communicator(0).Status().has_value());
    }
  }
}

TEST(LocalCommunicator, ReplicatedBuffersAreShared) {
  LocalGroup group(3, 2);
  const std::span<float> first = group.communicator(0).AllocateReplicated(10, MemoryKind::kHost);
  const std::span<float> second = group.communicator(0).AllocateReplicated(20, MemoryKind::kHost);
  EXPECT_EQ(group.communicator(2).AllocateReplicated(10, MemoryKind::kHost).data(), first.data());
  EXPECT_EQ(group.communicator(2).AllocateReplicated(20, MemoryKind::kHost).data(), second.data());
  EXPECT_DEATH(group.communicator(1).AllocateReplicated(11, MemoryKind::kHost), "check failed");
  EXPECT_DEATH(group.communicator(1).AllocateReplicated(10, MemoryKind::kDevice), "check failed");
}

Task OneBarrier(Communicator& communicator, ExchangeTag tag) {
  co_await communicator.Barrier(HostStream(), tag);
}
Task NoExchange(Communicator& /*communicator*/) {
  co_return;
}

Task OneSum(Communicator& communicator,
            ExchangeTag tag,
            std::vector<float>& source,
            std::vector<float>& target) {
  co_await communicator.AllReduce(HostStream(), tag, source.data(), source.size(), target.data());
}

// A disagreement is a bug that must not become a wrong number.
TEST(LocalCommunicatorDeathTest, RanksThatDisagreeAreABug) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  const ExchangeTag tag{.epoch = {1}, .step = 5, .sequence = 0};
  const auto run = [&](const ExchangeTag& other_tag) {
    LocalGroup group(2, 1);
    std::vector<Task> tasks;
    tasks.push_back(OneBarrier(group.communicator(0), tag));
    tasks.push_back(OneBarrier(group.communicator(1), other_tag));
    group.Run(tasks);
  };
  run(tag);
  EXPECT_DEATH(run({.epoch = {2}, .step = 5, .sequence = 0}), "Agree");
  EXPECT_DEATH(run({.epoch = {1}, .step = 4, .sequence = 0}), "Agree");
  EXPECT_DEATH(run({.epoch = {1}, .step = 5, .sequence = 1}), "Agree");
  EXPECT_DEATH(
      {
        LocalGroup group(2, 1);
        std::vector<Task> tasks;
        tasks.push_back(OneBarrier(group.communicator(0), tag));
        tasks.push_back(NoExchange(group.communicator(1)));
        group.Run(tasks);
      },
      "check failed");
  EXPECT_DEATH(
      {
        LocalGroup group(2, 1);
        std::vector<float> two(2);
        std::vector<float> three(3);
        std::vector<float> target(3);
        std::vector<Task> tasks;
        tasks.push_back(OneSum(group.communicator(0), tag, two, target));
        tasks.push_back(OneSum(group.communicator(1), tag, three, target));
        group.Run(tasks);
      },
      "Agree");
}

}  // namespace
}  // namespace varve
