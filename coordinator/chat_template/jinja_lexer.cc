#include "coordinator/chat_template/jinja_lexer.h"

#include <algorithm>
#include <charconv>

#include "coordinator/chat_template/jinja_value.h"
#include "coordinator/tokenizer/utf8.h"

namespace varve::jinja {
namespace {

bool IsBlank(char c) {
  return c == ' ' || (c >= '\t' && c <= '\r');
}
bool IsDigit(char c) {
  return c >= '0' && c <= '9';
}
bool IsNameStart(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

// The longest match comes first.
constexpr std::string_view kOperators[] = {"==", "!=", "<=", ">=", "//", "**", "+", "-", "*",
                                           "/",  "%",  "~",  "<",  ">",  "=",  "(", ")", "[",
                                           "]",  "{",  "}",  ",",  ":",  ".",  "|"};

// Bounds how deep the tree of one tag can get (a + b + c + ...).
constexpr size_t kMaxTokensPerTag = 500;

class Lexer {
 public:
  explicit Lexer(std::string source) : source_(std::move(source)) {}

  Result<std::vector<Token>> Run() {
    while (position_ < source_.size()) {
      const size_t tag = FindTag(position_);
      if (tag == std::string::npos) {
        AddText(source_.substr(position_));
        break;
      }
      const bool is_expression = source_[tag + 1] == '{';
      AddTextBefore(tag, is_expression);
      if (source_[tag + 1] == '#') {
        VARVE_RETURN_IF_ERROR(SkipComment());
      } else {
        VARVE_RETURN_IF_ERROR(ReadTag(is_expression));
      }
    }
    Add(Token::Kind::kEnd, "");
    return std::move(tokens_);
  }

 private:
  void Add(Token::Kind kind, std::string text) {
    tokens_.push_back({kind, std::move(text), line_});
  }

  void AddText(std::string text) {
    if (!text.empty()) {
      Add(Token::Kind::kText, text);
    }
    line_ += static_cast<int>(std::count(text.begin(), text.end(), '\n'));
  }

  Error Wrong(std::string_view why) const {
    return TemplateError("line " + std::to_string(line_) + ": " + std::string(why));
  }

  bool At(std::string_view text) const {
    return source_.compare(position_, text.size(), text) == 0;
  }

  // Moves on and counts lines.
  void Advance(size_t num_bytes) {
    const auto begin = source_.begin() + static_cast<ptrdiff_t>(position_);
    line_ += static_cast<int>(std::count(begin, begin + static_cast<ptrdiff_t>(num_bytes), '\n'));
    position_ += num_bytes;
  }

  void SkipBlanks() {
    size_t end = position_;
    while (end < source_.size() && IsBlank(source_[end])) {
      ++end;
    }
    Advance(end - position_);
  }

  size_t FindTag(size_t from) const {
    for (size_t at = source_.find('{', from); at != std::string::npos;
         at = source_.find('{', at + 1)) {
      if (at + 1 < source_.size() &&
          (source_[at + 1] == '{' || source_[at + 1] == '%' || source_[at + 1] == '#')) {
        return at;
      }
    }
    return std::string::npos;
  }

  // The text up to `tag`, without the white space that the tag takes. Leaves position_ behind "{%"
  // and its sign.
  void AddTextBefore(size_t tag, bool is_expression) {
    std::string text = source_.substr(position_, tag - position_);
    const char sign = tag + 2 < source_.size() ? source_[tag + 2] : ' ';
    const int lines = static_cast<int>(std::count(text.begin(), text.end(), '\n'));
    if (sign == '-') {
      while (!text.empty() && IsBlank(text.back())) {
        text.pop_back();
      }
    } else if (sign != '+' && !is_expression) {
      const size_t line_begin = text.rfind('\n') == std::string::npos ? 0 : text.rfind('\n') + 1;
      const bool starts_line = line_begin > 0 || at_line_start_;
      const auto begin = text.begin() + static_cast<ptrdiff_t>(line_begin);
      if (starts_line && std::all_of(begin, text.end(), IsBlank)) {
        text.resize(line_begin);
      }
    }
    if (!text.empty()) {
      Add(Token::Kind::kText, std::move(text));
    }
    line_ += lines;
    position_ = tag + 2 + (sign == '-' || sign == '+' ? 1 : 0);
  }

  // Behind the closing tag: a '-' takes all white space, a block or comment without '+' the end of
  // its line.
  void FinishTag(char sign, bool is_expression) {
    const size_t begin = position_;
    if (sign == '-') {
      SkipBlanks();
    } else if (sign != '+' && !is_expression && position_ < source_.size() &&
               source_[position_] == '\n') {
      Advance(1);
    }
    at_line_start_ = position_ > begin && source_[position_ - 1] == '\n';
  }

  Result<void> SkipComment() {
    const size_t close = source_.find("#}", position_);
    if (close == std::string::npos) {
      return Wrong("a comment is not closed");
    }
    const char sign = close > position_ ? source_[close - 1] : ' ';
    Advance(close + 2 - position_);
    FinishTag(sign, false);
    return {};
  }

  Result<void> ReadTag(bool is_expression) {
    Add(is_expression ? Token::Kind::kExpressionBegin : Token::Kind::kBlockBegin, "");
    const std::string_view close = is_expression ? "}}" : "%}";
    int open_brackets = 0;
    const size_t num_tokens_before = tokens_.size();
    while (true) {
      SkipBlanks();
      if (tokens_.size() - num_tokens_before > kMaxTokensPerTag) {
        return Wrong("a tag has too many parts");
      }
      if (position_ >= source_.size()) {
        return Wrong("a tag is not closed");
      }
      char sign = ' ';
      if ((At("-") || (At("+") && !is_expression)) &&
          source_.compare(position_ + 1, 2, close) == 0) {
        sign = source_[position_];
        ++position_;
      }
      if (At(close) && open_brackets == 0) {
        Add(is_expression ? Token::Kind::kExpressionEnd : Token::Kind::kBlockEnd, "");
        position_ += 2;
        FinishTag(sign, is_expression);
        return {};
      }
      VARVE_RETURN_IF_ERROR(ReadToken());
      const Token& token = tokens_.back();
      if (token.kind != Token::Kind::kOperator) {
        continue;
      }
      if (token.text == "(" || token.text == "[" || token.text == "{") {
        ++open_brackets;
      }
      if (token.text == ")" || token.text == "]" || token.text == "}") {
        --open_brackets;
      }
      if (open_brackets < 0) {
        return Wrong("'" + token.text + "' closes nothing");
      }
    }
  }

  Result<void> ReadToken() {
    const char c = source_[position_];
    if (c == '"' || c == '\'') {
      return ReadString(c);
    }
    if (IsDigit(c)) {
      return ReadNumber();
    }
    if (IsNameStart(c)) {
      size_t end = position_;
      while (end < source_.size() && (IsNameStart(source_[end]) || IsDigit(source_[end]))) {
        ++end;
      }
      Add(Token::Kind::kName, source_.substr(position_, end - position_));
      position_ = end;
      return {};
    }
    for (const std::string_view op : kOperators) {
      if (!At(op)) {
        continue;
      }
      Add(Token::Kind::kOperator, std::string(op));
      position_ += op.size();
      return {};
    }
    return Wrong("unexpected character '" + std::string(1, c) + "'");
  }

  Result<void> ReadNumber() {
    const auto skip_digits = [this](size_t at) {
      while (at < source_.size() && IsDigit(source_[at])) {
        ++at;
      }
      return at;
    };
    const auto is_digit = [this](size_t at) { return at < source_.size() && IsDigit(source_[at]); };
    size_t end = skip_digits(position_);
    bool is_float = false;
    if (end < source_.size() && source_[end] == '.' && is_digit(end + 1)) {
      is_float = true;
      end = skip_digits(end + 1);
    }
    if (end < source_.size() && (source_[end] == 'e' || source_[end] == 'E')) {
      const bool has_sign =
          end + 1 < source_.size() && (source_[end + 1] == '-' || source_[end + 1] == '+');
      const size_t exponent = end + (has_sign ? 2 : 1);
      if (is_digit(exponent)) {
        is_float = true;
        end = skip_digits(exponent);
      }
    }
    Add(is_float ? Token::Kind::kFloat : Token::Kind::kInteger,
        source_.substr(position_, end - position_));
    position_ = end;
    return {};
  }

  Result<void> ReadString(char quote) {
    std::string text;
    size_t end = position_ + 1;
    while (end < source_.size() && source_[end] != quote) {
      if (source_[end] != '\\') {
        text.push_back(source_[end++]);
        continue;
      }
      VARVE_TRY(const size_t length, ReadEscape(end, &text));
      end += length;
    }
    if (end >= source_.size()) {
      return Wrong("a string is not closed");
    }
    Add(Token::Kind::kString, std::move(text));
    Advance(end + 1 - position_);
    return {};
  }

  // Appends what the escape at `at` means and gives its length. An unknown escape stands for
  // itself, as in Python.
  Result<size_t> ReadEscape(size_t at, std::string* text) const {
    if (at + 1 >= source_.size()) {
      return Wrong("a string is not closed");
    }
    const char c = source_[at + 1];
    constexpr std::string_view kNames = "ntrbfv0\\'\"\n";
    constexpr std::string_view kMeanings("\n\t\r\b\f\v\0\\'\"", 10);
    if (const size_t index = kNames.find(c); index != std::string_view::npos) {
      if (c != '\n') {
        text->push_back(kMeanings[index]);
      }
      return size_t{2};
    }
    const size_t num_digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    if (num_digits == 0) {
      text->append({'\\', c});
      return size_t{2};
    }
    uint32_t code_point = 0;
    const char* begin = source_.data() + at + 2;
    const char* end = begin + std::min(num_digits, source_.size() - at - 2);
    const auto parsed = std::from_chars(begin, end, code_point, 16);
    const bool is_scalar = code_point < 0xD800 || (code_point > 0xDFFF && code_point <= 0x10FFFF);
    if (parsed.ec != std::errc() || parsed.ptr != begin + num_digits || !is_scalar) {
      return Wrong("a string has a bad escape");
    }
    AppendUtf8(code_point, text);
    return 2 + num_digits;
  }

  const std::string source_;
  size_t position_ = 0;
  int line_ = 1;
  bool at_line_start_ = true;
  std::vector<Token> tokens_;
};

// "\r\n" and "\r" are "\n"; one newline at the end of the source is not text.
std::string NormalizeNewlines(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r' && i + 1 < source.size() && source[i + 1] == '\n') {
      continue;
    }
    out.push_back(source[i] == '\r' ? '\n' : source[i]);
  }
  if (out.ends_with('\n')) {
    out.pop_back();
  }
  return out;
}

}  // namespace

Result<std::vector<Token>> Lex(std::string_view source) {
  return Lexer(NormalizeNewlines(source)).Run();
}

}  // namespace varve::jinja
