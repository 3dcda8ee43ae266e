// The vocabularies and expected ids that others have published, where the shared test data are
// there; skipped elsewhere.
#include <filesystem>
#include <fstream>
#include <sstream>
#include <unordered_map>

#include "coordinator/tokenizer/utf8.h"
#include "tests/coordinator/tokenizer/golden_vectors.h"

namespace varve {
namespace {

using Ids = std::vector<int32_t>;
using Json = nlohmann::json;

constexpr const char* kLlama3Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kQwen2Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

std::string ByteLevelText(const std::string& bytes) {
  static const std::vector<std::string> spelling = [] {
    std::vector<std::string> table(256);
    char32_t next = 0x100;
    for (char32_t byte = 0; byte < 256; ++byte) {
      const bool printable = (byte > 0x20 && byte < 0x7F) || (byte > 0xA0 && byte != 0xAD);
      AppendUtf8(printable ? byte : next++, &table[byte]);
    }
    return table;
  }();
  std::string text;
  for (const char byte : bytes) {
    text += spelling[static_cast<unsigned char>(byte)];
  }
  return text;
}

std::string DecodeBase64(const std::string& text) {
  static const std::string digits =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string bytes;
  uint32_t bits = 0;
  int num_bits = 0;
  for (const char c : text) {
    if (c == '=') {
      break;
    }
    bits = bits << 6 | static_cast<uint32_t>(digits.find(c));
    num_bits += 6;
    if (num_bits >= 8) {
      bytes.push_back(static_cast<char>(bits >> (num_bits -= 8) & 0xFF));
    }
  }
  return bytes;
}

// The two parts that the token is merged from: what the merges of lower rank make of its bytes.
std::vector<std::string> PartsOf(const std::string& token,
                                 int32_t rank,
                                 const std::unordered_map<std::string, int32_t>& ranks) {
  std::vector<std::string> parts;
  for (const char byte : token) {
    parts.emplace_back(1, byte);
  }
  while (parts.size() > 2) {
    size_t best = parts.size();
    int32_t best_rank = rank;
    for (size_t i = 0; i + 1 < parts.size(); ++i) {
      const auto found = ranks.find(parts[i] + parts[i + 1]);
      if (found == ranks.end() || found->second >= best_rank) {
        continue;
      }
      best = i;
      best_rank = found->second;
    }
    if (best == parts.size()) {
      break;
    }
    parts[best] += parts[best + 1];
    parts.erase(parts.begin() + static_cast<ptrdiff_t>(best) + 1);
  }
  return parts;
}

// tokenizer.json of a file of tiktoken ranks.
std::shared_ptr<const Tokenizer> LoadRanks(const std::string& path,
                                           const char* pattern,
                                           bool llama3) {
  std::unordered_map<std::string, int32_t> ranks;
  std::vector<std::string> tokens;
  std::ifstream file(path);
  std::string base64;
  int32_t rank = 0;
  while (file >> base64 >> rank) {
    tokens.push_back(DecodeBase64(base64));
    ranks.emplace(tokens.back(), rank);
  }
  Json json = Json::parse(
      R"({"version": "1.0", "truncation": null, "padding": null, "post_processor": null})");
  json["decoder"] = {{"type", "ByteLevel"}};
  json["normalizer"] = llama3 ? Json() : Json{{"type", "NFC"}};
  const Json split = {{"type", "Split"},
                      {"pattern", {{"Regex", pattern}}},
                      {"behavior", "Isolated"},
                      {"invert", false}};
  const Json byte_level = {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}};
  json["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", {split, byte_level}}};
  Json& model =
      json["model"] = {{"type", "BPE"}, {"ignore_merges", llama3}, {"merges", Json::array()}};
  for (size_t i = 0; i < tokens.size(); ++i) {
    const auto id = static_cast<int32_t>(i);
    model["vocab"][ByteLevelText(tokens[i])] = id;
    if (tokens[i].size() < 2) {
      continue;
    }
    const auto parts = PartsOf(tokens[i], id, ranks);
    if (parts.size() == 2) {
      model["merges"].push_back({ByteLevelText(parts[0]), ByteLevelText(parts[1])});
    }
  }
  const int32_t bos = static_cast<int32_t>(tokens.size());
  json["added_tokens"] = {
      {{"id", bos}, {"content", "<|begin_of_text|>"}, {"special", true}, {"normalized", false}}};
  const std::string directory = MakeTestDir(llama3 ? "llama3" : "qwen");
  WriteAll(directory + "/tokenizer.json", json.dump());
  return LoadTokenizer(directory);
}

