// Working sets that are larger than a tier: every step reads all of a context, again and again.
// What a tier holds must be what it served before, or it would serve nothing: a cache that evicts
// what was used longest ago has evicted every page just before it is read.
#include <cstdio>

#include "tests/kvstore/store_rig.h"

namespace varve {
namespace {

constexpr SequenceId kIngest{10};
constexpr SequenceId kAsker{20};
constexpr uint64_t kContext = 1;
constexpr int64_t kTokens = 6000;
// Beside sealed pages a tier holds tails and rows; a quarter of it stays free for reads.
constexpr double kLeastUse = 0.5;

struct Reads {
  int64_t device = 0;
  int64_t host = 0;
  int64_t disk = 0;

  int64_t all() const { return device + host + disk; }
};

// The working set as a multiple of the tier.
class KvStoreThrashTest : public StoreRig, public testing::WithParamInterface<double> {
 protected:
  KvStoreThrashTest() { geometry_ = MakeGeometry(2, 32, {0, 0}); }

  // Bytes of the context's pages as memory holds them.
  uint64_t WorkingSet() {
    OpenDisk();
    OpenStores();
    Ingest(kContext, kIngest, kTokens);
    const ContextUsage usage = group_->store(0).GetContextUsage(ContextId{kContext}).value();
    return usage.disk_bytes +
           static_cast<uint64_t>(usage.num_pages) * MemoryTier::kRecordOverheadBytes;
  }
  // What a step reads, after many of them.
  Reads Settle() {
    EXPECT_OK(group_->OpenSequence(kAsker, Behind(kContext, kTokens)));
    Reads last;
    for (int step = 0; step < 100; ++step) {
      const WorkerStats before = group_->store(0).Stats();
      EXPECT_OK(group_->Step(kAsker, kAsker.value, 1));
      for (int32_t layer = 0; layer < 2; ++layer) {
        const auto seen = ReadAll(kAsker, layer);
        EXPECT_OK(seen);
        EXPECT_EQ(std::ssize(*seen), kTokens + step + 1);
      }
      group_->ExpectWithinBudget();
      const WorkerStats after = group_->store(0).Stats();
      last = {static_cast<int64_t>(after.page_reads_device - before.page_reads_device),
              static_cast<int64_t>(after.page_reads_host - before.page_reads_host),
              static_cast<int64_t>(after.page_reads_disk - before.page_reads_disk)};
    }
    return last;
  }
  void ExpectShare(const char* tier, int64_t reads, int64_t all) {
    const double share = static_cast<double>(reads) / static_cast<double>(all);
    std::printf("[ figure   ] working set %.1fx the %s tier: it serves %.0f %% of the reads\n",
                GetParam(),
                tier,
                100 * share);
    EXPECT_GE(share, kLeastUse / GetParam()) << tier;
  }
};

TEST_P(KvStoreThrashTest, AHostTierServesItsShareOfEveryStep) {
  host_budget_ = static_cast<uint64_t>(static_cast<double>(WorkingSet()) / GetParam());
  OpenStores();
  const Reads reads = Settle();
  ExpectShare("host", reads.host, reads.all());
  EXPECT_GT(reads.disk, 0);
}

TEST_P(KvStoreThrashTest, ADeviceTierServesItsShareAndTheHostTierTheRest) {
  const uint64_t bytes = WorkingSet();
  device_budget_ = static_cast<uint64_t>(static_cast<double>(bytes) / GetParam());
  host_budget_ = 2 * bytes;
  OpenStores();
  const Reads reads = Settle();
  ExpectShare("device", reads.device, reads.all());
  EXPECT_EQ(reads.disk, 0) << "the two tiers together have room for all";
}

INSTANTIATE_TEST_SUITE_P(Sizes, KvStoreThrashTest, testing::Values(1.1, 2.0, 10.0));

}  // namespace
}  // namespace varve
