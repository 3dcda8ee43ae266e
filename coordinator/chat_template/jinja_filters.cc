// The filters: {{ x | name(arguments) }}.
#include <algorithm>
#include <cmath>
#include <unordered_map>

#include "coordinator/chat_template/jinja_builtins.h"
#include "coordinator/chat_template/jinja_text.h"

namespace varve::jinja {
namespace {

using FilterFunction = Result<Value> (*)(const Value& subject,
                                         const Arguments& arguments,
                                         Budget* budget);

// Text filters take anything and see its text.
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

Result<Value> Trim(const Value& subject, const Arguments& arguments, Budget* budget) {
  VARVE_RETURN_IF_ERROR(arguments.Check("trim", 1, {"chars"}));
  VARVE_TRY(const std::string text, TextOf(subject, budget));
  return Value(Strip(text, TextArgument(arguments, 0, "chars", ""), Side::kBoth));
}

Result<Value> Length(const Value& subject, const Arguments& arguments, Budget* budget) {
  VARVE_RETURN_IF_ERROR(arguments.Check("length", 0, {}));
  if (subject.is_undefined()) return Value(int64_t{0});
  if (subject.is_string()) {
    VARVE_RETURN_IF_ERROR(budget->SpendBytes(subject.as_string().size()));
    return Value(static_cast<int64_t>(CountCodePoints(subject.as_string())));
  }
  if (subject.is_list()) return Value(static_cast<int64_t>(subject.as_list().size()));
  if (subject.is_dict()) return Value(static_cast<int64_t>(subject.as_dict().entries.size()));
  return TemplateError("it takes the length of " + std::string(subject.KindName()));
}

Result<Value> ToJsonFilter(const Value& subject, const Arguments& arguments, Budget* budget) {
  VARVE_RETURN_IF_ERROR(arguments.Check("tojson", 1, {"indent", "ensure_ascii"}));
  if (BoolArgument(arguments, SIZE_MAX, "ensure_ascii"))
    return TemplateError("tojson cannot write ASCII only");
  const int64_t indent = IntArgument(arguments, 0, "indent", -1);
  if (indent > 16) return TemplateError("tojson is asked to indent too far");
  VARVE_TRY(std::string text, ToJson(subject, static_cast<int>(std::max<int64_t>(indent, -1))));
  VARVE_RETURN_IF_ERROR(budget->SpendBytes(text.size()));
  return Value(std::move(text));
}

Result<Value> Default(const Value& subject, const Arguments& arguments, Budget* /*budget*/) {
  VARVE_RETURN_IF_ERROR(arguments.Check("default", 2, {"default_value", "boolean"}));
  const bool replace =
      subject.is_undefined() || (BoolArgument(arguments, 1, "boolean") && !subject.IsTrue());
  if (!replace) return subject;
  const Value* otherwise = arguments.Get(0, "default_value");
  return otherwise != nullptr ? *otherwise : Value("");
}

template <std::string (*kConvert)(std::string_view)>
Result<Value> Recased(const Value& subject, const Arguments& arguments, Budget* budget) {
  VARVE_RETURN_IF_ERROR(arguments.Check("a case filter", 0, {}));
  VARVE_TRY(const std::string text, TextOf(subject, budget));
  return Value(kConvert(text));
}

Result<Value> ToList(const Value& subject, const Arguments& arguments, Budget* budget) {
  VARVE_RETURN_IF_ERROR(arguments.Check("list", 0, {}));
  VARVE_TRY(std::vector<Value> items, Iterate(subject, budget));
  return Value::MakeList(std::move(items));
}

// "a.b" or a number: what map(attribute=...) and its kin look at.
Result<Value> AttributeOf(const Value& item, const std::string& path) {
  Value value = item;
  for (const std::string_view name : Split(path, ".", -1)) {
    VARVE_TRY(value, GetAttribute(value, name));
  }
  return value;
}

Result<Value> Join(const Value& subject, const Arguments& arguments, Budget* budget) {
  VARVE_RETURN_IF_ERROR(arguments.Check("join", 2, {"d", "attribute"}));
  VARVE_TRY(const std::vector<Value> items, Iterate(subject, budget));
  const std::string separator = TextArgument(arguments, 0, "d", "");
  const std::string attribute = TextArgument(arguments, 1, "attribute", "");
  std::string out;
  for (size_t i = 0; i < items.size(); ++i) {
    Value item = items[i];
    if (!attribute.empty()) {
      VARVE_TRY(item, AttributeOf(item, attribute));
    }
    VARVE_TRY(const std::string text, TextOf(item, budget));
    if (i > 0) out += separator;
    out += text;
    VARVE_RETURN_IF_ERROR(budget->SpendBytes(separator.size()));
  }
  return Value(std::move(out));
}

Result<Value> Items(const Value& subject, const Arguments& arguments, Budget* budget) {
  VARVE_RETURN_IF_ERROR(arguments.Check("items", 0, {}));
  if (subject.is_undefined()) return Value::MakeList({});
  if (!subject.is_dict())
    return TemplateError("it takes the items of " + std::string(subject.KindName()));
  return CallMethod("items", subject, {}, budget);
}

Result<Value> DictSort(const Value& subject, const Arguments& arguments, Budget* budget) {
  VARVE_RETURN_IF_ERROR(arguments.Check("dictsort", 0, {}));
  if (!subject.is_dict())
    return TemplateError("it sorts " + std::string(subject.KindName()) + " as a dict");
  std::vector<std::pair<std::string, Value>> entries = subject.as_dict().entries;
  std::stable_sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) {
    return ToLower(a.first) < ToLower(b.first);
  });
  VARVE_TRY(const Value sorted, Value::MakeDict(std::move(entries), false));
  return CallMethod("items", sorted, {}, budget);
}

