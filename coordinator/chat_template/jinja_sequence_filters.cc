// The filters of lists and dicts.
#include <algorithm>

#include "coordinator/chat_template/jinja_filters.h"
#include "coordinator/chat_template/jinja_text.h"

namespace varve::jinja {
namespace {

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
    if (i > 0) {
      out += separator;
    }
    out += text;
    VARVE_RETURN_IF_ERROR(budget->SpendBytes(separator.size()));
  }
  return Value(std::move(out));
}

Result<Value> Items(const Value& subject, const Arguments& arguments, Budget* budget) {
  VARVE_RETURN_IF_ERROR(arguments.Check("items", 0, {}));
  if (subject.is_undefined()) {
    return Value::MakeList({});
  }
  if (!subject.is_dict()) {
    return TemplateError("it takes the items of " + std::string(subject.KindName()));
  }
  return CallMethod("items", subject, {}, budget);
}

Result<Value> DictSort(const Value& subject, const Arguments& arguments, Budget* budget) {
  VARVE_RETURN_IF_ERROR(arguments.Check("dictsort", 0, {}));
  if (!subject.is_dict()) {
    return TemplateError("it sorts " + std::string(subject.KindName()) + " as a dict");
  }
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
  if (items.empty()) {
    return Value(Undefined{kFirst ? "first" : "last"});
  }
  return kFirst ? items.front() : items.back();
}

// select, reject (of items), selectattr, rejectattr (of an attribute of items): by a test, or by
// truth.
template <bool kByAttribute, bool kKeep>
Result<Value> Select(const Value& subject, const Arguments& arguments, Budget* budget) {
  constexpr size_t kTestIndex = kByAttribute ? 1 : 0;
  VARVE_RETURN_IF_ERROR(arguments.Check("a select filter", kTestIndex + 2, {}));
  if (kByAttribute && arguments.plain.empty()) {
    return TemplateError("selectattr wants an attribute");
  }
  const std::string attribute = kByAttribute ? arguments.plain[0].ToText() : "";
  const std::string test = TextArgument(arguments, kTestIndex, "", "");
  if (!test.empty() && !IsKnownTest(test)) {
    return TemplateError("there is no test '" + test + "'");
  }
  std::vector<Value> test_arguments;
  if (arguments.plain.size() > kTestIndex + 1) {
    test_arguments.push_back(arguments.plain[kTestIndex + 1]);
  }
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
    if (passes == kKeep) {
      kept.push_back(item);
    }
  }
  return Value::MakeList(std::move(kept));
}

Result<Value> Map(const Value& subject, const Arguments& arguments, Budget* budget) {
  VARVE_RETURN_IF_ERROR(arguments.Check("map", SIZE_MAX, {"attribute", "default"}));
  const Value* attribute = arguments.Get(SIZE_MAX, "attribute");
  const std::string filter = TextArgument(arguments, 0, "", "");
  if (attribute == nullptr && !IsKnownFilter(filter)) {
    return TemplateError("there is no filter '" + filter + "'");
  }
  if (filter == "map") {
    return TemplateError("it maps the filter map");
  }
  Arguments filter_arguments;
  if (!arguments.plain.empty()) {
    filter_arguments.plain.assign(arguments.plain.begin() + 1, arguments.plain.end());
  }
  VARVE_TRY(std::vector<Value> items, Iterate(subject, budget));
  for (Value& item : items) {
    if (attribute == nullptr) {
      VARVE_TRY(item, ApplyFilter(filter, item, filter_arguments, budget));
      continue;
    }
    VARVE_TRY(item, AttributeOf(item, attribute->ToText()));
    const Value* otherwise = arguments.Get(SIZE_MAX, "default");
    if (item.is_undefined() && otherwise != nullptr) {
      item = *otherwise;
    }
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

Result<Value> Unique(const Value& subject, const Arguments& arguments, Budget* budget) {
  VARVE_RETURN_IF_ERROR(arguments.Check("unique", 0, {}));
  VARVE_TRY(const std::vector<Value> items, Iterate(subject, budget));
  std::vector<Value> kept;
  for (const Value& item : items) {
    VARVE_RETURN_IF_ERROR(budget->Spend(kept.size()));
    const bool seen = std::any_of(
        kept.begin(), kept.end(), [&](const Value& other) { return Equal(item, other); });
    if (!seen) {
      kept.push_back(item);
    }
  }
  return Value::MakeList(std::move(kept));
}

}  // namespace

const FilterTable& SequenceFilters() {
  static const FilterTable filters = {{"list", ToList},
                                      {"join", Join},
                                      {"items", Items},
                                      {"dictsort", DictSort},
                                      {"first", End<true>},
                                      {"last", End<false>},
                                      {"select", Select<false, true>},
                                      {"reject", Select<false, false>},
                                      {"selectattr", Select<true, true>},
                                      {"rejectattr", Select<true, false>},
                                      {"map", Map},
                                      {"reverse", Reverse},
                                      {"unique", Unique}};
  return filters;
}

}  // namespace varve::jinja
