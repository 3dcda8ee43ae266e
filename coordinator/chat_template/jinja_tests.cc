// The tests ({% if x is string %}) and the ways into a value: attributes, items, loops.
#include <algorithm>
#include <iterator>

#include "coordinator/chat_template/jinja_builtins.h"
#include "coordinator/chat_template/jinja_text.h"

namespace varve::jinja {
namespace {

constexpr std::string_view kPlainTests[] = {"defined",
                                            "undefined",
                                            "none",
                                            "string",
                                            "mapping",
                                            "iterable",
                                            "sequence",
                                            "number",
                                            "integer",
                                            "float",
                                            "boolean",
                                            "true",
                                            "false",
                                            "odd",
                                            "even",
                                            "callable",
                                            "upper",
                                            "lower"};
constexpr std::string_view kTestsWithArgument[] = {"divisibleby",
                                                   "equalto",
                                                   "eq",
                                                   "==",
                                                   "ne",
                                                   "!=",
                                                   "in",
                                                   "lt",
                                                   "lessthan",
                                                   "<",
                                                   "le",
                                                   "<=",
                                                   "gt",
                                                   "greaterthan",
                                                   ">",
                                                   "ge",
                                                   ">="};

Result<bool> Divides(const Value& subject, const Value& divisor) {
  if (!subject.is_number() || subject.is_float() || !divisor.is_number() || divisor.is_float() ||
      divisor.as_int() == 0) {
    return TemplateError("divisibleby wants integers, the second not 0");
  }
  return divisor.as_int() == -1 || subject.as_int() % divisor.as_int() == 0;
}

Result<bool> ApplyTestWithArgument(std::string_view name,
                                   const Value& subject,
                                   const Value& argument) {
  if (name == "divisibleby") {
    return Divides(subject, argument);
  }
  if (name == "equalto" || name == "eq" || name == "==") {
    return Equal(subject, argument);
  }
  if (name == "ne" || name == "!=") {
    return !Equal(subject, argument);
  }
  if (name == "in") {
    Budget unlimited(SIZE_MAX);
    return Contains(argument, subject, &unlimited);
  }
  VARVE_TRY(const int order, Compare(subject, argument));
  if (name == "lt" || name == "lessthan" || name == "<") {
    return order < 0;
  }
  if (name == "le" || name == "<=") {
    return order <= 0;
  }
  if (name == "gt" || name == "greaterthan" || name == ">") {
    return order > 0;
  }
  return order >= 0;
}

Error IsUndefined(const Value& value) {
  return TemplateError("'" + value.undefined_name() + "' is undefined");
}

}  // namespace

bool IsKnownTest(std::string_view name) {
  return TestTakesArgument(name) || std::ranges::find(kPlainTests, name) != std::end(kPlainTests);
}

bool TestTakesArgument(std::string_view name) {
  return std::ranges::find(kTestsWithArgument, name) != std::end(kTestsWithArgument);
}

Result<bool> ApplyTest(std::string_view name,
                       const Value& subject,
                       const std::vector<Value>& arguments) {
  const size_t wanted = TestTakesArgument(name) ? 1 : 0;
  if (arguments.size() != wanted) {
    return TemplateError("the test '" + std::string(name) + "' wants " + std::to_string(wanted) +
                         " arguments");
  }
  if (wanted == 1) {
    return ApplyTestWithArgument(name, subject, arguments[0]);
  }
  if (name == "defined") {
    return !subject.is_undefined();
  }
  if (name == "undefined") {
    return subject.is_undefined();
  }
  if (name == "none") {
    return subject.is_none();
  }
  if (name == "string") {
    return subject.is_string();
  }
  if (name == "mapping") {
    return subject.is_dict() && !subject.as_dict().is_namespace;
  }
  if (name == "iterable" || name == "sequence") {
    return subject.is_string() || subject.is_list() ||
           (subject.is_dict() && !subject.as_dict().is_namespace) || subject.is_undefined();
  }
  if (name == "number") {
    return subject.is_number();
  }
  if (name == "integer") {
    return subject.is_int();
  }
  if (name == "float") {
    return subject.is_float();
  }
  if (name == "boolean") {
    return subject.is_bool();
  }
  if (name == "true") {
    return subject.is_bool() && subject.as_bool();
  }
  if (name == "false") {
    return subject.is_bool() && !subject.as_bool();
  }
  if (name == "callable") {
    return subject.function() != nullptr || subject.macro() != nullptr;
  }
  if (name == "upper") {
    return subject.ToText() == ToUpper(subject.ToText());
  }
  if (name == "lower") {
    return subject.ToText() == ToLower(subject.ToText());
  }
  VARVE_TRY(const bool even, Divides(subject, Value(int64_t{2})));
  return name == "even" ? even : !even;
}

Result<Value> GetAttribute(const Value& object, std::string_view name) {
  if (object.is_undefined()) {
    return IsUndefined(object);
  }
  const Value* found = object.is_dict() ? object.as_dict().Find(name) : nullptr;
  return found != nullptr ? *found : Value(Undefined{std::string(name)});
}

Result<Value> GetItem(const Value& object, const Value& key) {
  if (object.is_undefined()) {
    return IsUndefined(object);
  }
  if (key.is_string()) {
    return GetAttribute(object, key.as_string());
  }
  const Value missing = Undefined{key.ToText()};
  if (!key.is_number() || key.is_float()) {
    return missing;
  }
  const auto at = [&](size_t size) {
    const int64_t index =
        key.as_int() < 0 ? key.as_int() + static_cast<int64_t>(size) : key.as_int();
    return index < 0 || index >= static_cast<int64_t>(size) ? SIZE_MAX : static_cast<size_t>(index);
  };
  if (object.is_list()) {
    const size_t index = at(object.as_list().size());
    return index == SIZE_MAX ? missing : object.as_list()[index];
  }
  if (object.is_string()) {
    const auto characters = CodePoints(object.as_string());
    const size_t index = at(characters.size());
    return index == SIZE_MAX ? missing : Value(characters[index]);
  }
  return missing;
}

Result<std::vector<Value>> Iterate(const Value& value, Budget* budget) {
  if (value.is_undefined()) {
    return std::vector<Value>();
  }
  std::vector<Value> items;
  if (value.is_list()) {
    VARVE_RETURN_IF_ERROR(budget->Spend(value.as_list().size()));
    items = value.as_list();
  } else if (value.is_dict() && !value.as_dict().is_namespace) {
    VARVE_RETURN_IF_ERROR(budget->Spend(value.as_dict().entries.size()));
    for (const auto& [key, item] : value.as_dict().entries) {
      items.emplace_back(key);
    }
  } else if (value.is_string()) {
    VARVE_RETURN_IF_ERROR(budget->Spend(value.as_string().size()));
    for (const std::string_view character : CodePoints(value.as_string())) {
      items.emplace_back(character);
    }
  } else {
    return TemplateError("it loops over " + std::string(value.KindName()));
  }
  return items;
}

Result<bool> Contains(const Value& haystack, const Value& needle, Budget* budget) {
  if (haystack.is_undefined()) {
    return false;
  }
  if (haystack.is_string()) {
    if (!needle.is_string()) {
      return TemplateError("it looks for " + std::string(needle.KindName()) + " in a string");
    }
    VARVE_RETURN_IF_ERROR(budget->SpendBytes(haystack.as_string().size()));
    return haystack.as_string().find(needle.as_string()) != std::string::npos;
  }
  if (haystack.is_list()) {
    const auto& items = haystack.as_list();
    VARVE_RETURN_IF_ERROR(budget->Spend(items.size()));
    return std::any_of(
        items.begin(), items.end(), [&](const Value& item) { return Equal(item, needle); });
  }
  if (haystack.is_dict()) {
    return needle.is_string() && haystack.as_dict().Find(needle.as_string()) != nullptr;
  }
  return TemplateError("it looks for something in " + std::string(haystack.KindName()));
}

}  // namespace varve::jinja