template <bool kFirst>
Result<Value> End(const Value& subject, const Arguments& arguments, Budget* budget) {
  VARVE_RETURN_IF_ERROR(arguments.Check(kFirst ? "first" : "last", 0, {}));
  VARVE_TRY(const std::vector<Value> items, Iterate(subject, budget));
  if (items.empty()) return Value(Undefined{kFirst ? "first" : "last"});
  return kFirst ? items.front() : items.back();
}

Result<Value> ToStringFilter(const Value& subject, const Arguments& arguments, Budget* budget) {
  VARVE_RETURN_IF_ERROR(arguments.Check("string", 0, {}));
  VARVE_TRY(std::string text, TextOf(subject, budget));
  return Value(std::move(text));
}

Result<Value> ToInt(const Value& subject, const Arguments& arguments, Budget* /*budget*/) {
  VARVE_RETURN_IF_ERROR(arguments.Check("int", 1, {"default"}));
  const int64_t otherwise = IntArgument(arguments, 0, "default", 0);
  if (subject.is_bool() || subject.is_int()) return Value(subject.as_int());
  double number = 0;
  if (subject.is_float()) {
    number = subject.as_double();
  } else if (subject.is_string()) {
    const std::string text(Strip(subject.as_string(), {}, Side::kBoth));
    char* end = nullptr;
    number = std::strtod(text.c_str(), &end);
    if (text.empty() || *end != '\0') return Value(otherwise);
  } else {
    return Value(otherwise);
  }
  constexpr double kLimit = 9e15;  // beyond it a double has no integers of its own
  return Value(std::fabs(number) < kLimit ? static_cast<int64_t>(number) : otherwise);
}

Result<Value> ToFloat(const Value& subject, const Arguments& arguments, Budget* /*budget*/) {
  VARVE_RETURN_IF_ERROR(arguments.Check("float", 0, {}));
  if (subject.is_number()) return Value(subject.as_double());
  if (!subject.is_string()) return Value(0.0);
  const std::string text(Strip(subject.as_string(), {}, Side::kBoth));
  char* end = nullptr;
  const double number = std::strtod(text.c_str(), &end);
  return Value(text.empty() || *end != '\0' ? 0.0 : number);
}

