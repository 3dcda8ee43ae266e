// A page pruned, sealed and read back: what attention sees of it is what the policy chose.
#include "kvstore/tokens/page_pruner.h"

#include <algorithm>
#include <cmath>

#include <gtest/gtest.h>

#include "kernels/attend.h"
#include "kernels/ref/reference_attention.h"
#include "proto/base/hash.h"
#include "tests/kvstore/tokens/pruned_page_case.h"
#include "tests/support/result_matchers.h"

namespace varve {
namespace {

TEST(PagePruner, AttentionOverAPrunedPageIsThatOverTheKeptTokensWithTheirWeights) {
  for (const TokenPolicy* tokens : AllTokenPolicies()) {
    for (const int64_t first_position : {int64_t{0}, int64_t{kTokens}}) {
      SCOPED_TRACE(std::string(tokens->name()) + " at " + std::to_string(first_position));
      PrunedPageCase page("f32", tokens, 0.3, first_position);
      const auto parsed = page.Parse();
      ASSERT_OK(parsed);
      const std::vector<KvView> views = page.Views(*parsed);
      double tolerance = 0.0;
      for (const KvView& view : views) {
        tolerance = std::max(tolerance, AttendTolerance(view.codec));
      }
      ThreadTeam team(1);
      AttendScratch scratch;
      Attend(page.Params(views), scratch, team);
      for (int32_t head = 0; head < kQoHeads; ++head) {
        const auto chosen = page.Chosen(head / 2);
        for (int32_t query = 0; query < kTokens; ++query) {
          const std::vector<double> want = page.Expected(query, head, chosen);
          for (size_t d = 0; d < kHeadDim; ++d) {
            ASSERT_NEAR(page.o()[static_cast<size_t>(query) * kQueryRow +
                                 static_cast<size_t>(head) * kHeadDim + d],
                        want[d],
                        tolerance);
          }
        }
      }
    }
  }
}

TEST(PagePruner, EveryCodecHoldsEveryPolicysChoice) {
  for (const Codec* codec : AllCodecs()) {
    for (const TokenPolicy* tokens : AllTokenPolicies()) {
      for (const double keep : {0.05, 0.5, 0.95}) {
        SCOPED_TRACE(std::string(codec->name()) + ' ' + std::string(tokens->name()) + ' ' +
                     std::to_string(keep));
        PrunedPageCase page(std::string(codec->name()), tokens, keep, 0);
        const uint64_t most = page.sealer().SealedBytes(page.policy(), page.identity());
        if (tokens->size_depends_on_data()) {
          ASSERT_LE(page.record().size(), most);
        } else {
          ASSERT_EQ(page.record().size(), most);
        }
        const auto parsed = page.Parse();
        ASSERT_OK(parsed);
        int32_t held = 0;
        for (const PageRun& run : parsed->runs) {
          held += run.num_tokens;
        }
        // Exact where a record's size tells: records are padded to 64 bytes.
        ASSERT_LE(std::abs(page.sealer().KeptTokensOf(
                               page.policy(), page.identity(), page.record().size()) -
                           held),
                  tokens->size_depends_on_data() ? 3 : 0);
        ASSERT_LE(held, kTokens);
        const std::vector<KvView> views = page.Views(*parsed);
        ThreadTeam team(1);
        AttendScratch scratch;
        const AttendParams params = page.Params(views);
        Attend(params, scratch, team);
        const ReferenceState want = ReferenceAttend(params);
        for (size_t i = 0; i < want.lse.size(); ++i) {
          ASSERT_NEAR(page.lse()[i], want.lse[i], 2e-3);
        }
      }
    }
  }
}

// Codecs that undo the rotation of keys must know where each kept token stood.
TEST(PagePruner, KeptKeysComeBackWhereTheyStood) {
  for (const TokenPolicy* tokens : AllTokenPolicies()) {
    PrunedPageCase page("nuq4", tokens, 0.5, 5 * kTokens);
    const auto parsed = page.Parse();
    ASSERT_OK(parsed);
    for (const KvView& view : page.Views(*parsed)) {
      std::vector<float> k(static_cast<size_t>(view.num_tokens) * kRow);
      std::vector<float> v(k.size());
      FindCodec(view.codec)
          .value()
          ->Decode({kKvHeads, kHeadDim, view.token_capacity},
                   0,
                   view.num_tokens,
                   view.encoded,
                   view.context(),
                   k.data(),
                   v.data());
      double error = 0.0;
      for (int32_t head = 0; head < kKvHeads; ++head) {
        for (int32_t t = 0; t < view.num_tokens; ++t) {
          const int32_t token =
              view.token_indices == nullptr ? t : view.token_indices[head * view.num_tokens + t];
          for (int32_t d = 0; d < kHeadDim; ++d) {
            const auto channel = static_cast<size_t>(head * kHeadDim + d);
            const double exact = page.k()[static_cast<size_t>(token) * kRow + channel];
            error += std::pow(k[static_cast<size_t>(t) * kRow + channel] - exact, 2);
          }
        }
      }
      // A turn by other positions would make it 2 for these normal numbers.
      EXPECT_LT(error / static_cast<double>(k.size()), 1.0) << tokens->name();
    }
  }
}

TEST(PagePruner, APageOfWhichAllStaysIsSealedAsIfNothingPruned) {
  PrunedPageCase pruned("int8", *AllTokenPolicies().begin(), 1.0, 0);
  PrunedPageCase plain("int8", nullptr, 1.0, 0);
  EXPECT_EQ(pruned.record(), plain.record());
}

// What was sealed before there were classes is sealed the same way now.
TEST(PagePruner, RecordsOfPoliciesWithoutFurtherClassesDoNotChange) {
  struct Golden {
    const char* tokens;
    const char* codec;
    uint64_t hash;
  };
  const Golden goldens[] = {
      {"streaming", "int8", 0xd266aee12d748b98},
      {"streaming", "rot4", 0xb68fe6b24ca14d3b},
      {"l2norm", "int8", 0xb636a3560cbbfd37},
      {"l2norm", "rot4", 0x575e8299e040a537},
      {"h2o", "int8", 0x6b22dee190802b4a},
      {"h2o", "rot4", 0x86b155fc8fd954b1},
      {"snapkv", "int8", 0xb6d342815cd154da},
      {"snapkv", "rot4", 0xe02ec162c2154034},
      {"pyramidkv", "int8", 0xf0aedf536e691121},
      {"pyramidkv", "rot4", 0xd02b136faf8f0659},
      {"prefixkv", "int8", 0x5eaf9ab4a73e9f83},
      {"prefixkv", "rot4", 0x62494f2d452a0b1c},
      {"dbudget", "int8", 0xb9f36a511c0e8aa2},
      {"dbudget", "rot4", 0x289239a122acf9f7},
      {"kvcrush", "int8", 0x6311fa819d5b97bb},
      {"kvcrush", "rot4", 0x07702fdfcbe7222a},
      {"balancekv", "int8", 0x740a78b6c03e43a5},
      {"balancekv", "rot4", 0xc36cadfdbd2c0f49},
  };
  for (const Golden& golden : goldens) {
    KvPolicy policy;
    policy.tokens = golden.tokens;
    policy.keep = 0.5;
    uint64_t hash = 0;
    for (const double keep : {0.05, 0.4, 0.95}) {
      for (const int64_t first_position : {int64_t{0}, int64_t{kTokens}}) {
        const PrunedPageCase page(
            golden.codec, FindTokenPolicy(policy).value(), keep, first_position);
        hash = Hash64(page.record(), hash);
      }
    }
    EXPECT_EQ(hash, golden.hash) << golden.tokens << ' ' << golden.codec;
  }
}

TEST(PagePruner, NothingButSinksIsLeftWhereNothingIsKept) {
  KvPolicy streaming;
  streaming.tokens = "streaming";
  streaming.keep = 0;
  const TokenPolicy* policy = FindTokenPolicy(streaming).value();
  PrunedPageCase first("int8", policy, 0, 0);
  const auto sinks = first.Parse();
  ASSERT_OK(sinks);
  EXPECT_TRUE(sinks->is_pruned);
  ASSERT_EQ(sinks->runs.size(), 1U);
  EXPECT_EQ(sinks->runs[0].num_tokens, kSinks);
  EXPECT_EQ(sinks->runs[0].token_indices, nullptr);
  PrunedPageCase later("int8", policy, 0, kTokens);
  const auto nothing = later.Parse();
  ASSERT_OK(nothing);
  EXPECT_TRUE(nothing->is_pruned);
  EXPECT_TRUE(nothing->runs.empty());
  EXPECT_TRUE(nothing->key_min_max.empty());
}

}  // namespace
}  // namespace varve
