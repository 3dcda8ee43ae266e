// Logging: one line per event, to stderr. Never from the hot path.
#pragma once

#include <string_view>

#include <spdlog/spdlog.h>

namespace varve {

// Sets format and level ("debug", "info", "warn", "error", "off") for the process. An unknown level
// is "info".
void InitLogging(std::string_view level);

}  // namespace varve