Result<Value> Absolute(const Value& subject, const Arguments& arguments, Budget* /*budget*/) {
  VARVE_RETURN_IF_ERROR(arguments.Check("abs", 0, {}));
  if (!subject.is_number())
    return TemplateError("it takes the absolute value of " + std::string(subject.KindName()));
  if (subject.is_float()) return Value(std::fabs(subject.as_double()));
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

// select, reject (of items), selectattr, rejectattr (of an attribute of items): by a test, or by
// truth.
template <bool kByAttribute, bool kKeep>
Result<Value> Select(const Value& subject, const Arguments& arguments, Budget* budget) {
  constexpr size_t kTestIndex = kByAttribute ? 1 : 0;
  VARVE_RETURN_IF_ERROR(arguments.Check("a select filter", kTestIndex + 2, {}));
  if (kByAttribute && arguments.plain.empty())
    return TemplateError("selectattr wants an attribute");
  const std::string attribute = kByAttribute ? arguments.plain[0].ToText() : "";
  const std::string test = TextArgument(arguments, kTestIndex, "", "");
  if (!test.empty() && !IsKnownTest(test)) return TemplateError("there is no test '" + test + "'");
  std::vector<Value> test_arguments;
  if (arguments.plain.size() > kTestIndex + 1)
    test_arguments.push_back(arguments.plain[kTestIndex + 1]);
  VARVE_TRY(const std::vector<Value> items, Iterate(subject, budget));
  std::vector<Value> kept;
  for (const Value& item : items) {
    Value looked_at = item;
    if (kByAttribute) {
      VARVE_TRY(looked_at, AttributeOf(item, attribute));
    }
    bool passes = looked_at.IsTrue();
    if (!test.empty()) {
      VARVE_TRY(passes, ApplyTest(test, looked_at, test_arguments));
    }
    if (passes == kKeep) kept.push_back(item);
  }
  return Value::MakeList(std::move(kept));
}

Result<Value> Map(const Value& subject, const Arguments& arguments, Budget* budget) {
  VARVE_RETURN_IF_ERROR(arguments.Check("map", SIZE_MAX, {"attribute", "default"}));
  const Value* attribute = arguments.Get(SIZE_MAX, "attribute");
  const std::string filter = TextArgument(arguments, 0, "", "");
  if (attribute == nullptr && !IsKnownFilter(filter))
    return TemplateError("there is no filter '" + filter + "'");
  if (filter == "map") return TemplateError("it maps the filter map");
  Arguments filter_arguments;
  if (!arguments.plain.empty())
    filter_arguments.plain.assign(arguments.plain.begin() + 1, arguments.plain.end());
  VARVE_TRY(std::vector<Value> items, Iterate(subject, budget));
  for (Value& item : items) {
    if (attribute == nullptr) {
      VARVE_TRY(item, ApplyFilter(filter, item, filter_arguments, budget));
      continue;
    }
    VARVE_TRY(item, AttributeOf(item, attribute->ToText()));
    const Value* otherwise = arguments.Get(SIZE_MAX, "default");
    if (item.is_undefined() && otherwise != nullptr) item = *otherwise;
  }
  return Value::MakeList(std::move(items));
}

Result<Value> Reverse(const Value& subject, const Arguments& arguments, Budget* budget) {
  VARVE_RETURN_IF_ERROR(arguments.Check("reverse", 0, {}));
  VARVE_TRY(std::vector<Value> items, Iterate(subject, budget));
  std::reverse(items.begin(), items.end());
  VARVE_TRY(const Value reversed, Value::MakeList(std::move(items)));
  return subject.is_string() ? Join(reversed, {}, budget) : reversed;
}

Result<Value> Indent(const Value& subject, const Arguments& arguments, Budget* budget) {
  VARVE_RETURN_IF_ERROR(arguments.Check("indent", 3, {"width", "first", "blank"}));
  const int64_t width = IntArgument(arguments, 0, "width", 4);
  if (width < 0 || width > 64) return TemplateError("it indents too far");
  VARVE_TRY(const std::string text, TextOf(subject, budget));
  const std::string blanks(static_cast<size_t>(width), ' ');
  std::string out;
  bool is_first = true;
  for (const std::string_view line : Split(text, "\n", -1)) {
    if (!is_first) out += '\n';
    const bool wanted = is_first ? BoolArgument(arguments, 1, "first")
                                 : !line.empty() || BoolArgument(arguments, 2, "blank");
    if (wanted) out += blanks;
    VARVE_RETURN_IF_ERROR(budget->Spend(1 + blanks.size() / 16));
    out += line;
    is_first = false;
  }
  return Value(std::move(out));
}

Result<Value> Unique(const Value& subject, const Arguments& arguments, Budget* budget) {
  VARVE_RETURN_IF_ERROR(arguments.Check("unique", 0, {}));
  VARVE_TRY(const std::vector<Value> items, Iterate(subject, budget));
  std::vector<Value> kept;
  for (const Value& item : items) {
    VARVE_RETURN_IF_ERROR(budget->Spend(kept.size()));
    const bool seen = std::any_of(
        kept.begin(), kept.end(), [&](const Value& other) { return Equal(item, other); });
    if (!seen) kept.push_back(item);
  }
  return Value::MakeList(std::move(kept));
}

Result<Value> Same(const Value& subject, const Arguments& arguments, Budget* /*budget*/) {
  VARVE_RETURN_IF_ERROR(arguments.Check("safe", 0, {}));
  return subject;
}

const std::unordered_map<std::string_view, FilterFunction>& Filters() {
  static const std::unordered_map<std::string_view, FilterFunction> filters = {
      {"trim", Trim},
      {"length", Length},
      {"count", Length},
      {"tojson", ToJsonFilter},
      {"default", Default},
      {"d", Default},
      {"upper", Recased<ToUpper>},
      {"lower", Recased<ToLower>},
      {"title", Recased<ToTitle>},
      {"capitalize", Recased<ToCapitalized>},
      {"list", ToList},
      {"join", Join},
      {"items", Items},
      {"dictsort", DictSort},
      {"first", End<true>},
      {"last", End<false>},
      {"string", ToStringFilter},
      {"int", ToInt},
      {"float", ToFloat},
      {"abs", Absolute},
      {"replace", Replace},
      {"select", Select<false, true>},
      {"reject", Select<false, false>},
      {"selectattr", Select<true, true>},
      {"rejectattr", Select<true, false>},
      {"map", Map},
      {"reverse", Reverse},
      {"indent", Indent},
      {"unique", Unique},
      {"safe", Same}};
  return filters;
}

}  // namespace

bool IsKnownFilter(std::string_view name) {
  return Filters().contains(name);
}

Result<Value> ApplyFilter(std::string_view name,
                          const Value& subject,
                          const Arguments& arguments,
                          Budget* budget) {
  return Filters().at(name)(subject, arguments, budget);
}

const Value* Arguments::Get(size_t index, std::string_view name) const {
  if (index < plain.size()) return &plain[index];
  const auto found = std::find_if(
      named.begin(), named.end(), [&](const auto& entry) { return entry.first == name; });
  return found == named.end() ? nullptr : &found->second;
}

Result<void> Arguments::Check(std::string_view callee,
                              size_t max_plain,
                              std::initializer_list<std::string_view> names) const {
  if (plain.size() > max_plain)
    return TemplateError(std::string(callee) + " has too many arguments");
  for (const auto& [name, value] : named) {
    if (std::find(names.begin(), names.end(), name) == names.end()) {
      return TemplateError(std::string(callee) + " has no argument '" + name + "'");
    }
  }
  return {};
}

}  // namespace varve::jinja
