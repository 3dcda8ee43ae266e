// Pages whose tokens are divided among classes of several codecs, sealed and read back.
#include <bit>
#include <cstring>
#include <set>

#include <gtest/gtest.h>

#include "kernels/attend.h"
#include "kernels/ref/reference_attention.h"
#include "tests/kvstore/tokens/page_cases.h"
#include "tests/kvstore/tokens/pruned_page_case.h"
#include "tests/support/result_matchers.h"

namespace varve {
namespace {

std::vector<const TokenPolicy*> MixedPolicies() {
  std::vector<const TokenPolicy*> policies;
  for (const TokenPolicy* policy : AllTokenPolicies()) {
    if (!policy->further_codecs().empty()) {
      policies.push_back(policy);
    }
  }
  return policies;
}

TEST(MixedPages, HoldEveryTokenOfEveryHeadOnceInTheCodecOfItsClass) {
  ASSERT_GE(MixedPolicies().size(), 2U);
  for (const TokenPolicy* tokens : MixedPolicies()) {
    for (const int64_t first_position : {int64_t{0}, int64_t{kTokens}}) {
      SCOPED_TRACE(std::string(tokens->name()) + " at " + std::to_string(first_position));
      const PrunedPageCase page("bf16", tokens, 0.6, first_position);
      const auto parsed = page.Parse();
      ASSERT_OK(parsed);
      EXPECT_TRUE(parsed->is_pruned);
      EXPECT_GE(parsed->runs.size(), 2U);
      for (int32_t head = 0; head < kKvHeads; ++head) {
        std::map<int32_t, CodecId> codec_of;
        for (const PageRun& run : parsed->runs) {
          for (int32_t i = 0; i < run.num_tokens; ++i) {
            const int32_t offset =
                run.token_indices == nullptr ? i : run.token_indices[head * run.num_tokens + i];
            ASSERT_TRUE(codec_of.emplace(run.first_token + offset, run.codec->id()).second);
          }
        }
        ASSERT_EQ(codec_of.size(), static_cast<size_t>(kTokens));
        for (const auto& [token, placed] : page.Chosen(head)) {
          const CodecId want = token < page.num_sinks()
                                   ? CodecId::kF32
                                   : page.policy().CodecOf(placed.token_class).id();
          EXPECT_EQ(codec_of.at(token), want) << token;
        }
      }
    }
  }
}

TEST(MixedPages, ASlidingWindowHidesWhatIsTooOldInEveryClass) {
  for (const TokenPolicy* tokens : MixedPolicies()) {
    SCOPED_TRACE(tokens->name());
    PrunedPageCase page("f32", tokens, 0.3, 0, kWindowLayer);
    const auto parsed = page.Parse();
    ASSERT_OK(parsed);
    EXPECT_TRUE(parsed->key_min_max.empty());
    const std::vector<KvView> views = page.Views(*parsed);
    ThreadTeam team(1);
    AttendScratch scratch;
    const AttendParams params = page.Params(views);
    ASSERT_EQ(params.window, kWindow);
    Attend(params, scratch, team);
    for (int32_t head = 0; head < kQoHeads; ++head) {
      const auto chosen = page.Chosen(head / 2);
      for (int32_t query = 0; query < kTokens; ++query) {
        const std::vector<double> want = page.Expected(query, head, chosen);
        for (size_t d = 0; d < kHeadDim; ++d) {
          ASSERT_NEAR(page.o()[static_cast<size_t>(query) * kQueryRow +
                               static_cast<size_t>(head) * kHeadDim + d],
                      want[d],
                      1e-4)
              << query;
        }
      }
    }
  }
}

TEST(MixedPages, KeyBoundsHoldForTheKeysOfAllClasses) {
  for (const TokenPolicy* tokens : MixedPolicies()) {
    SCOPED_TRACE(tokens->name());
    const PrunedPageCase page("int8", tokens, 0.4, 0);
    const auto parsed = page.Parse();
    ASSERT_OK(parsed);
    ASSERT_EQ(parsed->key_min_max.size(), 4 * kRow);
    const auto bound = [&](size_t i) {
      uint16_t bits = 0;
      std::memcpy(&bits, parsed->key_min_max.data() + 2 * i, 2);
      return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
    };
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
      for (size_t i = 0; i < k.size(); ++i) {
        ASSERT_GE(k[i], bound(i % kRow));
        ASSERT_LE(k[i], bound(kRow + i % kRow));
      }
    }
  }
}

TEST(MixedPages, APageThatFitsInOneClassIsSealedAsIfNobodyChose) {
  const PrunedPageCase plain("int8", nullptr, 1.0, 0);
  for (const TokenPolicy* tokens : MixedPolicies()) {
    EXPECT_EQ(PrunedPageCase("int8", tokens, 1.0, 0).record(), plain.record()) << tokens->name();
  }
  // Nothing is to be had for less than all in two bits: no indices, and the page can be cut short.
  const PrunedPageCase coarse("int8", &PolicyNamed("qaq"), 0.01, 0);
  const PrunedPageCase rot2("rot2", nullptr, 1.0, 0);
  EXPECT_EQ(coarse.record(), rot2.record());
  EXPECT_FALSE(coarse.Parse()->is_pruned);
}

TEST(MixedPages, TakeWhatTheirClassesTake) {
  for (const TokenPolicy* tokens : MixedPolicies()) {
    double bytes = 1e9;
    for (const double keep : {0.9, 0.6, 0.3, 0.1}) {
      const PrunedPageCase page("bf16", tokens, keep, kTokens);
      const auto size = static_cast<double>(page.record().size());
      EXPECT_LE(size, bytes) << tokens->name() << ' ' << keep;
      EXPECT_LE(page.record().size(), page.sealer().SealedBytes(page.policy(), page.identity()));
      EXPECT_EQ(page.sealer().KeptTokensOf(page.policy(), page.identity(), page.record().size()),
                kTokens);
      bytes = size;
    }
    EXPECT_LT(bytes, PrunedPageCase("bf16", nullptr, 1, kTokens).record().size()) << tokens->name();
  }
}

TEST(MixedPages, ATokenThatAHeadHasTwiceIsRefused) {
  const PrunedPageCase page("int8", &PolicyNamed("mikv"), 0.5, 0);
  const auto parsed = page.Parse();
  ASSERT_OK(parsed);
  ASSERT_EQ(parsed->runs.size(), 3U);
  const auto at = [&](const int32_t* index) {
    return static_cast<size_t>(reinterpret_cast<const std::byte*>(index) - page.record().data());
  };
  const PageRun& precise = parsed->runs[1];
  const PageRun& coarse = parsed->runs[2];
  const auto refused = [&](const int32_t* index, int32_t value) {
    std::vector<std::byte> record = page.record();
    std::memcpy(record.data() + at(index), &value, sizeof(value));
    ASSERT_TRUE(RewriteChecksum(page.identity().key, record));
    const auto again = ParsePageRecord(record, page.identity());
    ASSERT_ERROR(again, ErrorCode::kPageCorrupt);
    EXPECT_NE(again.error().message.find("token twice"), std::string::npos);
  };
  // Twice in one run, in two runs, and by an index that another head may have.
  refused(&precise.token_indices[1], precise.token_indices[0]);
  refused(&coarse.token_indices[0], precise.token_indices[0]);
  refused(&coarse.token_indices[coarse.num_tokens], precise.token_indices[precise.num_tokens]);
}

TEST(MixedPages, ARunOfACodecThatIsNotThereIsRefusedByName) {
  const PrunedPageCase page("int8", &PolicyNamed("mikv"), 0.5, 0);
  std::vector<std::byte> record = page.record();
  constexpr size_t kHeaderBytes = 96;
  constexpr size_t kRowBytes = 48;
  // Rows: sinks, int8 and its indices, rot2.
  const uint16_t unknown = 999;
  std::memcpy(record.data() + kHeaderBytes + 3 * kRowBytes + 4, &unknown, sizeof(unknown));
  ASSERT_TRUE(RewriteChecksum(page.identity().key, record));
  const auto parsed = ParsePageRecord(record, page.identity());
  ASSERT_ERROR(parsed, ErrorCode::kCodecMismatch);
  EXPECT_NE(parsed.error().message.find("999"), std::string::npos);
}

}  // namespace
}  // namespace varve
