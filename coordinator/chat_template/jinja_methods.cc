// The methods of strings, dicts and lists: {{ x.name(arguments) }}.
#include <algorithm>
#include <iterator>

#include "coordinator/chat_template/jinja_builtins.h"
#include "coordinator/chat_template/jinja_text.h"

namespace varve::jinja {
namespace {

constexpr std::string_view kMethods[] = {
    "strip", "lstrip", "rstrip", "startswith", "endswith", "split",     "rsplit",
    "upper", "lower",  "title",  "capitalize", "replace",  "find",      "count",
    "join",  "items",  "keys",   "values",     "get",      "splitlines"};

Error NoMethod(std::string_view name, const Value& object) {
  const std::string of = object.is_undefined()
                             ? "'" + object.undefined_name() + "', which is undefined"
                             : std::string(object.KindName());
  return TemplateError("it calls the method '" + std::string(name) + "' of " + of);
}

Result<std::string> StringArgument(std::string_view method,
                                   const Arguments& arguments,
                                   size_t index,
                                   const char* name) {
  const Value* value = arguments.Get(index, name);
  if (value == nullptr || !value->is_string()) {
    return TemplateError("the method '" + std::string(method) + "' wants a string");
  }
  return value->as_string();
}

Result<Value> ListOfTexts(const std::vector<std::string_view>& parts, Budget* budget) {
  VARVE_RETURN_IF_ERROR(budget->Spend(parts.size()));
  return Value::MakeList(std::vector<Value>(parts.begin(), parts.end()));
}

Result<Value> ReplaceMethod(const std::string& text, const Arguments& arguments, Budget* budget) {
  VARVE_TRY(const std::string from, StringArgument("replace", arguments, 0, "old"));
  VARVE_TRY(const std::string to, StringArgument("replace", arguments, 1, "new"));
  const Value* count = arguments.Get(2, "count");
  int64_t remaining = count != nullptr && count->is_int() ? count->as_int() : -1;
  if (from.empty()) {
    return TemplateError("it replaces the empty string");
  }
  std::string out;
  size_t begin = 0;
  for (size_t found = text.find(from); found != std::string::npos && remaining != 0;
       found = text.find(from, begin)) {
    VARVE_RETURN_IF_ERROR(budget->Spend(1 + to.size() / 16));
    out.append(text, begin, found - begin).append(to);
    begin = found + from.size();
    if (remaining > 0) {
      --remaining;
    }
  }
  return Value(out.append(text, begin));
}

// startswith and endswith take one string or a list of them.
Result<Value> HasAffix(bool at_start, const std::string& text, const Arguments& arguments) {
  VARVE_RETURN_IF_ERROR(arguments.Check("startswith", 1, {}));
  if (arguments.plain.empty()) {
    return TemplateError("startswith and endswith want a string");
  }
  const Value& affix = arguments.plain[0];
  const std::vector<Value> affixes = affix.is_list() ? affix.as_list() : std::vector<Value>{affix};
  bool found = false;
  for (const Value& candidate : affixes) {
    if (!candidate.is_string()) {
      return TemplateError("startswith and endswith want strings");
    }
    found = found || (at_start ? text.starts_with(candidate.as_string())
                               : text.ends_with(candidate.as_string()));
  }
  return Value(found);
}

Result<Value> SplitMethod(bool from_right,
                          const std::string& text,
                          const Arguments& arguments,
                          Budget* budget) {
  VARVE_RETURN_IF_ERROR(arguments.Check("split", 2, {"sep", "maxsplit"}));
  const Value* separator = arguments.Get(0, "sep");
  const Value* max_splits = arguments.Get(1, "maxsplit");
  const int64_t limit = max_splits != nullptr && max_splits->is_int() ? max_splits->as_int() : -1;
  std::string separator_text;
  if (separator != nullptr && !separator->is_none()) {
    if (!separator->is_string() || separator->as_string().empty()) {
      return TemplateError("split wants a string, not empty");
    }
    separator_text = separator->as_string();
  }
  if (!from_right || limit < 0) {
    return ListOfTexts(Split(text, separator_text, limit), budget);
  }
  if (separator_text.empty()) {
    return TemplateError("rsplit at white space with a limit is not supported");
  }
  std::vector<std::string_view> parts;
  std::string_view rest = text;
  for (int64_t i = 0; i < limit; ++i) {
    const size_t found = rest.rfind(separator_text);
    if (found == std::string_view::npos) {
      break;
    }
    parts.push_back(rest.substr(found + separator_text.size()));
    rest = rest.substr(0, found);
  }
  parts.push_back(rest);
  std::reverse(parts.begin(), parts.end());
  return ListOfTexts(parts, budget);
}

Result<Value> StripMethod(Side side, const std::string& text, const Arguments& arguments) {
  VARVE_RETURN_IF_ERROR(arguments.Check("strip", 1, {}));
  if (arguments.plain.empty() || arguments.plain[0].is_none()) {
    return Value(Strip(text, {}, side));
  }
  VARVE_TRY(const std::string characters, StringArgument("strip", arguments, 0, ""));
  return Value(characters.empty() ? std::string_view(text) : Strip(text, characters, side));
}

std::vector<std::string_view> Lines(std::string_view text) {
  std::vector<std::string_view> lines = Split(text, "\n", -1);
  if (lines.back().empty()) {
    lines.pop_back();
  }
  for (std::string_view& line : lines) {
    if (line.ends_with('\r')) {
      line.remove_suffix(1);
    }
  }
  return lines;
}

Result<Value> CountOrFind(bool count, const std::string& text, const Arguments& arguments) {
  VARVE_TRY(const std::string needle, StringArgument(count ? "count" : "find", arguments, 0, ""));
  VARVE_RETURN_IF_ERROR(arguments.Check(count ? "count" : "find", 1, {}));
  if (count) {
    const size_t parts =
        needle.empty() ? CountCodePoints(text) + 2 : Split(text, needle, -1).size();
    return Value(static_cast<int64_t>(parts - 1));
  }
  const size_t found = text.find(needle);
  if (found == std::string::npos) {
    return Value(int64_t{-1});
  }
  return Value(static_cast<int64_t>(CountCodePoints(std::string_view(text).substr(0, found))));
}

Result<Value> CallStringMethod(std::string_view name,
                               const Value& object,
                               const Arguments& arguments,
                               Budget* budget) {
  const std::string& text = object.as_string();
  VARVE_RETURN_IF_ERROR(budget->SpendBytes(text.size()));
  if (name == "strip") {
    return StripMethod(Side::kBoth, text, arguments);
  }
  if (name == "lstrip") {
    return StripMethod(Side::kLeft, text, arguments);
  }
  if (name == "rstrip") {
    return StripMethod(Side::kRight, text, arguments);
  }
  if (name == "startswith" || name == "endswith") {
    return HasAffix(name == "startswith", text, arguments);
  }
  if (name == "split" || name == "rsplit") {
    return SplitMethod(name == "rsplit", text, arguments, budget);
  }
  if (name == "splitlines") {
    return text.empty() ? Value::MakeList({}) : ListOfTexts(Lines(text), budget);
  }
  if (name == "upper" || name == "lower" || name == "title" || name == "capitalize") {
    return ApplyFilter(name, object, arguments, budget);
  }
  if (name == "replace") {
    return ReplaceMethod(text, arguments, budget);
  }
  if (name == "find" || name == "count") {
    return CountOrFind(name == "count", text, arguments);
  }
  if (name == "join") {
    Arguments join;
    join.plain = {object};
    if (arguments.plain.size() != 1) {
      return TemplateError("join wants one list");
    }
    return ApplyFilter("join", arguments.plain[0], join, budget);
  }
  return NoMethod(name, object);
}

Result<Value> CallDictMethod(std::string_view name,
                             const Value& object,
                             const Arguments& arguments,
                             Budget* budget) {
  const Dict& dict = object.as_dict();
  if (name == "get") {
    VARVE_RETURN_IF_ERROR(arguments.Check("get", 2, {}));
    if (arguments.plain.empty()) {
      return TemplateError("get wants a key");
    }
    const Value& key = arguments.plain[0];
    const Value* found = key.is_string() ? dict.Find(key.as_string()) : nullptr;
    if (found != nullptr) {
      return *found;
    }
    return arguments.plain.size() > 1 ? arguments.plain[1] : Value();
  }
  if (name != "items" && name != "keys" && name != "values") {
    return NoMethod(name, object);
  }
  VARVE_RETURN_IF_ERROR(arguments.Check(name, 0, {}));
  VARVE_RETURN_IF_ERROR(budget->Spend(dict.entries.size()));
  std::vector<Value> out;
  for (const auto& [key, value] : dict.entries) {
    if (name == "keys") {
      out.emplace_back(key);
    } else if (name == "values") {
      out.push_back(value);
    } else {
      VARVE_TRY(Value pair, Value::MakeList({Value(key), value}));
      out.push_back(std::move(pair));
    }
  }
  return Value::MakeList(std::move(out));
}

}  // namespace

bool IsKnownMethod(std::string_view name) {
  return std::ranges::find(kMethods, name) != std::end(kMethods);
}

Result<Value> CallMethod(std::string_view name,
                         const Value& object,
                         const Arguments& arguments,
                         Budget* budget) {
  if (object.is_string()) {
    return CallStringMethod(name, object, arguments, budget);
  }
  if (object.is_dict() && !object.as_dict().is_namespace) {
    return CallDictMethod(name, object, arguments, budget);
  }
  if (object.is_list() && name == "count" && arguments.plain.size() == 1) {
    const auto& items = object.as_list();
    return Value(
        static_cast<int64_t>(std::count_if(items.begin(), items.end(), [&](const Value& item) {
          return Equal(item, arguments.plain[0]);
        })));
  }
  return NoMethod(name, object);
}

}  // namespace varve::jinja
