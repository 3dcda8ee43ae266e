#include "ops/cli/kv_codec.h"

#include <nlohmann/json.hpp>

namespace varve::cli {

std::string CodecText(const nlohmann::json& codec) {
  const auto name = [&](const char* rung) {
    const auto found = codec.find(rung);
    return found != codec.end() && found->is_string() ? found->get<std::string>() : std::string();
  };
  if (!codec.is_object()) {
    return codec.is_string() ? codec.get<std::string>() : std::string();
  }
  const std::string cold = name("cold");
  return name("hot") + "," + name("warm") + (cold.empty() ? "" : "," + cold);
}

nlohmann::json CodecObject(const std::string& text) {
  const size_t first = text.find(',');
  if (first == std::string::npos) {
    return text;
  }
  const size_t second = text.find(',', first + 1);
  nlohmann::json codec = {{"hot", text.substr(0, first)}};
  if (const std::string warm = text.substr(first + 1, second - first - 1); !warm.empty()) {
    codec["warm"] = warm;
  }
  if (second != std::string::npos) {
    codec["cold"] = text.substr(second + 1);
  }
  return codec;
}

nlohmann::json KvObject(const KvChoice& choice) {
  nlohmann::json object;
  if (!choice.codec.empty()) {
    object["codec"] = CodecObject(choice.codec);
  }
  if (!choice.tokens.empty()) {
    object["tokens"] = choice.tokens;
  }
  if (choice.keep) {
    object["keep"] = *choice.keep;
  }
  return object;
}

}  // namespace varve::cli