std::shared_ptr<const Tokenizer> LoadGpt2(const std::string& folder) {
  Json json;
  json["decoder"] = {{"type", "ByteLevel"}};
  json["pre_tokenizer"] = {{"type", "ByteLevel"}, {"add_prefix_space", false}};
  json["model"] = {{"vocab", Json::parse(ReadAll(folder + "/gpt2.vocab"))},
                   {"merges", Json::array()}};
  std::ifstream file(folder + "/gpt2.merges.txt");
  std::string line;
  while (std::getline(file, line)) {
    if (!line.empty() && !line.starts_with("#version")) {
      json["model"]["merges"].push_back(line);
    }
  }
  const std::string directory = MakeTestDir("gpt2");
  WriteAll(directory + "/tokenizer.json", json.dump());
  return LoadTokenizer(directory);
}

class PublishedVectorsTest : public testing::Test {
 protected:
  void SetUp() override {
    const auto shared = SharedDataDir();
    if (!shared) {
      GTEST_SKIP() << "No shared test data: set VARVE_SHARED_DATA to their folder.";
    }
    root_ = *shared + "/tokenizers";
  }

  // llama.cpp's files: the cases of NAME.inp, one line of ids per case in NAME.out.
  void ExpectLlamaCppIds(const Tokenizer& tokenizer, const std::string& name) const {
    const std::string base = root_ + "/llama_cpp_vectors/ggml-vocab-" + name + ".gguf";
    std::string input = ReadAll(base + ".inp");
    std::istringstream output(ReadAll(base + ".out"));
    const std::string separator = "\n__ggml_vocab_test__\n";
    std::string line;
    int num_cases = 0;
    for (; std::getline(output, line); ++num_cases) {
      const size_t end = input.find(separator);
      const std::string text = input.substr(0, end);
      input.erase(0, end == std::string::npos ? end : end + separator.size());
      std::istringstream ids(line);
      EXPECT_EQ(tokenizer.Encode(text), Ids(std::istream_iterator<int32_t>(ids), {})) << text;
    }
    EXPECT_GE(num_cases, 40);
  }

  // transformers.js' cases of one model. The expected ids start with BOS where the model has one.
  void ExpectTransformersIds(const Tokenizer& tokenizer,
                             const std::string& model,
                             const Ids& bos) const {
    const Json tests = Json::parse(ReadAll(root_ + "/hf_vectors/tokenizer_tests.json"));
    for (const Json& test : tests.at(model)) {
      Ids ids = bos;
      // The shared copy of the Llama 2 vocabulary has lost its no-break spaces: they have become
      // blanks.
      const bool has_lost_token =
          bos == Ids{1} && test["input"].is_string() &&
          test["input"].get<std::string>().find("\u00A0") != std::string::npos;
      if (!test["input"].is_string() || has_lost_token) {
        continue;
      }
      const Ids text_ids =
          tokenizer.Encode(test["input"].get<std::string>(), {.parse_special = true});
      ids.insert(ids.end(), text_ids.begin(), text_ids.end());
      EXPECT_EQ(ids, test["encoded"]["input_ids"].get<Ids>()) << test["input"];
      // Where the reference cleans up (" !" -> "!"), Varve gives back the input.
      const std::string decoded = tokenizer.Decode(ids, true);
      if (decoded != test["input"].get<std::string>()) {
        EXPECT_EQ(decoded, test["decoded_without_special"].get<std::string>()) << test["input"];
      }
    }
  }

