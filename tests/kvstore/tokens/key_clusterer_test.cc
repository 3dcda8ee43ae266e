#include "kvstore/tokens/key_clusterer.h"

#include <bit>
#include <cmath>

#include <gtest/gtest.h>

#include "proto/base/rng.h"
#include "tests/kvstore/kv_support.h"

namespace varve {
namespace {

constexpr int32_t kHeads = 2;
constexpr int32_t kDim = 4;
constexpr size_t kRow = size_t{kHeads} * kDim;

// Keys of two heads, [num_tokens, kHeads, kDim]; head 1 has those of head 0 backwards.
std::vector<float> TwoHeads(const std::vector<std::vector<float>>& keys) {
  std::vector<float> k(keys.size() * kRow);
  for (size_t t = 0; t < keys.size(); ++t) {
    std::copy_n(keys[t].begin(), kDim, k.begin() + static_cast<ptrdiff_t>(t * kRow));
    std::copy_n(keys[keys.size() - 1 - t].begin(),
                kDim,
                k.begin() + static_cast<ptrdiff_t>(t * kRow + kDim));
  }
  return k;
}

std::vector<float> RandomKeys(uint64_t seed, size_t num_tokens) {
  Rng rng(seed);
  std::vector<float> k(num_tokens * kRow);
  for (float& x : k) {
    x = rng.NextNormal();
  }
  return k;
}

class KeyClustererTest : public testing::Test {
 protected:
  // The centroid of a cluster and head, as floats.
  std::vector<float> Centroid(size_t cluster, size_t head) const {
    std::vector<float> centroid;
    for (size_t d = 0; d < kDim; ++d) {
      const uint16_t bits = centroids_[(cluster * kHeads + head) * kDim + d];
      centroid.push_back(std::bit_cast<float>(static_cast<uint32_t>(bits) << 16));
    }
    return centroid;
  }
  void Cluster(const std::vector<float>& k, int32_t num_clusters) {
    centroids_.assign(static_cast<size_t>(num_clusters) * kRow, 0);
    clusterer_.Cluster(k.data(), static_cast<int32_t>(k.size() / kRow), num_clusters, centroids_);
  }

  KeyClusterer clusterer_{MakeGeometry(kHeads, kDim, {0})};
  std::vector<uint16_t> centroids_;
};

TEST_F(KeyClustererTest, TheSameKeysGiveTheSameCentroidsWhateverCameBefore) {
  const std::vector<float> k = RandomKeys(4, 128);
  Cluster(k, 4);
  const std::vector<uint16_t> first = centroids_;
  Cluster(RandomKeys(5, 40), 8);
  Cluster(k, 4);
  EXPECT_EQ(centroids_, first);
}

TEST_F(KeyClustererTest, CentroidsOfIdenticalKeysAreThatKey) {
  const std::vector<float> key = {1, -2, 0.5F, 3};
  Cluster(TwoHeads(std::vector<std::vector<float>>(64, key)), 4);
  for (size_t cluster = 0; cluster < 4; ++cluster) {
    EXPECT_EQ(Centroid(cluster, 0), key) << cluster;
    EXPECT_EQ(Centroid(cluster, 1), key) << cluster;
  }
}

// Keys of one direction go together, however long they are, and wherever they lie.
TEST_F(KeyClustererTest, ACentroidIsTheMeanOfTheKeysOfOneDirection) {
  std::vector<std::vector<float>> keys(8, {2, 0, 0, 0});
  keys.resize(16, {0, 0, 3, 0});
  keys[1] = {5, 0, 0, 0};
  keys[14] = {8, 0, 0, 0};
  Cluster(TwoHeads(keys), 2);
  EXPECT_EQ(Centroid(0, 0), (std::vector<float>{3, 0, 0, 0}));  // of seven 2, a 5 and an 8
  EXPECT_EQ(Centroid(1, 0), (std::vector<float>{0, 0, 3, 0}));
  EXPECT_EQ(Centroid(0, 1), Centroid(1, 0)) << "heads are divided by themselves";
  EXPECT_EQ(Centroid(1, 1), Centroid(0, 0));
}

TEST_F(KeyClustererTest, ThreeCentroidsAreNearerToTheKeysThanTheirMean) {
  const std::vector<float> k = RandomKeys(6, 96);
  Cluster(k, 3);
  const auto cosine = [&](size_t token, const std::vector<float>& centroid) {
    double dot = 0;
    double norm = 0;
    for (size_t d = 0; d < kDim; ++d) {
      dot += static_cast<double>(k[token * kRow + d]) * static_cast<double>(centroid[d]);
      norm += static_cast<double>(centroid[d]) * static_cast<double>(centroid[d]);
    }
    return dot / std::sqrt(norm);
  };
  double nearest = 0;
  double single = 0;
  const std::vector<std::vector<float>> three = {Centroid(0, 0), Centroid(1, 0), Centroid(2, 0)};
  Cluster(k, 1);
  for (size_t t = 0; t < 96; ++t) {
    double best = -10;
    for (const std::vector<float>& centroid : three) {
      best = std::max(best, cosine(t, centroid));
    }
    nearest += best;
    single += cosine(t, Centroid(0, 0));
  }
  EXPECT_GT(nearest, single + 40);
}

TEST_F(KeyClustererTest, AKeyUnlikeAllOthersHasAClusterOfItsOwn) {
  Rng rng(7);
  for (const size_t place : {1, 40, 127}) {
    std::vector<std::vector<float>> keys;
    for (size_t t = 0; t < 128; ++t) {
      keys.push_back({4, rng.NextNormal(), rng.NextNormal(), rng.NextNormal()});
    }
    keys[place] = {-4, 1, 0, 0};
    Cluster(TwoHeads(keys), 4);
    for (size_t head = 0; head < kHeads; ++head) {
      int found = 0;
      for (size_t cluster = 0; cluster < 4; ++cluster) {
        found += Centroid(cluster, head) == keys[place] ? 1 : 0;
      }
      EXPECT_EQ(found, 1) << place;
    }
  }
}

TEST_F(KeyClustererTest, KeysWithoutADirectionDoNoHarm) {
  std::vector<std::vector<float>> keys(32, {0, 0, 0, 0});
  keys[20] = {0, 5, 0, 0};
  Cluster(TwoHeads(keys), 2);
  for (const uint16_t bits : centroids_) {
    EXPECT_TRUE(std::isfinite(std::bit_cast<float>(static_cast<uint32_t>(bits) << 16)));
  }
}

TEST_F(KeyClustererTest, OneKeyIsItsOwnCluster) {
  Cluster(TwoHeads({{1, 2, 3, 4}}), 1);
  EXPECT_EQ(Centroid(0, 0), (std::vector<float>{1, 2, 3, 4}));
}

}  // namespace
}  // namespace varve
