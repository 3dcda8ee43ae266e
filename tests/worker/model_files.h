// Model files for tests: the committed goldens, and small broken or unusual ones written on the
// spot.
#pragma once

#include <cstring>
#include <fstream>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace varve {

inline std::string GoldenDir(const std::string& name) {
  return std::string(VARVE_SOURCE_DIR) + "/tests/golden/models/" + name;
}

inline std::string ReadText(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  EXPECT_TRUE(in.good()) << path;
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

inline void WriteText(const std::string& path, const std::string& text) {
  std::ofstream out(path, std::ios::binary);
  out << text;
  ASSERT_TRUE(out.good()) << path;
}

inline nlohmann::json GoldenConfig(const std::string& name,
                                   const std::string& file = "config.json") {
  return nlohmann::json::parse(ReadText(GoldenDir(name) + "/" + file));
}

// A safetensors file: 8 bytes of header length, the header, the data.
inline std::string Safetensors(const std::string& header, const std::string& data) {
  const uint64_t size = header.size();
  std::string bytes(sizeof(size), '\0');
  std::memcpy(bytes.data(), &size, sizeof(size));
  return bytes + header + data;
}

}  // namespace varve
