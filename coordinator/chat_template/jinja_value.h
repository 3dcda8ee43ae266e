// The values of a chat template: Python's, as far as templates see them.
//
// Values are cheap to copy: strings, lists and dicts are shared and immutable, except namespaces,
// which templates assign to. Not synchronised: values live inside one Render call (and constants
// inside a parsed template, read only).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "proto/base/result.h"

namespace varve::jinja {

class Value;
struct Statement;

// How deep lists and dicts may nest.
inline constexpr int kMaxValueDepth = 64;

struct List {
  std::vector<Value> items;
  int depth = 1;
};

struct Dict {
  std::vector<std::pair<std::string, Value>> entries;  // in order of insertion; keys are unique
  bool is_namespace = false;
  int depth = 1;

  const Value* Find(std::string_view key) const;
  void Set(std::string_view key, Value value);
};

// A function of the template language, or a macro of the template.
enum class BuiltinFunction { kRange, kNamespace, kDict, kRaiseException, kStrftimeNow };

struct Undefined {
  std::string name;  // for messages
};

class Value {
 public:
  Value() = default;  // none
  Value(Undefined undefined)
      : state_(std::move(undefined)) {}                       // NOLINT(google-explicit-constructor)
  Value(bool value) : state_(value) {}                        // NOLINT(google-explicit-constructor)
  Value(int64_t value) : state_(value) {}                     // NOLINT(google-explicit-constructor)
  Value(double value) : state_(value) {}                      // NOLINT(google-explicit-constructor)
  Value(BuiltinFunction function) : state_(function) {}       // NOLINT(google-explicit-constructor)
  Value(const Statement* macro) : state_(macro) {}            // NOLINT(google-explicit-constructor)
  Value(std::string text);                                    // NOLINT(google-explicit-constructor)
  Value(std::string_view text) : Value(std::string(text)) {}  // NOLINT(google-explicit-constructor)
  Value(const char* text) : Value(std::string(text)) {}       // NOLINT(google-explicit-constructor)

  // kInvalidArgument if that nests deeper than kMaxValueDepth.
  static Result<Value> MakeList(std::vector<Value> items);
  static Result<Value> MakeDict(std::vector<std::pair<std::string, Value>> entries,
                                bool is_namespace);

  bool is_undefined() const { return std::holds_alternative<Undefined>(state_); }
  bool is_none() const { return std::holds_alternative<std::monostate>(state_); }
  bool is_bool() const { return std::holds_alternative<bool>(state_); }
  bool is_int() const { return std::holds_alternative<int64_t>(state_); }
  bool is_float() const { return std::holds_alternative<double>(state_); }
  bool is_string() const {
    return std::holds_alternative<std::shared_ptr<const std::string>>(state_);
  }
  bool is_list() const { return std::holds_alternative<std::shared_ptr<const List>>(state_); }
  bool is_dict() const { return std::holds_alternative<std::shared_ptr<Dict>>(state_); }
  bool is_number() const {
    return is_int() || is_float() || is_bool();
  }  // as in Python, where True is 1

  // REQUIRES: of that kind.
  const std::string& undefined_name() const { return std::get<Undefined>(state_).name; }
  bool as_bool() const { return std::get<bool>(state_); }
  const std::string& as_string() const {
    return *std::get<std::shared_ptr<const std::string>>(state_);
  }
  const std::vector<Value>& as_list() const {
    return std::get<std::shared_ptr<const List>>(state_)->items;
  }
  const Dict& as_dict() const { return *std::get<std::shared_ptr<Dict>>(state_); }
  Dict* mutable_namespace() const { return std::get<std::shared_ptr<Dict>>(state_).get(); }
  const std::shared_ptr<Dict>& shared_dict() const {
    return std::get<std::shared_ptr<Dict>>(state_);
  }
  int64_t as_int() const {
    return is_bool() ? static_cast<int64_t>(as_bool()) : std::get<int64_t>(state_);
  }
  double as_double() const {
    return is_float() ? std::get<double>(state_) : static_cast<double>(as_int());
  }
  const BuiltinFunction* function() const { return std::get_if<BuiltinFunction>(&state_); }
  const Statement* macro() const {
    const auto* found = std::get_if<const Statement*>(&state_);
    return found == nullptr ? nullptr : *found;
  }

  bool IsTrue() const;                // as "if" sees it
  int depth() const;                  // 0 for what holds no values
  std::string_view KindName() const;  // for messages: "a string"

  // As {{ }} writes it; what is inside lists and dicts is written as Python source.
  std::string ToText() const;

 private:
  std::variant<std::monostate,
               Undefined,
               bool,
               int64_t,
               double,
               std::shared_ptr<const std::string>,
               std::shared_ptr<const List>,
               std::shared_ptr<Dict>,
               BuiltinFunction,
               const Statement*>
      state_;
};

// ==. Values of different kinds are unequal, numbers compare by value.
bool Equal(const Value& left, const Value& right);

// <0, 0, >0. kInvalidArgument unless both are numbers or both strings.
Result<int> Compare(const Value& left, const Value& right);

// As Python's json.dumps(value, ensure_ascii=False, indent=indent) does; indent < 0: on one line.
// kInvalidArgument for what JSON does not have.
Result<std::string> ToJson(const Value& value, int indent);

// kInvalidArgument: "The chat template is wrong: <why>."
Error TemplateError(std::string_view why);

}  // namespace varve::jinja
