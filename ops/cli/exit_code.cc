#include "ops/cli/exit_code.h"

#include <cstdio>

#include <fmt/format.h>

namespace varve::cli {

int ReportError(const Error& error) {
  fmt::print(stderr, "varve: {}\n", error.message);
  switch (error.code) {
    case ErrorCode::kUnavailable:
      return kExitUnreachable;
    case ErrorCode::kCancelled:
      return kExitInterrupted;
    default:
      return kExitFailure;
  }
}

int ReportUsageError(std::string_view command, std::string_view message) {
  fmt::print(stderr, "varve: {}\nRun `varve {} --help` for how it is used.\n", message, command);
  return kExitUsage;
}

}  // namespace varve::cli
