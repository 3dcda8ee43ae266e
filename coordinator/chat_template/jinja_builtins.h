// The filters, tests, methods and functions that chat templates may use. All are pure.
#pragma once

#include <cstddef>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "coordinator/chat_template/jinja_value.h"

namespace varve::jinja {

// What a rendering may still do. Everything that takes time or memory is paid for here first, so
// that no template runs for ever or fills the memory.
class Budget {
 public:
  explicit Budget(size_t num_units) : num_units_(num_units) {}

  // One unit is a step; 16 bytes read or made are a unit, too.
  Result<void> Spend(size_t num_units) {
    if (num_units > num_units_) {
      return TemplateError("it does too much work (loops, or very long text)");
    }
    num_units_ -= num_units;
    return {};
  }
  Result<void> SpendBytes(size_t num_bytes) { return Spend(num_bytes / 16); }

 private:
  size_t num_units_;
};

struct Arguments {
  std::vector<Value> plain;
  std::vector<std::pair<std::string, Value>> named;

  // The argument at this place or of this name; null if it is not given.
  const Value* Get(size_t index, std::string_view name) const;
  // kInvalidArgument if there are more than `max_plain`, or named ones that are not in `names`.
  Result<void> Check(std::string_view callee,
                     size_t max_plain,
                     std::initializer_list<std::string_view> names) const;
};

bool IsKnownFilter(std::string_view name);
bool IsKnownTest(std::string_view name);
bool TestTakesArgument(std::string_view name);  // without brackets: x is divisibleby 3
bool IsKnownMethod(std::string_view name);
std::optional<BuiltinFunction> FindFunction(std::string_view name);

// REQUIRES: the name is known.
Result<Value> ApplyFilter(std::string_view name,
                          const Value& subject,
                          const Arguments& arguments,
                          Budget* budget);
Result<bool> ApplyTest(std::string_view name,
                       const Value& subject,
                       const std::vector<Value>& arguments);
Result<Value> CallMethod(std::string_view name,
                         const Value& object,
                         const Arguments& arguments,
                         Budget* budget);

// object.name, object[key]; undefined if there is no such thing, kInvalidArgument if `object` is
// undefined.
Result<Value> GetAttribute(const Value& object, std::string_view name);
Result<Value> GetItem(const Value& object, const Value& key);
// The values that a loop over `value` sees.
Result<std::vector<Value>> Iterate(const Value& value, Budget* budget);
// `needle` in `haystack`.
Result<bool> Contains(const Value& haystack, const Value& needle, Budget* budget);

}  // namespace varve::jinja
