#include "proto/base/result.h"

#include <memory>
#include <set>

#include <gtest/gtest.h>

#include "tests/support/result_matchers.h"

namespace varve {
namespace {

constexpr ErrorCode kAllCodes[] = {
#define VARVE_ERROR(name, number, http_status, retryable) ErrorCode::name,
#include "proto/base/error_codes.def"
#undef VARVE_ERROR
};

Result<int> Half(int value) {
  if (value % 2 != 0) {
    return Error{ErrorCode::kInvalidArgument, "an odd number"};
  }
  return value / 2;
}

Result<int> Quarter(int value) {
  VARVE_TRY(const int half, Half(value));
  VARVE_TRY(const int quarter, Half(half));
  return quarter;
}

Result<void> CheckHalves(int value) {
  VARVE_RETURN_IF_ERROR(Half(value));
  return {};
}

TEST(ErrorCodes, NumbersAndNamesAreUniqueAndStatusesAreErrors) {
  std::set<int> numbers;
  std::set<std::string_view> names;
  for (const ErrorCode code : kAllCodes) {
    EXPECT_TRUE(numbers.insert(static_cast<int>(code)).second);
    EXPECT_TRUE(names.insert(ErrorName(code)).second);
    EXPECT_GE(HttpStatus(code), 400);
    EXPECT_LT(HttpStatus(code), 600);
  }
  EXPECT_TRUE(IsRetryable(ErrorCode::kResourceExhausted));
  EXPECT_FALSE(IsRetryable(ErrorCode::kPageCorrupt));
  EXPECT_EQ(ErrorName(ErrorCode::kPageCorrupt), "PageCorrupt");
}

TEST(Result, TryPassesValuesOnAndReturnsTheFirstError) {
  ASSERT_OK(Quarter(8));
  EXPECT_EQ(Quarter(8).value(), 2);
  EXPECT_ERROR(Quarter(6), ErrorCode::kInvalidArgument);
  EXPECT_ERROR(Quarter(3), ErrorCode::kInvalidArgument);
  EXPECT_OK(CheckHalves(4));
  EXPECT_ERROR(CheckHalves(5), ErrorCode::kInvalidArgument);
}

TEST(Result, HoldsValuesThatOnlyMove) {
  Result<std::unique_ptr<int>> made = std::make_unique<int>(7);
  ASSERT_OK(made);
  const std::unique_ptr<int> taken = std::move(made).value();
  EXPECT_EQ(*taken, 7);
}

TEST(ResultDeathTest, TheValueOfAnErrorIsABug) {
  EXPECT_DEATH((void)Half(1).value(), "check failed");
}

}  // namespace
}  // namespace varve
