// How `varve` ends, for scripts. The same table is printed by `varve --help`.
#pragma once

#include "proto/base/result.h"

namespace varve::cli {

inline constexpr int kExitOk = 0;
inline constexpr int kExitFailure = 1;      // the work could not be done; stderr says why
inline constexpr int kExitUsage = 2;        // the command line or the settings are wrong
inline constexpr int kExitUnreachable = 3;  // no server answers at the URL, or it is stopping
inline constexpr int kExitInterrupted = 130;

// Prints "varve: <message>" to stderr and returns the exit code that belongs to the error.
int ReportError(const Error& error);

// Prints "varve: <message>" and where help is to stderr; returns kExitUsage.
int ReportUsageError(std::string_view command, std::string_view message);

}  // namespace varve::cli
