// The store in a deterministic simulation: hundreds of seeds, each some dozens of operations with
// power cuts, kills and faults between and within them. VARVE_SIM_SEEDS sets how many seeds run,
// VARVE_SIM_SEED runs one alone; a failure prints its seed, which fails again.
#include <cstdlib>
#include <filesystem>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "kvstore/disk_tier_env.h"
#include "proto/base/log.h"
#include "tests/sim/store_world.h"
#include "tests/support/result_matchers.h"
#include "tests/support/temp_dir.h"

namespace varve {
namespace {

constexpr uint64_t kDefaultSeeds = 200;

uint64_t NumSeeds() {
  const char* seeds = std::getenv("VARVE_SIM_SEEDS");
  return seeds == nullptr ? kDefaultSeeds : std::strtoull(seeds, nullptr, 10);
}

class StoreSim : public testing::Test {
 protected:
  void SetUp() override {
    spdlog::set_level(spdlog::level::off);
    std::filesystem::current_path(directory_.path());
  }
  void TearDown() override { std::filesystem::current_path("/"); }

 private:
  const TempDir directory_;
};

TEST_F(StoreSim, PromisesAreKeptWhateverTheDiskDoes) {
  const char* only = std::getenv("VARVE_SIM_SEED");
  const uint64_t first = only == nullptr ? 0 : std::strtoull(only, nullptr, 10);
  const uint64_t end = only == nullptr ? NumSeeds() : first + 1;
  StoreWorld::Counts sum;
  for (uint64_t seed = first; seed < end; ++seed) {
    StoreWorld world({.seed = seed});
    const std::string broken = world.Run();
    ASSERT_EQ(broken, "") << "VARVE_SIM_SEED=" << seed << " repeats it";
    sum.commits += world.counts().commits;
    sum.restarts += world.counts().restarts;
    sum.power_cuts += world.counts().power_cuts;
    sum.reads += world.counts().reads;
    sum.demotions += world.counts().demotions;
    sum.misdirected += world.counts().misdirected;
  }
  fmt::print(
      "{} seeds: {} commits, {} restarts ({} after power cuts), {} reads, {} demotions, {} "
      "misdirected pages\n",
      end - first,
      sum.commits,
      sum.restarts,
      sum.power_cuts,
      sum.reads,
      sum.demotions,
      sum.misdirected);
  if (end - first >= kDefaultSeeds) {
    EXPECT_GT(sum.commits, 800);
    EXPECT_GT(sum.power_cuts, 300);
    EXPECT_GT(sum.demotions, 50);
    EXPECT_GT(sum.misdirected, 100);
  }
}

// The canary: what the simulation is for must make it fail.
TEST_F(StoreSim, ADiskThatLiesAboutSyncsIsFound) {
  uint64_t found = 0;
  for (uint64_t seed = 0; seed < kDefaultSeeds && found == 0; ++seed) {
    found += StoreWorld({.seed = seed, .syncs_lie = true}).Run().empty() ? 0 : 1;
  }
  EXPECT_GT(found, 0U) << "promises were broken and nobody noticed";
}

// Else a power cut could leave a database without the FORMAT file that it is known by, or neither.
TEST_F(StoreSim, TheNamesOfANewDirectoryAreSynced) {
  const auto disk = std::make_shared<SimDisk>();
  DiskTierOptions options;
  options.directory = "new";
  const auto env = std::make_shared<SimEnv>(disk);
  auto tier = OpenDiskTier(options, env);
  ASSERT_OK(tier);
  EXPECT_TRUE(disk->synced_directories().contains("."));
  EXPECT_TRUE(disk->synced_directories().contains("new"));
}

TEST_F(StoreSim, ASeedRunsTheSameTwice) {
  for (uint64_t seed = 1000; seed < 1006; ++seed) {
    uint64_t histories[2] = {};
    for (uint64_t& history : histories) {
      StoreWorld world({.seed = seed});
      EXPECT_EQ(world.Run(), "");
      history = world.history();
    }
    EXPECT_EQ(histories[0], histories[1]) << "seed " << seed;
  }
}

}  // namespace
}  // namespace varve
