#include "proto/base/result.h"

namespace varve {
namespace {

struct CodeRow {
  ErrorCode code;
  std::string_view name;
  int http_status;
  bool retryable;
};

constexpr CodeRow kCodes[] = {
#define VARVE_ERROR(name, number, http_status, retryable) \
  {ErrorCode::name, std::string_view(#name).substr(1), http_status, retryable},
#include "proto/base/error_codes.def"
#undef VARVE_ERROR
};

const CodeRow& RowOf(ErrorCode code) {
  for (const CodeRow& row : kCodes) {
    if (row.code == code) {
      return row;
    }
  }
  VARVE_UNREACHABLE("an ErrorCode that is not in error_codes.def");
}

}  // namespace

std::string_view ErrorName(ErrorCode code) {
  return RowOf(code).name;
}
int HttpStatus(ErrorCode code) {
  return RowOf(code).http_status;
}
bool IsRetryable(ErrorCode code) {
  return RowOf(code).retryable;
}

std::string Error::ToString() const {
  return std::string(ErrorName(code)) + ": " + message;
}

}  // namespace varve
