// Assertions on Result: ASSERT_OK(expression), EXPECT_OK(expression), EXPECT_ERROR(expression,
// ErrorCode).
#pragma once

#include <gtest/gtest.h>

#include "proto/base/result.h"

namespace varve {

template <typename T>
testing::AssertionResult IsOk(const Result<T>& result) {
  if (result.has_value()) {
    return testing::AssertionSuccess();
  }
  return testing::AssertionFailure() << result.error().ToString();
}

template <typename T>
testing::AssertionResult IsError(const Result<T>& result, ErrorCode code) {
  if (result.has_value()) {
    return testing::AssertionFailure() << "a value, where " << ErrorName(code) << " was expected";
  }
  if (result.error().code != code) {
    return testing::AssertionFailure()
           << result.error().ToString() << ", where " << ErrorName(code) << " was expected";
  }
  if (result.error().message.empty()) {
    return testing::AssertionFailure() << "an error without a message";
  }
  return testing::AssertionSuccess();
}

}  // namespace varve

#define ASSERT_OK(expression) ASSERT_TRUE(::varve::IsOk(expression))
#define EXPECT_OK(expression) EXPECT_TRUE(::varve::IsOk(expression))
#define EXPECT_ERROR(expression, code) EXPECT_TRUE(::varve::IsError(expression, code))
#define ASSERT_ERROR(expression, code) ASSERT_TRUE(::varve::IsError(expression, code))
