// The filters of text and numbers, and the table of all: {{ x | name(arguments) }}.
#include "coordinator/chat_template/jinja_filters.h"

#include <algorithm>
#include <cmath>

#include "coordinator/chat_template/jinja_text.h"

namespace varve::jinja {
namespace {

Result<Value> Trim(const Value& subject, const Arguments& arguments, Budget* budget) {
  VARVE_RETURN_IF_ERROR(arguments.Check("trim", 1, {"chars"}));
  VARVE_TRY(const std::string text, TextOf(subject, budget));
  return Value(Strip(text, TextArgument(arguments, 0, "chars", ""), Side::kBoth));
}

Result<Value> Length(const Value& subject, const Arguments& arguments, Budget* budget) {
  VARVE_RETURN_IF_ERROR(arguments.Check("length", 0, {}));
  if (subject.is_undefined()) {
    return Value(int64_t{0});
  }
  if (subject.is_string()) {
    VARVE_RETURN_IF_ERROR(budget->SpendBytes(subject.as_string().size()));
    return Value(static_cast<int64_t>(CountCodePoints(subject.as_string())));
  }
  if (subject.is_list()) {
    return Value(static_cast<int64_t>(subject.as_list().size()));
  }
  if (subject.is_dict()) {
    return Value(static_cast<int64_t>(subject.as_dict().entries.size()));
  }
  return TemplateError("it takes the length of " + std::string(subject.KindName()));
}

Result<Value> ToJsonFilter(const Value& subject, const Arguments& arguments, Budget* budget) {
  VARVE_RETURN_IF_ERROR(arguments.Check("tojson", 1, {"indent", "ensure_ascii"}));
  if (BoolArgument(arguments, SIZE_MAX, "ensure_ascii")) {
    return TemplateError("tojson cannot write ASCII only");
  }
  const int64_t indent = IntArgument(arguments, 0, "indent", -1);
  if (indent > 16) {
    return TemplateError("tojson is asked to indent too far");
  }
  VARVE_TRY(std::string text, ToJson(subject, static_cast<int>(std::max<int64_t>(indent, -1))));
  VARVE_RETURN_IF_ERROR(budget->SpendBytes(text.size()));
  return Value(std::move(text));
}

Result<Value> Default(const Value& subject, const Arguments& arguments, Budget* /*budget*/) {
  VARVE_RETURN_IF_ERROR(arguments.Check("default", 2, {"default_value", "boolean"}));
  const bool replace =
      subject.is_undefined() || (BoolArgument(arguments, 1, "boolean") && !subject.IsTrue());
  if (!replace) {
    return subject;
  }
  const Value* otherwise = arguments.Get(0, "default_value");
  return otherwise != nullptr ? *otherwise : Value("");
}

template <std::string (*kConvert)(std::string_view)>
Result<Value> Recased(const Value& subject, const Arguments& arguments, Budget* budget) {
  VARVE_RETURN_IF_ERROR(arguments.Check("a case filter", 0, {}));
  VARVE_TRY(const std::string text, TextOf(subject, budget));
  return Value(kConvert(text));
}

Result<Value> ToStringFilter(const Value& subject, const Arguments& arguments, Budget* budget) {
  VARVE_RETURN_IF_ERROR(arguments.Check("string", 0, {}));
  VARVE_TRY(std::string text, TextOf(subject, budget));
  return Value(std::move(text));
}

Result<Value> ToInt(const Value& subject, const Arguments& arguments, Budget* /*budget*/) {
  VARVE_RETURN_IF_ERROR(arguments.Check("int", 1, {"default"}));
  const int64_t otherwise = IntArgument(arguments, 0, "default", 0);
  if (subject.is_bool() || subject.is_int()) {
    return Value(subject.as_int());
  }
  double number = 0;
  if (subject.is_float()) {
    number = subject.as_double();
  } else if (subject.is_string()) {
    const std::string text(Strip(subject.as_string(), {}, Side::kBoth));
    char* end = nullptr;
    number = std::strtod(text.c_str(), &end);
    if (text.empty() || *end != '\0') {
      return Value(otherwise);
    }
  } else {
    return Value(otherwise);
  }
  constexpr double kLimit = 9e15;  // beyond it a double has no integers of its own
  return Value(std::fabs(number) < kLimit ? static_cast<int64_t>(number) : otherwise);
}

Result<Value> ToFloat(const Value& subject, const Arguments& arguments, Budget* /*budget*/) {
  VARVE_RETURN_IF_ERROR(arguments.Check("float", 0, {}));
  if (subject.is_number()) {
    return Value(subject.as_double());
  }
  if (!subject.is_string()) {
    return Value(0.0);
  }
  const std::string text(Strip(subject.as_string(), {}, Side::kBoth));
  char* end = nullptr;
  const double number = std::strtod(text.c_str(), &end);
  return Value(text.empty() || *end != '\0' ? 0.0 : number);
}

Result<Value> Absolute(const Value& subject, const Arguments& arguments, Budget* /*budget*/) {
  VARVE_RETURN_IF_ERROR(arguments.Check("abs", 0, {}));
  if (!subject.is_number()) {
    return TemplateError("it takes the absolute value of " + std::string(subject.KindName()));
  }
  if (subject.is_float()) {
    return Value(std::fabs(subject.as_double()));
  }
  return Value(subject.as_int() < 0 && subject.as_int() != INT64_MIN ? -subject.as_int()
                                                                     : subject.as_int());
}

Result<Value> Replace(const Value& subject, const Arguments& arguments, Budget* budget) {
  VARVE_RETURN_IF_ERROR(arguments.Check("replace", 3, {"old", "new", "count"}));
  VARVE_TRY(std::string text, TextOf(subject, budget));
  Arguments plain;
  plain.plain = {Value(TextArgument(arguments, 0, "old", "")),
                 Value(TextArgument(arguments, 1, "new", ""))};
  plain.plain.emplace_back(IntArgument(arguments, 2, "count", -1));
  return CallMethod("replace", Value(std::move(text)), plain, budget);
}

Result<Value> Indent(const Value& subject, const Arguments& arguments, Budget* budget) {
  VARVE_RETURN_IF_ERROR(arguments.Check("indent", 3, {"width", "first", "blank"}));
  const int64_t width = IntArgument(arguments, 0, "width", 4);
  if (width < 0 || width > 64) {
    return TemplateError("it indents too far");
  }
  VARVE_TRY(const std::string text, TextOf(subject, budget));
  const std::string blanks(static_cast<size_t>(width), ' ');
  std::string out;
  bool is_first = true;
  for (const std::string_view line : Split(text, "\n", -1)) {
    if (!is_first) {
      out += '\n';
    }
    const bool wanted = is_first ? BoolArgument(arguments, 1, "first")
                                 : !line.empty() || BoolArgument(arguments, 2, "blank");
    if (wanted) {
      out += blanks;
    }
    VARVE_RETURN_IF_ERROR(budget->Spend(1 + blanks.size() / 16));
    out += line;
    is_first = false;
  }
  return Value(std::move(out));
}

Result<Value> Same(const Value& subject, const Arguments& arguments, Budget* /*budget*/) {
  VARVE_RETURN_IF_ERROR(arguments.Check("safe", 0, {}));
  return subject;
}

const FilterTable& Filters() {
  static const FilterTable filters = {{"trim", Trim},
                                      {"length", Length},
                                      {"count", Length},
                                      {"tojson", ToJsonFilter},
                                      {"default", Default},
                                      {"d", Default},
                                      {"upper", Recased<ToUpper>},
                                      {"lower", Recased<ToLower>},
                                      {"title", Recased<ToTitle>},
                                      {"capitalize", Recased<ToCapitalized>},
                                      {"string", ToStringFilter},
                                      {"int", ToInt},
                                      {"float", ToFloat},
                                      {"abs", Absolute},
                                      {"replace", Replace},
                                      {"indent", Indent},
                                      {"safe", Same}};
  return filters;
}

}  // namespace

Result<std::string> TextOf(const Value& value, Budget* budget) {
  std::string text = value.ToText();
  VARVE_RETURN_IF_ERROR(budget->SpendBytes(text.size()));
  return text;
}

std::string TextArgument(const Arguments& arguments,
                         size_t index,
                         std::string_view name,
                         std::string_view otherwise) {
  const Value* value = arguments.Get(index, name);
  return value == nullptr || value->is_none() ? std::string(otherwise) : value->ToText();
}

int64_t IntArgument(const Arguments& arguments,
                    size_t index,
                    std::string_view name,
                    int64_t otherwise) {
  const Value* value = arguments.Get(index, name);
  return value == nullptr || !value->is_number() || value->is_float() ? otherwise : value->as_int();
}

bool BoolArgument(const Arguments& arguments, size_t index, std::string_view name) {
  const Value* value = arguments.Get(index, name);
  return value != nullptr && value->IsTrue();
}

bool IsKnownFilter(std::string_view name) {
  return Filters().contains(name) || SequenceFilters().contains(name);
}

Result<Value> ApplyFilter(std::string_view name,
                          const Value& subject,
                          const Arguments& arguments,
                          Budget* budget) {
  const FilterTable& table = Filters().contains(name) ? Filters() : SequenceFilters();
  return table.at(name)(subject, arguments, budget);
}

const Value* Arguments::Get(size_t index, std::string_view name) const {
  if (index < plain.size()) {
    return &plain[index];
  }
  const auto found = std::find_if(
      named.begin(), named.end(), [&](const auto& entry) { return entry.first == name; });
  return found == named.end() ? nullptr : &found->second;
}

Result<void> Arguments::Check(std::string_view callee,
                              size_t max_plain,
                              std::initializer_list<std::string_view> names) const {
  if (plain.size() > max_plain) {
    return TemplateError(std::string(callee) + " has too many arguments");
  }
  for (const auto& [name, value] : named) {
    if (std::find(names.begin(), names.end(), name) == names.end()) {
      return TemplateError(std::string(callee) + " has no argument '" + name + "'");
    }
  }
  return {};
}

}  // namespace varve::jinja
