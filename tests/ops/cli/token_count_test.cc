#include "ops/cli/token_count.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/result_matchers.h"

namespace varve::cli {
namespace {

TEST(TokenCount, MultiplesAreBinary) {
  EXPECT_EQ(*ParseTokenCount("4096"), 4096);
  EXPECT_EQ(*ParseTokenCount("64K"), 65'536);
  EXPECT_EQ(*ParseTokenCount("1M"), 1'048'576);
  EXPECT_EQ(*ParseTokenCount("1.5m"), 1'572'864);
  EXPECT_EQ(*ParseTokenCount("10M"), 10'485'760);
}

TEST(TokenCount, RefusesWhatIsNoNumberOfTokensAndQuotesIt) {
  for (const char* text : {"", "K", "-1", "0", "1KiB", "1G", "1M tokens", "nan", "1e300"}) {
    const Result<int64_t> parsed = ParseTokenCount(text);
    ASSERT_FALSE(parsed) << text;
    EXPECT_EQ(parsed.error().code, ErrorCode::kInvalidArgument);
    EXPECT_THAT(parsed.error().message, testing::HasSubstr("'" + std::string(text) + "'"));
  }
}

TEST(TokenCount, IsWrittenAsItIsRead) {
  for (const char* text : {"1M", "10M", "64K", "1536K", "4097"}) {
    EXPECT_EQ(FormatTokenCount(*ParseTokenCount(text)), text);
  }
}

}  // namespace
}  // namespace varve::cli
