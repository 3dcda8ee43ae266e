#include "ops/cli/plan/context_bytes.h"

#include <gtest/gtest.h>

#include "kvstore/disk_tier.h"
#include "kvstore/kv_store.h"
#include "proto/base/rng.h"
#include "tests/support/result_matchers.h"
#include "tests/support/temp_dir.h"

namespace varve::cli {
namespace {

// Three layers, the second one with a window of 100.
KvGeometry Geometry() {
  return {.num_kv_heads = 2, .head_dim = 32, .layer_windows = {0, 100, 0}};
}

// What real stores count of a context of that length, all workers together.
ContextUsage Stored(const KvPolicy& policy, int64_t tokens, int num_workers, uint64_t id) {
  const TempDir directory;
  auto disk = DiskTier::Open({.directory = directory.path()});
  EXPECT_OK(disk);
  ContextManifest manifest{.id = {id}, .name = "c", .policy = policy};
  const size_t width = 64;
  Rng rng(7);
  std::vector<float> values(static_cast<size_t>(tokens) * width);
  for (float& value : values) {
    value = rng.NextNormal();
  }
  std::vector<std::unique_ptr<KvStore>> stores;
  for (int32_t rank = 0; rank < num_workers; ++rank) {
    auto store = KvStore::Open({.geometry = Geometry(), .shard = {rank, num_workers}}, disk->get());
    EXPECT_OK(store);
    EXPECT_OK((*store)->CreateContext(manifest));
    EXPECT_OK((*store)->OpenSequence({1}, {.context = manifest.id, .policy = policy}));
    EXPECT_OK((*store)->BeginStep({1}, 0, static_cast<int32_t>(tokens)));
    for (int32_t layer = 0; layer < 3; ++layer) {
      (*store)->Append(
          {1}, layer, 0, static_cast<int32_t>(tokens), values.data(), values.data(), width);
    }
    EXPECT_OK((*store)->EndStep({1}));
    stores.push_back(std::move(*store));
  }
  manifest.version = 1;
  manifest.num_tokens = tokens;
  for (const auto& store : stores) {
    EXPECT_OK(store->PrepareCommit({1}, manifest));
  }
  EXPECT_OK((*disk)->CommitManifest(manifest, {}));
  ContextUsage sum;
  for (const auto& store : stores) {
    EXPECT_OK(store->FinishCommit(manifest));
    const auto usage = store->GetContextUsage(manifest.id);
    EXPECT_OK(usage);
    sum.num_pages += usage->num_pages;
    sum.disk_bytes += usage->disk_bytes;
    sum.bf16_bytes += usage->bf16_bytes;
  }
  return sum;
}

struct Case {
  std::string codec;
  int64_t tokens;
  int workers;
  uint64_t id;
};

class ContextBytesOf : public testing::TestWithParam<Case> {};

TEST_P(ContextBytesOf, AreThoseThatStoresCount) {
  const auto& [codec, tokens, workers, id] = GetParam();
  const KvPolicy policy{.codec = codec, .page_tokens = 32, .recent_window_tokens = 40};
  const ContextUsage stored = Stored(policy, tokens, workers, id);
  ContextBytes sum;
  for (int32_t rank = 0; rank < workers; ++rank) {
    const auto planned = BytesOfContext(Geometry(), policy, tokens, {rank, workers}, id);
    ASSERT_OK(planned);
    sum.pages += planned->pages;
    sum.page_bytes += planned->page_bytes;
    sum.tail_bytes += planned->tail_bytes;
    sum.row_bytes += planned->row_bytes;
    sum.bf16_bytes += planned->bf16_bytes;
  }
  EXPECT_EQ(sum.pages, stored.num_pages);
  EXPECT_EQ(sum.disk_bytes(), stored.disk_bytes);
  EXPECT_EQ(sum.bf16_bytes, stored.bf16_bytes);
}

INSTANTIATE_TEST_SUITE_P(Shapes,
                         ContextBytesOf,
                         testing::Values(Case{"int8", 1, 1, 1},
                                         Case{"int8", 40, 2, 1},
                                         Case{"int8", 1000, 1, 1},
                                         Case{"int4", 1000, 3, 2},
                                         Case{"rot3", 2049, 4, 5},
                                         Case{"bf16", 777, 8, 3}));

TEST(ContextBytes, CalibratedCodecsAreSizedWithoutTheModelsTables) {
  const KvPolicy policy{.codec = "klt2"};
  EXPECT_ERROR(BytesOfContext(Geometry(), policy, 5000, {}, 1), ErrorCode::kInvalidArgument);
  const auto geometry = WithStandInTables(Geometry(), policy);
  ASSERT_OK(geometry);
  const auto klt2 = BytesOfContext(*geometry, policy, 5000, {}, 1);
  const auto int8 = BytesOfContext(*geometry, {.codec = "int8"}, 5000, {}, 1);
  ASSERT_OK(klt2);
  ASSERT_OK(int8);
  EXPECT_LT(klt2->page_bytes, int8->page_bytes / 2);
  EXPECT_ERROR(WithStandInTables(Geometry(), {.codec = "none"}), ErrorCode::kInvalidArgument);
}

}  // namespace
}  // namespace varve::cli