  // onnxruntime's and transformers' samples: one long French text.
  void ExpectSampleIds(const Tokenizer& tokenizer, const std::string& file) const {
    const Json sample = Json::parse(ReadAll(root_ + "/hf_vectors/" + file));
    Ids expected = sample["token_ids"].get<Ids>();
    Ids ids = tokenizer.Encode(sample["text"].get<std::string>());
    if (ids.size() + 1 == expected.size()) {
      ids.insert(ids.begin(), expected.front());
    }
    EXPECT_EQ(ids, expected) << file;
  }

  // mistral-common's samples. After a special token they show the blank that the model puts before
  // text.
  void ExpectMistralIds(const std::string& model_file, const std::string& version) const {
    const std::string directory = MakeTestDir("mistral_" + version);
    std::filesystem::copy(root_ + "/mistral/" + model_file, directory + "/tokenizer.model");
    const auto tokenizer = LoadTokenizer(directory);
    int num_samples = 0;
    for (const auto& sample : std::filesystem::directory_iterator(root_ + "/mistral/samples")) {
      const std::string base = sample.path().string();
      if (!std::filesystem::exists(base + "/tokens_" + version + ".json")) {
        continue;
      }
      const Json expected = Json::parse(ReadAll(base + "/tokens_" + version + ".json"));
      std::string text = ReadAll(base + "/text_" + version + ".txt");
      const auto replace = [&text](const std::string& from, const std::string& to) {
        for (size_t at = text.find(from); at != std::string::npos;
             at = text.find(from, at + to.size())) {
          text.replace(at, from.size(), to);
        }
      };
      for (int32_t id = 0; id < tokenizer->vocab_size(); ++id) {
        if (tokenizer->IsSpecial(id)) {
          replace(std::string(*tokenizer->IdToToken(id)) + "▁",
                  std::string(*tokenizer->IdToToken(id)));
        }
      }
      replace("▁", " ");
      replace("<0x0A>", "\n");
      EXPECT_EQ(tokenizer->Encode(text, {.parse_special = true}), expected["tokens"].get<Ids>())
          << base;
      ++num_samples;
    }
    EXPECT_GT(num_samples, 0);
  }

  std::string root_;
};

TEST_F(PublishedVectorsTest, Llama3) {
  const auto tokenizer = LoadRanks(root_ + "/llama3/tokenizer.model", kLlama3Pattern, true);
  ASSERT_NE(tokenizer, nullptr);
  ExpectLlamaCppIds(*tokenizer, "llama-bpe");
  ExpectTransformersIds(*tokenizer, "pcuenq/Llama-3.2-1B-Instruct-tokenizer", {128000});
  ExpectSampleIds(*tokenizer, "llama_3.2_encoded.json");
}

TEST_F(PublishedVectorsTest, Qwen2) {
  const auto tokenizer = LoadRanks(root_ + "/qwen/qwen.tiktoken", kQwen2Pattern, false);
  ASSERT_NE(tokenizer, nullptr);
  ExpectLlamaCppIds(*tokenizer, "qwen2");
}

TEST_F(PublishedVectorsTest, Gpt2) {
  const auto tokenizer = LoadGpt2(root_ + "/gpt2");
  ASSERT_NE(tokenizer, nullptr);
  ExpectLlamaCppIds(*tokenizer, "gpt-2");
  ExpectTransformersIds(*tokenizer, "distilgpt2", {});
}

TEST_F(PublishedVectorsTest, Llama2) {
  const auto tokenizer = LoadTokenizer(root_ + "/hf_llama2");
  ASSERT_NE(tokenizer, nullptr);
  EXPECT_EQ(tokenizer->bos_id(), 1);
  EXPECT_EQ(tokenizer->eos_ids(), Ids{2});
  ExpectLlamaCppIds(*tokenizer, "llama-spm");
  ExpectTransformersIds(*tokenizer, "coreml-projects/Llama-2-7b-chat-coreml", {1});
  ExpectSampleIds(*tokenizer, "llama_encoded.json");
}

TEST_F(PublishedVectorsTest, MistralV1) {
  ExpectMistralIds("tokenizer.model.v1", "v1");
}
TEST_F(PublishedVectorsTest, MistralV3) {
  ExpectMistralIds("mistral_instruct_tokenizer_240323.model.v3", "v3");
}

}  // namespace
}  // namespace varve
