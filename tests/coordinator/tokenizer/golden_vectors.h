// The golden tokenizers of tests/golden/tokenizers and the files of the shared test data, for the
// tests of this folder.
#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "coordinator/tokenizer/tokenizer.h"

#include "gtest/gtest.h"
#include <nlohmann/json.hpp>

namespace varve {

// Every kind of tokenizer that has goldens.
inline constexpr const char* kGoldenKinds[] = {"gpt2",
                                               "prefix_space",
                                               "llama3",
                                               "qwen2",
                                               "smollm",
                                               "llama2",
                                               "mistral",
                                               "metaspace",
                                               "gemma",
                                               "unknown",
                                               "spm_bpe",
                                               "spm_unigram"};

inline std::string GoldenDir(const std::string& kind) {
  return std::string(VARVE_SOURCE_DIR) + "/tests/golden/tokenizers/" + kind;
}

inline std::string ReadAll(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file.good()) << path;
  return {std::istreambuf_iterator<char>(file), {}};
}

inline void WriteAll(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

inline std::shared_ptr<const Tokenizer> LoadTokenizer(const std::string& directory) {
  auto tokenizer = Tokenizer::Load(directory);
  EXPECT_TRUE(tokenizer.has_value()) << directory << ": " << tokenizer.error().message;
  return tokenizer ? *tokenizer : nullptr;
}

// A directory of this test, emptied.
inline std::string MakeTestDir(const std::string& name) {
  const std::filesystem::path path =
      std::filesystem::path(testing::TempDir()) / ("varve_tokenizer_" + name);
  std::filesystem::remove_all(path);
  std::filesystem::create_directories(path);
  return path.string();
}

// Where the shared test data lie, if they are there.
inline std::optional<std::string> SharedDataDir() {
  const char* from_environment = std::getenv("VARVE_SHARED_DATA");
  const std::string path =
      from_environment != nullptr ? from_environment : VARVE_SOURCE_DIR "/../shared/data";
  if (!std::filesystem::exists(path + "/tokenizers")) {
    return std::nullopt;
  }
  return path;
}

}  // namespace varve
