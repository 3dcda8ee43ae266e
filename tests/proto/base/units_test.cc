#include "proto/base/units.h"

#include <gtest/gtest.h>

#include "tests/support/result_matchers.h"

namespace varve {
namespace {

TEST(Units, BytesAreBinaryMultiples) {
  EXPECT_EQ(ParseBytes("512").value(), 512U);
  EXPECT_EQ(ParseBytes("64KiB").value(), 64 * kKiB);
  EXPECT_EQ(ParseBytes("64k").value(), 64 * kKiB);
  EXPECT_EQ(ParseBytes("1.5 GiB").value(), kGiB + kGiB / 2);
  EXPECT_EQ(ParseBytes("2TB").value(), 2048 * kGiB);
  EXPECT_EQ(ParseBytes("7B").value(), 7U);
}

TEST(Units, CountsAreDecimalMultiples) {
  EXPECT_EQ(ParseCount("8192").value(), 8192U);
  EXPECT_EQ(ParseCount("10M").value(), 10'000'000U);
}

TEST(Units, NonsenseIsRefusedByName) {
  for (const char* text : {"", "GiB", "-1", "1Q", "1KiBx", "nan", "1e30", "12 parsecs"}) {
    EXPECT_ERROR(ParseBytes(text), ErrorCode::kInvalidArgument) << text;
    EXPECT_NE(ParseBytes(text).error().message.find(text), std::string::npos);
  }
}

TEST(Units, FormatsWithThreeDigits) {
  EXPECT_EQ(FormatBytes(17), "17 B");
  EXPECT_EQ(FormatBytes(kGiB + kGiB / 2), "1.50 GiB");
  EXPECT_EQ(FormatBytes(300 * kMiB), "300 MiB");
}

}  // namespace
}  // namespace varve
