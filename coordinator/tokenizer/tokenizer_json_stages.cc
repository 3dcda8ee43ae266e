// The "normalizer", "pre_tokenizer" and "decoder" of tokenizer.json.
#include "coordinator/tokenizer/tokenizer_json.h"
#include "coordinator/tokenizer/utf8.h"

#include <nlohmann/json.hpp>

namespace varve {
namespace {

constexpr int kMaxNesting = 8;  // Sequences inside Sequences

// What the ByteLevel pre-tokenizer cuts by when it is told to.
constexpr std::string_view kByteLevelPattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

Result<std::string> TypeOf(const JsonAt& stage) {
  VARVE_RETURN_IF_ERROR(stage.RequireObject());
  return stage.Field("type").AsString();
}

// "pattern": {"String": "x"}; the empty string matches nothing useful and is refused.
Result<std::string> ReadLiteral(const JsonAt& pattern) {
  VARVE_RETURN_IF_ERROR(pattern.RequireOnly({"String"}));
  VARVE_TRY(std::string literal, pattern.Field("String").AsString());
  if (literal.empty()) {
    return pattern.Bad("is empty");
  }
  return literal;
}

Result<ReplaceRule> ReadReplace(const JsonAt& stage) {
  VARVE_RETURN_IF_ERROR(stage.RequireOnly({"type", "pattern", "content"}));
  ReplaceRule rule;
  VARVE_TRY(rule.from, ReadLiteral(stage.Field("pattern")));
  VARVE_TRY(rule.to, stage.Field("content").AsString());
  return rule;
}

Result<void> AppendNormalizer(const JsonAt& stage, int depth, std::vector<NormalizerStep>* steps) {
  VARVE_TRY(const std::string type, TypeOf(stage));
  if (type == "NFC") {
    steps->emplace_back(UnicodeForm::kNfc);
  } else if (type == "NFD") {
    steps->emplace_back(UnicodeForm::kNfd);
  } else if (type == "NFKC") {
    steps->emplace_back(UnicodeForm::kNfkc);
  } else if (type == "NFKD") {
    steps->emplace_back(UnicodeForm::kNfkd);
  } else if (type == "Prepend") {
    VARVE_RETURN_IF_ERROR(stage.RequireOnly({"type", "prepend"}));
    VARVE_TRY(std::string text, stage.Field("prepend").AsString());
    steps->emplace_back(PrependRule{std::move(text)});
  } else if (type == "Replace") {
    VARVE_TRY(ReplaceRule rule, ReadReplace(stage));
    steps->emplace_back(std::move(rule));
  } else if (type == "Sequence" && depth < kMaxNesting) {
    const JsonAt list = stage.Field("normalizers");
    VARVE_RETURN_IF_ERROR(list.RequireArray());
    for (size_t i = 0; i < list.size(); ++i) {
      VARVE_RETURN_IF_ERROR(AppendNormalizer(list.Element(i), depth + 1, steps));
    }
  } else {
    return stage.Field("type").Unsupported("'" + type + "'");
  }
  return {};
}

Result<SplitRule> ReadSplit(const JsonAt& stage) {
  VARVE_RETURN_IF_ERROR(stage.RequireOnly({"type", "pattern", "behavior", "invert"}));
  VARVE_TRY(const bool invert, stage.Field("invert").AsBool(false));
  VARVE_TRY(const std::string name, stage.Field("behavior").AsString());
  SplitBehavior behavior = SplitBehavior::kIsolated;
  if (name == "Removed") {
    behavior = SplitBehavior::kRemoved;
  } else if (name == "MergedWithPrevious") {
    behavior = SplitBehavior::kMergedWithPrevious;
  } else if (name == "MergedWithNext") {
    behavior = SplitBehavior::kMergedWithNext;
  } else if (name == "Contiguous") {
    behavior = SplitBehavior::kContiguous;
  } else if (name != "Isolated") {
    return stage.Field("behavior").Unsupported("'" + name + "'");
  }
  const JsonAt pattern = stage.Field("pattern");
  VARVE_RETURN_IF_ERROR(pattern.RequireOnly({"String", "Regex"}));
  if (pattern.Field("Regex").is_null()) {
    VARVE_TRY(const std::string literal, ReadLiteral(pattern));
    VARVE_TRY(Regex regex, Regex::CompileLiteral(literal));
    return SplitRule{std::move(regex), behavior, invert};
  }
  VARVE_TRY(const std::string text, pattern.Field("Regex").AsString());
  auto regex = Regex::Compile(text);
  if (!regex) {
    return Error{regex.error().code, pattern.path + ": " + regex.error().message};
  }
  return SplitRule{std::move(regex).value(), behavior, invert};
}

Result<MetaspaceRule::Prepend> ReadPrependScheme(const JsonAt& stage) {
  if (stage.Field("prepend_scheme").is_null()) {
    VARVE_TRY(const bool add_prefix_space, stage.Field("add_prefix_space").AsBool(true));
    return add_prefix_space ? MetaspaceRule::Prepend::kAlways : MetaspaceRule::Prepend::kNever;
  }
  VARVE_TRY(const std::string scheme, stage.Field("prepend_scheme").AsString());
  if (scheme == "always") {
    return MetaspaceRule::Prepend::kAlways;
  }
  if (scheme == "never") {
    return MetaspaceRule::Prepend::kNever;
  }
  if (scheme == "first") {
    return MetaspaceRule::Prepend::kFirst;
  }
  return stage.Field("prepend_scheme").Unsupported("'" + scheme + "'");
}

Result<MetaspaceRule> ReadMetaspace(const JsonAt& stage) {
  VARVE_RETURN_IF_ERROR(stage.RequireOnly(
      {"type", "replacement", "prepend_scheme", "add_prefix_space", "split", "str_rep"}));
  MetaspaceRule rule;
  VARVE_TRY(rule.replacement, stage.Field("replacement").AsString());
  if (rule.replacement.empty()) {
    return stage.Field("replacement").Bad("is empty");
  }
  VARVE_TRY(rule.prepend, ReadPrependScheme(stage));
  VARVE_TRY(const bool split, stage.Field("split").AsBool(true));
  if (split) {
    VARVE_TRY(rule.split, Regex::CompileLiteral(rule.replacement));
  }
  return rule;
}

Result<void> AppendByteLevel(const JsonAt& stage, PreTokenizerJson* result) {
  VARVE_RETURN_IF_ERROR(
      stage.RequireOnly({"type", "add_prefix_space", "trim_offsets", "use_regex"}));
  VARVE_TRY(const bool add_prefix_space, stage.Field("add_prefix_space").AsBool(true));
  VARVE_TRY(const bool use_regex, stage.Field("use_regex").AsBool(true));
  if (add_prefix_space) {
    result->steps.emplace_back(PrefixSpaceRule());
  }
  if (use_regex) {
    VARVE_TRY(Regex regex, Regex::Compile(kByteLevelPattern));
    result->steps.emplace_back(SplitRule{std::move(regex), SplitBehavior::kIsolated, false});
  }
  result->is_byte_level = true;
  return {};
}

Result<void> AppendPreTokenizer(const JsonAt& stage, int depth, PreTokenizerJson* result) {
  VARVE_TRY(const std::string type, TypeOf(stage));
  // Behind ByteLevel the reference library cuts the byte-level spelling, not the text.
  if (result->is_byte_level) {
    return stage.Field("type").Unsupported("'" + type + "' behind ByteLevel");
  }
  if (type == "ByteLevel") {
    return AppendByteLevel(stage, result);
  }
  if (type == "Split") {
    VARVE_TRY(SplitRule rule, ReadSplit(stage));
    result->steps.emplace_back(std::move(rule));
  } else if (type == "Digits") {
    VARVE_RETURN_IF_ERROR(stage.RequireOnly({"type", "individual_digits"}));
    VARVE_TRY(const bool individual, stage.Field("individual_digits").AsBool(false));
    VARVE_TRY(Regex regex, Regex::Compile(individual ? R"(\p{N})" : R"(\p{N}+)"));
    result->steps.emplace_back(SplitRule{std::move(regex), SplitBehavior::kIsolated, false});
  } else if (type == "Metaspace") {
    VARVE_TRY(MetaspaceRule rule, ReadMetaspace(stage));
    result->steps.emplace_back(std::move(rule));
  } else if (type == "Sequence" && depth < kMaxNesting) {
    const JsonAt list = stage.Field("pretokenizers");
    VARVE_RETURN_IF_ERROR(list.RequireArray());
    for (size_t i = 0; i < list.size(); ++i) {
      VARVE_RETURN_IF_ERROR(AppendPreTokenizer(list.Element(i), depth + 1, result));
    }
  } else {
    return stage.Field("type").Unsupported("'" + type + "'");
  }
  return {};
}

// The stages of a Sequence come in one order: Replace*, ByteFallback, Fuse, Strip; any may be
// missing.
Result<void> AppendDecoder(const JsonAt& stage, int* progress, DecoderSpec* spec) {
  VARVE_TRY(const std::string type, TypeOf(stage));
  const std::initializer_list<std::string_view> order = {
      "Replace", "ByteFallback", "Fuse", "Strip"};
  const auto place = std::find(order.begin(), order.end(), type);
  if (place == order.end()) {
    return stage.Field("type").Unsupported("'" + type + "' in a Sequence");
  }
  const auto rank = static_cast<int>(place - order.begin());
  if (rank < *progress || (rank == 3 && *progress != 2)) {
    return stage.Field("type").Unsupported("'" + type + "' at this place of a Sequence");
  }
  *progress = rank;
  if (type == "Replace") {
    VARVE_TRY(ReplaceRule rule, ReadReplace(stage));
    spec->replacements.push_back(std::move(rule));
  } else if (type == "ByteFallback") {
    spec->byte_fallback = true;
  } else if (type == "Strip") {
    VARVE_RETURN_IF_ERROR(stage.RequireOnly({"type", "content", "start", "stop"}));
    VARVE_TRY(const std::string content, stage.Field("content").AsString());
    VARVE_TRY(const int64_t start, stage.Field("start").AsInt());
    VARVE_TRY(const int64_t stop, stage.Field("stop").AsInt());
    if (content != " " || start < 0 || stop != 0) {
      return stage.Unsupported("(other than blanks at the start)");
    }
    spec->num_stripped_spaces = static_cast<size_t>(start);
  }
  return {};
}

}  // namespace

Result<std::vector<NormalizerStep>> ReadNormalizerJson(const JsonAt& normalizer) {
  std::vector<NormalizerStep> steps;
  if (!normalizer.is_null()) {
    VARVE_RETURN_IF_ERROR(AppendNormalizer(normalizer, 0, &steps));
  }
  return steps;
}

Result<PreTokenizerJson> ReadPreTokenizerJson(const JsonAt& pre_tokenizer) {
  PreTokenizerJson result;
  if (!pre_tokenizer.is_null()) {
    VARVE_RETURN_IF_ERROR(AppendPreTokenizer(pre_tokenizer, 0, &result));
  }
  return result;
}

Result<DecoderSpec> ReadDecoderJson(const JsonAt& decoder) {
  DecoderSpec spec;
  VARVE_TRY(const std::string type, TypeOf(decoder));
  if (type == "ByteLevel") {
    spec.byte_level = true;
  } else if (type == "Metaspace") {
    VARVE_TRY(const MetaspaceRule rule, ReadMetaspace(decoder));
    spec.replacements.push_back({rule.replacement, " "});
    if (rule.prepend != MetaspaceRule::Prepend::kNever) {
      spec.first_token_drops = rule.replacement;
    }
  } else if (type == "Sequence") {
    const JsonAt list = decoder.Field("decoders");
    VARVE_RETURN_IF_ERROR(list.RequireArray());
    int progress = 0;
    for (size_t i = 0; i < list.size(); ++i) {
      VARVE_RETURN_IF_ERROR(AppendDecoder(list.Element(i), &progress, &spec));
    }
  } else {
    return decoder.Field("type").Unsupported("'" + type + "'");
  }
  return spec;
}

}  // namespace varve
