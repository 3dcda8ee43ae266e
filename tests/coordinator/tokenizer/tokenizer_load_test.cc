// What Tokenizer::Load takes from the files of a model directory, and what it refuses.
#include <filesystem>
#include <functional>

#include "tests/coordinator/tokenizer/golden_vectors.h"

#include "gmock/gmock.h"

namespace varve {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using Json = nlohmann::json;

Json GoldenJson(const std::string& kind) {
  return Json::parse(ReadAll(GoldenDir(kind) + "/tokenizer.json"));
}

// Loads a directory with this tokenizer.json and these other files.
Result<std::shared_ptr<const Tokenizer>> LoadFrom(
    const Json& tokenizer_json,
    const std::vector<std::pair<std::string, Json>>& files = {}) {
  const std::string directory = MakeTestDir("load");
  WriteAll(directory + "/tokenizer.json", tokenizer_json.dump());
  for (const auto& [name, json] : files) {
    WriteAll(directory + "/" + name, json.dump());
  }
  return Tokenizer::Load(directory);
}

void ExpectRefused(const Result<std::shared_ptr<const Tokenizer>>& loaded,
                   ErrorCode code,
                   const std::string& message) {
  ASSERT_FALSE(loaded.has_value()) << message;
  EXPECT_EQ(ErrorName(loaded.error().code), ErrorName(code)) << loaded.error().message;
  EXPECT_THAT(loaded.error().message, HasSubstr(message));
}

// Sets one field of the golden tokenizer "gpt2" and expects a refusal.
struct Mutation {
  const char* pointer;
  Json value;
  ErrorCode code;
  const char* message;
};

void ExpectAllRefused(const std::string& kind, const std::vector<Mutation>& mutations) {
  const Json original = GoldenJson(kind);
  for (const Mutation& mutation : mutations) {
    Json json = original;
    json[Json::json_pointer(mutation.pointer)] = mutation.value;
    SCOPED_TRACE(mutation.pointer);
    ExpectRefused(LoadFrom(json), mutation.code, mutation.message);
  }
}

TEST(TokenizerLoadTest, RefusesUnsupportedFieldsByName) {
  const ErrorCode code = ErrorCode::kUnsupported;
  ExpectAllRefused(
      "gpt2",
      {{"/surprise", 1, code, "tokenizer.json: surprise is not supported"},
       {"/model/type", "Unigram", code, "tokenizer.json: model.type 'Unigram' is not supported"},
       {"/model/surprise", 1, code, "model.surprise"},
       {"/model/dropout", 0.1, code, "model.dropout"},
       {"/model/continuing_subword_prefix", "##", code, "model.continuing_subword_prefix"},
       {"/model/end_of_word_suffix", "</w>", code, "model.end_of_word_suffix"},
       {"/model/byte_fallback", true, code, "model.byte_fallback with ByteLevel"},
       {"/normalizer", {{"type", "Lowercase"}}, code, "normalizer.type 'Lowercase'"},
       {"/normalizer",
        {{"type", "Replace"}, {"pattern", {{"Regex", "a"}}}, {"content", ""}},
        code,
        "normalizer.pattern.Regex"},
       {"/pre_tokenizer", {{"type", "Whitespace"}}, code, "pre_tokenizer.type 'Whitespace'"},
       {"/pre_tokenizer/surprise", 1, code, "pre_tokenizer.surprise"},
       {"/pre_tokenizer",
        {{"type", "Sequence"}, {"pretokenizers", {{{"type", "ByteLevel"}}, {{"type", "Digits"}}}}},
        code,
        "pretokenizers[1].type 'Digits' behind ByteLevel"},
       {"/pre_tokenizer",
        {{"type", "Split"}, {"pattern", {{"Regex", "a"}}}, {"behavior", "Sideways"}},
        code,
        "behavior 'Sideways'"},
       {"/pre_tokenizer",
        {{"type", "Split"}, {"pattern", {{"Regex", "("}}}, {"behavior", "Isolated"}},
        code,
        "pre_tokenizer.pattern: The pattern '('"},
       {"/pre_tokenizer",
        {{"type", "Metaspace"}, {"replacement", "_"}, {"prepend_scheme", "maybe"}},
        code,
        "prepend_scheme 'maybe'"},
       {"/decoder", {{"type", "WordPiece"}}, code, "decoder.type 'WordPiece'"},
       {"/decoder", {{"type", "Metaspace"}, {"replacement", "_"}}, code, "ByteLevel in only one"},
       {"/post_processor",
        {{"type", "BertProcessing"}},
        code,
        "post_processor.type 'BertProcessing'"},
       {"/post_processor",
        {{"type", "TemplateProcessing"},
         {"single", {{{"Sequence", Json::object()}}, {{"SpecialToken", {{"id", "x"}}}}}}},
        code,
        "post_processor.single[1]"}});
}

TEST(TokenizerLoadTest, RefusesDecodersInAnotherOrder) {
  const ErrorCode code = ErrorCode::kUnsupported;
  const Json fuse = {{"type", "Fuse"}};
  const Json strip = {{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}};
  const Json strip_end = {{"type", "Strip"}, {"content", " "}, {"start", 0}, {"stop", 1}};
  const auto sequence = [](std::vector<Json> stages) {
    return Json{{"type", "Sequence"}, {"decoders", stages}};
  };
  ExpectAllRefused(
      "mistral",
      {{"/decoder", sequence({strip}), code, "'Strip' at this place"},
       {"/decoder",
        sequence({fuse, {{"type", "ByteFallback"}}}),
        code,
        "'ByteFallback' at this place"},
       {"/decoder", sequence({fuse, strip_end}), code, "other than blanks at the start"},
       {"/decoder", sequence({{{"type", "CTC"}}}), code, "decoder.decoders[0].type 'CTC'"}});
}

TEST(TokenizerLoadTest, RefusesMalformedFields) {
  const ErrorCode code = ErrorCode::kBadModel;
  ExpectAllRefused(
      "gpt2",
      {{"/model", 1, code, "model is not an object"},
       {"/model/vocab", Json::array(), code, "model.vocab is not an object"},
       {"/model/vocab/a", "x", code, "model.vocab.a is not an integer"},
       {"/model/vocab/a", -1, code, "model.vocab.a is not a token id"},
       {"/model/vocab/a", 5, code, "gives the id 5 to two tokens"},
       {"/model/merges", 1, code, "model.merges is not a list"},
       {"/model/merges/0", "abc", code, "model.merges[0] is not two tokens"},
       {"/model/merges/0", "qqq b c", code, "model.merges[0] names a token"},
       {"/model/merges/0", 1, code, "model.merges[0] is not a string"},
       {"/model/merges/0",
        "qqq q",
        code,
        "model.merges[0] names a token that is not in the vocabulary"},
       {"/model/unk_token", "qqq", code, "model.unk_token is not in the vocabulary"},
       {"/model/fuse_unk", 1, code, "model.fuse_unk is not true or false"},
       {"/added_tokens", 1, code, "added_tokens is not a list"},
       {"/added_tokens/0/content", 1, code, "added_tokens[0].content is not a string"},
       {"/added_tokens/0/id", 77, code, "two tokens"},
       {"/added_tokens/0", {{"id", 9999}, {"content", "a"}}, code, "different ids"},
       {"/normalizer", 1, code, "normalizer is not an object"},
       {"/pre_tokenizer",
        {{"type", "Split"}, {"pattern", {{"String", ""}}}, {"behavior", "Isolated"}},
        code,
        "pattern is empty"},
       {"/pre_tokenizer",
        {{"type", "Metaspace"}, {"replacement", ""}},
        code,
        "replacement is empty"},
       {"/decoder", nullptr, code, "decoder is not an object"},
       {"/post_processor", {{"type", "TemplateProcessing"}}, code, "single is not a list"},
       {"/post_processor",
        {{"type", "TemplateProcessing"},
         {"single", {{{"SpecialToken", {{"id", "x"}}}}}},
         {"special_tokens", {{"x", {{"ids", {1, 2}}}}}}},
        code,
        "ids is not one id"},
       {"/post_processor",
        {{"type", "TemplateProcessing"},
         {"single", {{{"SpecialToken", {{"id", "x"}}}}}},
         {"special_tokens", {{"x", {{"ids", {99999}}}}}}},
        code,
        "post_processor names an id that is not in the vocabulary"}});
}

TEST(TokenizerLoadTest, ReadsMergesOfBlanks) {
  Json json = GoldenJson("mistral");
  json["model"]["vocab"][" "] = 900;
  json["model"]["vocab"]["  "] = 901;
  json["model"]["merges"].push_back("   ");
  const auto loaded = LoadFrom(json);
  ASSERT_TRUE(loaded.has_value()) << loaded.error().message;
  EXPECT_EQ((*loaded)->TokenToId("  "), 901);
}

TEST(TokenizerLoadTest, RefusesDirectoriesWithoutATokenizer) {
  ExpectRefused(
      Tokenizer::Load(MakeTestDir("empty")), ErrorCode::kNotFound, "neither tokenizer.json nor");
  const std::string directory = MakeTestDir("broken");
  WriteAll(directory + "/tokenizer.model", "this is no model");
  ExpectRefused(Tokenizer::Load(directory),
                ErrorCode::kBadModel,
                "tokenizer.model is not a SentencePiece model");
  WriteAll(directory + "/tokenizer.json", "{");
  ExpectRefused(
      Tokenizer::Load(directory), ErrorCode::kBadModel, "tokenizer.json is not valid JSON");
  WriteAll(directory + "/tokenizer.json", "[]");
  ExpectRefused(
      Tokenizer::Load(directory), ErrorCode::kBadModel, "tokenizer.json is not a JSON object");
}

TEST(TokenizerLoadTest, RefusesConfigsThatContradict) {
  const Json json = GoldenJson("gpt2");
  const auto config = [&](const Json& fields) {
    return LoadFrom(json, {{"tokenizer_config.json", fields}});
  };
  ExpectRefused(config({{"eos_token", "<nope>"}}),
                ErrorCode::kBadModel,
                "eos_token '<nope>' is not in the vocabulary");
  ExpectRefused(config({{"bos_token", "<nope>"}}),
                ErrorCode::kBadModel,
                "bos_token '<nope>' is not in the vocabulary");
  ExpectRefused(config({{"bos_token", 7}}),
                ErrorCode::kBadModel,
                "tokenizer_config.json: bos_token is not a string");
  ExpectRefused(config({{"add_eos_token", true}}), ErrorCode::kUnsupported, "add_eos_token (true)");
  ExpectRefused(config({{"chat_template", {{{"name", "tools"}, {"template", "x"}}}}}),
                ErrorCode::kBadModel,
                "chat_template has no template named 'default'");
  ExpectRefused(config({{"added_tokens_decoder", {{"0", {{"content", "<other>"}}}}}}),
                ErrorCode::kBadModel,
                "added_tokens_decoder.0 is '<other>' but the vocabulary says");
  ExpectRefused(config({{"added_tokens_decoder", {{"x", {{"content", "a"}}}}}}),
                ErrorCode::kBadModel,
                "added_tokens_decoder.x is not named by a token id");
  ExpectRefused(LoadFrom(json, {{"generation_config.json", {{"eos_token_id", "x"}}}}),
                ErrorCode::kBadModel,
                "generation_config.json: eos_token_id is not an integer");
}

TEST(TokenizerLoadTest, KnowsHowTextsBegin) {
  EXPECT_EQ(LoadTokenizer(GoldenDir("llama3"))->bos_id(),
            LoadTokenizer(GoldenDir("llama3"))->TokenToId("<s>"));
  EXPECT_EQ(LoadTokenizer(GoldenDir("mistral"))->bos_id(), 1);
  EXPECT_EQ(LoadTokenizer(GoldenDir("gemma"))->bos_id(), 1);
  EXPECT_EQ(LoadTokenizer(GoldenDir("spm_bpe"))->bos_id(), 1);
  EXPECT_EQ(LoadTokenizer(GoldenDir("spm_unigram"))->bos_id(), std::nullopt);
  EXPECT_EQ(LoadTokenizer(GoldenDir("gpt2"))->bos_id(), std::nullopt);
  EXPECT_EQ(LoadTokenizer(GoldenDir("gpt2"))->bos_token(), "<|endoftext|>");
  EXPECT_EQ(LoadTokenizer(GoldenDir("qwen2"))->bos_token(), "");
  const auto without =
      LoadFrom(GoldenJson("mistral"), {{"tokenizer_config.json", {{"add_bos_token", false}}}});
  ASSERT_TRUE(without.has_value());
  EXPECT_EQ((*without)->bos_id(), std::nullopt);
  EXPECT_EQ((*without)->bos_token(), "<s>");
}

TEST(TokenizerLoadTest, KnowsHowAnswersEnd) {
  const Json json = GoldenJson("smollm");  // 0 <|endoftext|>, 1 <|im_start|>, 2 <|im_end|>
  const Json config = {{"eos_token", "<|im_end|>"}};
  const auto eos_ids = [&](const std::vector<std::pair<std::string, Json>>& files) {
    const auto loaded = LoadFrom(json, files);
    EXPECT_TRUE(loaded.has_value()) << loaded.error().message;
    return (*loaded)->eos_ids();
  };
  EXPECT_THAT(eos_ids({}), ElementsAre());
  EXPECT_THAT(eos_ids({{"tokenizer_config.json", config}}), ElementsAre(2));
  EXPECT_THAT(eos_ids({{"tokenizer_config.json", config}, {"config.json", {{"eos_token_id", 0}}}}),
              ElementsAre(0, 2));
  EXPECT_THAT(eos_ids({{"tokenizer_config.json", config},
                       {"generation_config.json", {{"eos_token_id", {2, 1}}}},
                       {"config.json", {{"eos_token_id", 0}}}}),
              ElementsAre(2, 1));
  EXPECT_THAT(
      eos_ids({{"special_tokens_map.json", {{"eos_token", {{"content", "<|endoftext|>"}}}}}}),
      ElementsAre(0));
  EXPECT_THAT(eos_ids({{"generation_config.json", {{"eos_token_id", nullptr}}}}), ElementsAre());
}

TEST(TokenizerLoadTest, FindsTheChatTemplate) {
  const Json json = GoldenJson("smollm");
  const auto chat_template = [&](const Json& field) {
    return (*LoadFrom(json, {{"tokenizer_config.json", {{"chat_template", field}}}}))
        ->chat_template();
  };
  EXPECT_EQ(chat_template("one"), "one");
  EXPECT_EQ(chat_template(nullptr), "");
  EXPECT_EQ(chat_template(
                {{{"name", "rag"}, {"template", "r"}}, {{"name", "default"}, {"template", "d"}}}),
            "d");
  const std::string directory = MakeTestDir("jinja_file");
  WriteAll(directory + "/tokenizer.json", json.dump());
  WriteAll(directory + "/tokenizer_config.json", R"({"chat_template": "old"})");
  WriteAll(directory + "/chat_template.jinja", "new");
  EXPECT_EQ(LoadTokenizer(directory)->chat_template(), "new");
}

TEST(TokenizerLoadTest, AddsTokensThatOnlyTheConfigKnows) {
  const Json token = {{"content", "<extra>"}, {"special", true}, {"normalized", false}};
  const auto loaded =
      LoadFrom(GoldenJson("gpt2"),
               {{"tokenizer_config.json", {{"added_tokens_decoder", {{"600", token}}}}}});
  ASSERT_TRUE(loaded.has_value()) << loaded.error().message;
  EXPECT_EQ((*loaded)->vocab_size(), 601);
  EXPECT_EQ((*loaded)->TokenToId("<extra>"), 600);
  EXPECT_TRUE((*loaded)->IsSpecial(600));
  EXPECT_EQ((*loaded)->IdToToken(599), std::nullopt);
  EXPECT_THAT((*loaded)->Encode("<extra>", {.parse_special = true}), ElementsAre(600));
}

TEST(TokenizerLoadTest, TheHashIsOfWhatDecidesTheIds) {
  const Json json = GoldenJson("gpt2");
  const uint64_t hash = (*LoadFrom(json))->content_hash();
  EXPECT_EQ((*LoadFrom(json))->content_hash(), hash);
  EXPECT_EQ(
      (*LoadFrom(json, {{"tokenizer_config.json", {{"chat_template", "x"}}}}))->content_hash(),
      hash);
  Json changed = json;
  changed["model"]["merges"].erase(changed["model"]["merges"].size() - 1);
  EXPECT_NE((*LoadFrom(changed))->content_hash(), hash);
  const Json token = {{"600", {{"content", "<extra>"}}}};
  EXPECT_NE((*LoadFrom(json, {{"tokenizer_config.json", {{"added_tokens_decoder", token}}}}))
                ->content_hash(),
            hash);
  EXPECT_NE(LoadTokenizer(GoldenDir("spm_bpe"))->content_hash(),
            LoadTokenizer(GoldenDir("spm_unigram"))->content_hash());
}

}  // namespace
}  // namespace varve
