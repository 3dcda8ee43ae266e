#include <limits>

#include "tests/kvstore/tokens/page_cases.h"

namespace varve {
namespace {

const TokenPolicy& Qaq() {
  return PolicyNamed("qaq");
}

// All keys, values and masses alike: every token has the same demand. Heads of 64, so that the
// index of a token costs little beside it.
TestPage EvenPage(int32_t tokens = 32) {
  TestPage page(1, tokens, 64);
  const auto floats = static_cast<size_t>(tokens * page.num_kv_heads * page.head_dim);
  page.k.assign(floats, 0.1F);
  page.v.assign(floats, 0.1F);
  page.mass.assign(page.mass.size(), 1.0F);
  return page;
}

void Scale(float* row, int32_t head_dim, float factor) {
  for (int32_t d = 0; d < head_dim; ++d) {
    row[d] *= factor;
  }
}

// Bits of a value in a page as it is chosen, indices included.
double Bits(const TestPage& page, const KeptTokens& kept) {
  return 8.0 * static_cast<double>(ClassBytes(Qaq(), page.Budget(1), kept.class_sizes)) /
         (2.0 * page.num_tokens * page.num_kv_heads * page.head_dim);
}

TEST(Qaq, TokensOfTheSameDemandShareTheClassThatTheBudgetPays) {
  const TestPage page = EvenPage();
  // int8 takes 8.25 bits of a value, rot4 4.25, rot3 3.25, rot2 2.25.
  EXPECT_EQ(page.Choose(Qaq(), 1).class_sizes, (ClassSizes{32}));
  EXPECT_EQ(page.Choose(Qaq(), 0.52).class_sizes, (ClassSizes{0, 32}));
  EXPECT_EQ(page.Choose(Qaq(), 0.45).class_sizes, (ClassSizes{0, 0, 32}));
  EXPECT_EQ(page.Choose(Qaq(), 0.3).class_sizes, (ClassSizes{0, 0, 0, 32}));
  // Less than the least there is cannot be had.
  EXPECT_EQ(page.Choose(Qaq(), 0.01).class_sizes, (ClassSizes{0, 0, 0, 32}));
}

TEST(Qaq, TokensThatGetMuchAttentionGetMoreBitsInEachHead) {
  TestPage page = EvenPage();
  page.Mass(1, 7) = 200;   // of the first kv head's second q head
  page.Mass(2, 21) = 200;  // of the second kv head
  const KeptTokens kept = page.Choose(Qaq(), 0.5);
  EXPECT_EQ(kept.class_sizes[0], 1);
  EXPECT_EQ(ClassOf(page, kept, 0, 0), (std::set<int32_t>{7}));
  EXPECT_EQ(ClassOf(page, kept, 0, 1), (std::set<int32_t>{21}));
}

TEST(Qaq, ValuesCountByTheirNormAndTheirAttention) {
  TestPage page = EvenPage();
  std::fill(page.query_norms.begin(), page.query_norms.end(), 0.0F);  // keys may be what they like
  for (int32_t head = 0; head < page.num_kv_heads; ++head) {
    Scale(page.Value(9, head), page.head_dim, 40);
  }
  EXPECT_EQ(ClassOf(page, page.Choose(Qaq(), 0.5), 0, 0), (std::set<int32_t>{9}));
  for (int32_t head = 0; head < page.num_qo_heads; ++head) {
    page.Mass(head, 9) = 0;  // nobody looks at it
    page.Mass(head, 3) = 60;
  }
  const KeptTokens kept = page.Choose(Qaq(), 0.5);
  EXPECT_EQ(ClassOf(page, kept, 0, 1).count(9), 0U);
  EXPECT_EQ(ClassOf(page, kept, 0, 1).count(3), 1U);
}

TEST(Qaq, KeysCountByTheirNormWhoeverLooksAtThem) {
  TestPage page = EvenPage();
  std::fill(page.query_norms.begin(), page.query_norms.end(), 50.0F);
  for (int32_t head = 0; head < page.num_qo_heads; ++head) {
    page.Mass(head, 4) = 0;
  }
  for (int32_t head = 0; head < page.num_kv_heads; ++head) {
    Scale(page.Key(4, head), page.head_dim, 30);
  }
  EXPECT_EQ(ClassOf(page, page.Choose(Qaq(), 0.5), 0, 1), (std::set<int32_t>{4}));
  // Queries that are all short let keys be coarse.
  std::fill(page.query_norms.begin(), page.query_norms.end(), 1e-4F);
  EXPECT_EQ(page.Choose(Qaq(), 0.5).class_sizes[0], 0);
}

TEST(Qaq, BitsRiseWithDemand) {
  TestPage page = EvenPage();
  for (int32_t token = 0; token < 32; ++token) {
    for (int32_t head = 0; head < page.num_qo_heads; ++head) {
      page.Mass(head, token) = std::exp2(static_cast<float>(token) / 4);
    }
  }
  const KeptTokens kept = page.Choose(Qaq(), 0.6);
  int32_t end = 32;  // of the tokens that are left for this class and coarser ones
  for (size_t c = 0; c < kMaxTokenClasses; ++c) {
    ASSERT_GT(kept.class_sizes[c], 0) << c;
    const std::set<int32_t> tokens = ClassOf(page, kept, c, 0);
    EXPECT_EQ(*tokens.rbegin(), end - 1);
    EXPECT_EQ(*tokens.begin(), end - kept.class_sizes[c]);
    end = *tokens.begin();
  }
  // The error of rot3 is 1.9 times that of rot4, rot2's 1.85 times that: 0.9 of the 4 tokens in
  // which demand doubles.
  EXPECT_NEAR(kept.class_sizes[1], 4, 1);
  EXPECT_NEAR(kept.class_sizes[2], 4, 1);
}

TEST(Qaq, NeverTakesMoreThanItsShareAndMoreWithALargerOne) {
  for (const CodecId codec : {CodecId::kBf16, CodecId::kInt8, CodecId::kInt4, CodecId::kKivi4}) {
    for (const int32_t tokens : {1, 3, 32, 129}) {
      TestPage page(5, tokens, 64);
      page.codec = FindCodec(codec).value();
      int32_t precise = 0;
      double bits = 0;
      for (const double keep : {0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95, 1.0}) {
        SCOPED_TRACE(std::string(page.codec->name()) + ' ' + std::to_string(tokens) + ' ' +
                     std::to_string(keep));
        const KeptTokens kept = page.Choose(Qaq(), keep);
        const TokenBudget budget = page.Budget(keep);
        ASSERT_EQ(kept.num_kept, tokens);
        ASSERT_LE(ClassBytes(Qaq(), budget, kept.class_sizes), Qaq().MostBytes(budget));
        if (codec != CodecId::kKivi4) {  // the bytes of which grow by groups of tokens
          EXPECT_GE(kept.class_sizes[0], precise);
          EXPECT_GE(Bits(page, kept), bits);
        }
        precise = kept.class_sizes[0];
        bits = Bits(page, kept);
      }
      EXPECT_EQ(precise, tokens);
    }
  }
}

TEST(Qaq, UsesNoClassThatTakesMoreThanTheContextsCodec) {
  TestPage page(6, 32, 64);
  page.codec = FindCodec(CodecId::kRot3).value();
  const KeptTokens kept = page.Choose(Qaq(), 0.95);
  EXPECT_GT(kept.class_sizes[0], 0);
  EXPECT_EQ(kept.class_sizes[1] + kept.class_sizes[2], 0);
  EXPECT_GT(kept.class_sizes[3], 0);
  page.codec = FindCodec(CodecId::kRot2).value();
  EXPECT_EQ(page.Choose(Qaq(), 0.5).class_sizes, (ClassSizes{32}));
  // In heads of 32, 3 bits are padded to what 4 take.
  TestPage small(6, 32, 32);
  small.codec = FindCodec(CodecId::kBf16).value();
  const KeptTokens padded = small.Choose(Qaq(), 0.3);
  EXPECT_GT(padded.class_sizes[1], 0);
  EXPECT_EQ(padded.class_sizes[2], 0);
}

// Without observed queries nothing is known of attention: the longer keys get the bits.
TEST(Qaq, WithoutQueriesTheKeysDecide) {
  TestPage page = EvenPage();
  page.num_queries = 0;
  std::fill(page.mass.begin(), page.mass.end(), 0.0F);
  std::fill(page.query_norms.begin(), page.query_norms.end(), 0.0F);
  Scale(page.Key(11, 0), page.head_dim, 20);
  Scale(page.Key(30, 1), page.head_dim, 20);
  const KeptTokens kept = page.Choose(Qaq(), 0.5);
  EXPECT_EQ(ClassOf(page, kept, 0, 0), (std::set<int32_t>{11}));
  EXPECT_EQ(ClassOf(page, kept, 0, 1), (std::set<int32_t>{30}));
}

TEST(Qaq, WhatIsNotANumberStaysPrecise) {
  TestPage key = EvenPage();
  key.Key(2, 0)[3] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(ClassOf(key, key.Choose(Qaq(), 0.5), 0, 0), (std::set<int32_t>{2}));
  TestPage value = EvenPage();
  value.Value(17, 1)[0] = std::numeric_limits<float>::infinity();
  EXPECT_EQ(ClassOf(value, value.Choose(Qaq(), 0.5), 0, 1), (std::set<int32_t>{17}));
}

TEST(Qaq, LooksAtTheLastQueries) {
  EXPECT_EQ(Qaq().NumObservedQueries(128, 128), 32);
  EXPECT_EQ(Qaq().NumObservedQueries(8, 8), 16);
}

}  // namespace
}  // namespace varve
