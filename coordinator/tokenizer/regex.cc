#include "coordinator/tokenizer/regex.h"

#include <string>

#include "coordinator/tokenizer/utf8.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

namespace varve {
namespace {

constexpr size_t kJitStackMinBytes = size_t{64} << 10;
constexpr size_t kJitStackMaxBytes = size_t{8} << 20;
constexpr uint32_t kHeapLimitKib = 64 << 10;

constexpr std::string_view kWhiteSpaceRanges =
    R"(\x{9}-\x{d}\x{20}\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";

Error Refused(std::string_view pattern, std::string_view why) {
  return Error{
      ErrorCode::kUnsupported,
      "The pattern '" + std::string(pattern) + "' is not supported: " + std::string(why) + "."};
}

// Translates from Oniguruma to PCRE2, see the header.
Result<std::string> Translate(std::string_view pattern) {
  std::string out;
  int class_depth = 0;
  for (size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    if (c == '[') {
      ++class_depth;
    }
    if (c == ']' && class_depth > 0) {
      --class_depth;
    }
    if (class_depth > 1) {
      return Refused(pattern, "nested character classes");
    }
    if (class_depth > 0 && pattern.substr(i, 2) == "&&") {
      return Refused(pattern, "intersection of classes (&&)");
    }
    if (c == '(' && pattern.substr(i, 3) == "(?m") {
      return Refused(pattern, "the option (?m)");
    }
    if (c != '\\') {
      out.push_back(c);
      continue;
    }
    if (++i == pattern.size()) {
      return Refused(pattern, "it ends in a backslash");
    }
    const char escaped = pattern[i];
    if (escaped == 'h' || escaped == 'H') {
      return Refused(pattern, "the escapes \\h and \\H");
    }
    if (escaped == 's') {
      out += class_depth > 0 ? std::string(kWhiteSpaceRanges)
                             : "[" + std::string(kWhiteSpaceRanges) + "]";
    } else if (escaped == 'S') {
      if (class_depth > 0) {
        return Refused(pattern, "\\S inside a character class");
      }
      out += "[^" + std::string(kWhiteSpaceRanges) + "]";
    } else {
      out.push_back('\\');
      out.push_back(escaped);
    }
  }
  return out;
}

}  // namespace

struct Regex::Scratch::State {
  pcre2_match_data* match_data = pcre2_match_data_create(16, nullptr);
  pcre2_match_context* context = pcre2_match_context_create(nullptr);
  pcre2_jit_stack* jit_stack =
      pcre2_jit_stack_create(kJitStackMinBytes, kJitStackMaxBytes, nullptr);

  State() {
    VARVE_CHECK(match_data != nullptr && context != nullptr);
    pcre2_set_match_limit(context, UINT32_MAX);
    pcre2_set_heap_limit(context, kHeapLimitKib);
    if (jit_stack != nullptr) {
      pcre2_jit_stack_assign(context, nullptr, jit_stack);
    }
  }
  State(const State&) = delete;
  State& operator=(const State&) = delete;
  ~State() {
    if (jit_stack != nullptr) {
      pcre2_jit_stack_free(jit_stack);
    }
    pcre2_match_context_free(context);
    pcre2_match_data_free(match_data);
  }
};

Regex::Scratch::Scratch() : state_(std::make_unique<State>()) {}
Regex::Scratch::~Scratch() = default;

struct Regex::Code {
  pcre2_code* compiled = nullptr;

  Code() = default;
  Code(const Code&) = delete;
  Code& operator=(const Code&) = delete;
  ~Code() { pcre2_code_free(compiled); }
};

Regex::Regex(std::unique_ptr<Code> code) : code_(std::move(code)) {}
Regex::Regex(Regex&&) noexcept = default;
Regex& Regex::operator=(Regex&&) noexcept = default;
Regex::~Regex() = default;

Result<Regex> Regex::CompileWith(std::string_view pattern, uint32_t options) {
  int error_number = 0;
  PCRE2_SIZE error_offset = 0;
  auto code = std::make_unique<Code>();
  code->compiled = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()),
                                 pattern.size(),
                                 options | PCRE2_UTF,
                                 &error_number,
                                 &error_offset,
                                 nullptr);
  if (code->compiled == nullptr) {
    PCRE2_UCHAR message[256] = {};
    pcre2_get_error_message(error_number, message, sizeof(message));
    return Refused(pattern, reinterpret_cast<const char*>(message));
  }
  // Without a JIT for this machine the interpreter matches: same results, slower.
  (void)pcre2_jit_compile(code->compiled, PCRE2_JIT_COMPLETE);
  return Regex(std::move(code));
}

Result<Regex> Regex::Compile(std::string_view pattern) {
  VARVE_TRY(const std::string translated, Translate(pattern));
  return CompileWith(translated, PCRE2_UCP);
}

Result<Regex> Regex::CompileLiteral(std::string_view literal) {
  return CompileWith(literal, PCRE2_LITERAL);
}

void Regex::Partition(std::string_view text,
                      Scratch* scratch,
                      std::vector<TextRange>* ranges) const {
  ranges->clear();
  Scratch::State& state = *scratch->state_;
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  size_t unmatched_begin = 0;
  size_t search_from = 0;
  while (search_from < text.size()) {
    int rc = pcre2_match(code_->compiled,
                         subject,
                         text.size(),
                         search_from,
                         PCRE2_NO_UTF_CHECK,
                         state.match_data,
                         state.context);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT) {
      rc = pcre2_match(code_->compiled,
                       subject,
                       text.size(),
                       search_from,
                       PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT,
                       state.match_data,
                       state.context);
    }
    if (rc < 0) {
      break;
    }  // no match, or out of the matcher's memory
    const PCRE2_SIZE* offsets = pcre2_get_ovector_pointer(state.match_data);
    const size_t begin = offsets[0];
    const size_t end = offsets[1];
    if (unmatched_begin < begin) {
      ranges->push_back({unmatched_begin, begin, false});
    }
    if (begin < end) {
      ranges->push_back({begin, end, true});
    }
    unmatched_begin = end;
    search_from = end;
    if (begin == end && end < text.size()) {
      (void)NextCodePoint(text, &search_from);
    }
  }
  if (unmatched_begin < text.size()) {
    ranges->push_back({unmatched_begin, text.size(), false});
  }
}

}  // namespace varve
