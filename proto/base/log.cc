#include "proto/base/log.h"

#include <spdlog/sinks/stdout_color_sinks.h>

namespace varve {

void InitLogging(std::string_view level) {
  auto logger = spdlog::stderr_color_mt("varve");
  logger->set_pattern("%Y-%m-%dT%H:%M:%S.%e %^%l%$ %v");
  spdlog::set_default_logger(std::move(logger));
  auto parsed = spdlog::level::from_str(std::string(level));
  if (parsed == spdlog::level::off && level != "off") {
    parsed = spdlog::level::info;
  }
  spdlog::set_level(parsed);
}

}  // namespace varve
