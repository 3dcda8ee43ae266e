// Result<T>: a value or an Error, for what may happen (bad input, full disk, lost peer). What must
// not happen is VARVE_CHECK's business (check.h). No exception crosses a folder of this project.
//
// The member names are those of std::expected, which gcc 12 lacks in C++20, so that a later swap is
// a rename of nothing.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

#include "proto/base/check.h"

namespace varve {

enum class ErrorCode {
#define VARVE_ERROR(name, number, http_status, retryable) name = number,
#include "proto/base/error_codes.def"
#undef VARVE_ERROR
};

// The code's name without the leading k, for example "PageCorrupt".
std::string_view ErrorName(ErrorCode code);
int HttpStatus(ErrorCode code);
bool IsRetryable(ErrorCode code);

struct Error {
  ErrorCode code = ErrorCode::kInternal;
  std::string message;  // a full sentence for a person: names the input and what would be right

  // "PageCorrupt: ..." for logs.
  std::string ToString() const;
};

template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value)
      : state_(std::in_place_index<0>, std::move(value)) {}  // NOLINT(google-explicit-constructor)
  Result(Error error)
      : state_(std::in_place_index<1>, std::move(error)) {}  // NOLINT(google-explicit-constructor)

  bool has_value() const { return state_.index() == 0; }
  explicit operator bool() const { return has_value(); }

  // REQUIRES: has_value().
  T& value() & {
    VARVE_CHECK(has_value());
    return *std::get_if<0>(&state_);
  }
  const T& value() const& {
    VARVE_CHECK(has_value());
    return *std::get_if<0>(&state_);
  }
  T&& value() && {
    VARVE_CHECK(has_value());
    return std::move(*std::get_if<0>(&state_));
  }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(*this).value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }

  // REQUIRES: !has_value().
  const Error& error() const& {
    VARVE_CHECK(!has_value());
    return *std::get_if<1>(&state_);
  }
  Error&& error() && {
    VARVE_CHECK(!has_value());
    return std::move(*std::get_if<1>(&state_));
  }

 private:
  std::variant<T, Error> state_;
};

// Success or an Error.
template <>
class [[nodiscard]] Result<void> {
 public:
  Result() = default;
  Result(Error error) : error_(std::move(error)) {}  // NOLINT(google-explicit-constructor)

  bool has_value() const { return !error_.has_value(); }
  explicit operator bool() const { return has_value(); }

  // REQUIRES: !has_value().
  const Error& error() const& {
    VARVE_CHECK(error_.has_value());
    return *error_;
  }
  Error&& error() && {
    VARVE_CHECK(error_.has_value());
    return std::move(*error_);
  }

 private:
  std::optional<Error> error_;
};

}  // namespace varve

// Returns the error of `expression` (a Result of any type) from the enclosing function.
#define VARVE_RETURN_IF_ERROR(expression)                  \
  do {                                                     \
    if (auto varve_result = (expression); !varve_result) { \
      return std::move(varve_result).error();              \
    }                                                      \
  } while (false)

// VARVE_TRY(auto page, store.Get(id)): declares or assigns the value, or returns the error.
#define VARVE_TRY(target, expression) VARVE_TRY_IMPL_(target, expression, __LINE__)
#define VARVE_TRY_IMPL_(target, expression, line) VARVE_TRY_IMPL2_(target, expression, line)
#define VARVE_TRY_IMPL2_(target, expression, line) \
  auto varve_try_##line = (expression);            \
  if (!varve_try_##line) {                         \
    return std::move(varve_try_##line).error();    \
  }                                                \
  target = std::move(varve_try_##line).value()
