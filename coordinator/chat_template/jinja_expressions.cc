// The expressions of jinja_evaluator.h.
#include <algorithm>
#include <cmath>

#include "coordinator/chat_template/jinja_evaluator.h"
#include "coordinator/chat_template/jinja_text.h"

namespace varve::jinja {
namespace {

Error CannotCalculate(std::string_view op, const Value& left, const Value& right) {
  if (left.is_undefined()) {
    return TemplateError("'" + left.undefined_name() + "' is undefined");
  }
  if (right.is_undefined()) {
    return TemplateError("'" + right.undefined_name() + "' is undefined");
  }
  return TemplateError("it applies " + std::string(op) + " to " + std::string(left.KindName()) +
                       " and " + std::string(right.KindName()));
}

Result<Value> CalculateFloats(std::string_view op, double left, double right) {
  if (op == "+") {
    return Value(left + right);
  }
  if (op == "-") {
    return Value(left - right);
  }
  if (op == "*") {
    return Value(left * right);
  }
  if (right == 0) {
    return TemplateError("it divides by zero");
  }
  if (op == "/") {
    return Value(left / right);
  }
  if (op == "//") {
    return Value(std::floor(left / right));
  }
  const double remainder = std::fmod(left, right);
  return Value(remainder != 0 && (remainder < 0) != (right < 0) ? remainder + right : remainder);
}

// The bounds of a slice as Python has them. [0] is the first index, [1] the first that is not
// taken.
void SliceBounds(const Value (&parts)[3], int64_t size, int64_t step, int64_t (&bounds)[2]) {
  for (int i = 0; i < 2; ++i) {
    const bool at_begin = (i == 0) == (step > 0);
    const int64_t low = step > 0 ? 0 : -1;
    const int64_t high = step > 0 ? size : size - 1;
    if (parts[i].is_none()) {
      bounds[i] = at_begin ? low : high;
      continue;
    }
    int64_t index = std::clamp(parts[i].as_int(), -size - 1, size + 1);
    if (index < 0) {
      index += size;
    }
    bounds[i] = std::clamp(index, low, high);
  }
}

}  // namespace

Result<Value> Calculate(std::string_view op, const Value& left, const Value& right) {
  if (!left.is_number() || !right.is_number()) {
    return CannotCalculate(op, left, right);
  }
  if (left.is_float() || right.is_float() || op == "/") {
    return CalculateFloats(op, left.as_double(), right.as_double());
  }
  const int64_t a = left.as_int();
  const int64_t b = right.as_int();
  int64_t result = 0;
  bool overflow = false;
  if (op == "+") {
    overflow = __builtin_add_overflow(a, b, &result);
  } else if (op == "-") {
    overflow = __builtin_sub_overflow(a, b, &result);
  } else if (op == "*") {
    overflow = __builtin_mul_overflow(a, b, &result);
  } else if (b == 0) {
    return TemplateError("it divides by zero");
  } else if (b == -1) {
    overflow = op == "//" && __builtin_sub_overflow(0, a, &result);
  } else {
    const int64_t remainder = a % b;
    const bool adjust = remainder != 0 && (remainder < 0) != (b < 0);
    result = op == "//" ? a / b - (adjust ? 1 : 0) : remainder + (adjust ? b : 0);
  }
  if (overflow) {
    return TemplateError("a number is too large");
  }
  return Value(result);
}

Result<Value> Evaluator::Evaluate(const Expression& expression, const Scope& scope) {
  const Nesting nesting(&depth_);
  VARVE_RETURN_IF_ERROR(Step());
  switch (expression.kind) {
    case Kind::kConstant:
      return expression.constant;
    case Kind::kName:
      return EvaluateName(expression.name, scope);
    case Kind::kList:
    case Kind::kDict:
      return EvaluateContainer(expression, scope);
    case Kind::kBinary:
      return EvaluateBinary(expression, scope);
    case Kind::kCondition:
      return EvaluateCondition(expression, scope);
    case Kind::kSlice:
      return EvaluateSlice(expression, scope);
    case Kind::kCall:
      return EvaluateCall(expression, scope);
    default:
      break;
  }
  VARVE_TRY(const Value operand, Evaluate(*expression.args[0], scope));
  switch (expression.kind) {
    case Kind::kNot:
      return Value(!operand.IsTrue());
    case Kind::kNegate:
      return Calculate("-", Value(int64_t{0}), operand);
    case Kind::kAttribute:
      return GetAttribute(operand, expression.name);
    case Kind::kIndex: {
      VARVE_TRY(const Value key, Evaluate(*expression.args[1], scope));
      if (operand.is_string()) {
        VARVE_RETURN_IF_ERROR(budget_.Spend(operand.as_string().size()));
      }
      return GetItem(operand, key);
    }
    default:
      break;
  }
  VARVE_TRY(const Arguments arguments, EvaluateArguments(expression, scope));
  if (expression.kind == Kind::kMethod) {
    return CallMethod(expression.name, operand, arguments, &budget_);
  }
  if (expression.kind == Kind::kFilter) {
    return ApplyFilter(expression.name, operand, arguments, &budget_);
  }
  VARVE_TRY(const bool passes, ApplyTest(expression.name, operand, arguments.plain));
  return Value(passes);
}

Result<Value> Evaluator::EvaluateName(const std::string& name, const Scope& scope) const {
  if (const Value* found = scope.Find(name)) {
    return *found;
  }
  if (const auto function = FindFunction(name)) {
    return Value(*function);
  }
  return Value(Undefined{name});
}

Result<Value> Evaluator::EvaluateContainer(const Expression& expression, const Scope& scope) {
  std::vector<Value> items;
  for (const ExpressionPtr& argument : expression.args) {
    VARVE_TRY(Value item, Evaluate(*argument, scope));
    items.push_back(std::move(item));
  }
  if (expression.kind == Kind::kList) {
    return Value::MakeList(std::move(items));
  }
  std::vector<std::pair<std::string, Value>> entries;
  for (size_t i = 0; i < items.size(); i += 2) {
    if (!items[i].is_string()) {
      return TemplateError("a key of a dict is " + std::string(items[i].KindName()));
    }
    entries.emplace_back(items[i].as_string(), items[i + 1]);
  }
  return Value::MakeDict(std::move(entries), false);
}

Result<Value> Evaluator::EvaluateCondition(const Expression& expression, const Scope& scope) {
  VARVE_TRY(const Value condition, Evaluate(*expression.args[1], scope));
  if (condition.IsTrue()) {
    return Evaluate(*expression.args[0], scope);
  }
  if (expression.args.size() < 3) {
    return Value(Undefined{"the value of an if without else"});
  }
  return Evaluate(*expression.args[2], scope);
}

Result<Value> Evaluator::Add(const Value& left, const Value& right) {
  if (left.is_string() && right.is_string()) {
    VARVE_RETURN_IF_ERROR(budget_.SpendBytes(left.as_string().size() + right.as_string().size()));
    return Value(left.as_string() + right.as_string());
  }
  if (left.is_list() && right.is_list()) {
    std::vector<Value> items = left.as_list();
    VARVE_RETURN_IF_ERROR(budget_.Spend(items.size() + right.as_list().size()));
    items.insert(items.end(), right.as_list().begin(), right.as_list().end());
    return Value::MakeList(std::move(items));
  }
  return Calculate("+", left, right);
}

Result<Value> Evaluator::EvaluateBinary(const Expression& expression, const Scope& scope) {
  const std::string& op = expression.name;
  VARVE_TRY(const Value left, Evaluate(*expression.args[0], scope));
  if (op == "and" && !left.IsTrue()) {
    return left;
  }
  if (op == "or" && left.IsTrue()) {
    return left;
  }
  VARVE_TRY(const Value right, Evaluate(*expression.args[1], scope));
  if (op == "and" || op == "or") {
    return right;
  }
  if (op == "==") {
    return Value(Equal(left, right));
  }
  if (op == "!=") {
    return Value(!Equal(left, right));
  }
  if (op == "in" || op == "not in") {
    VARVE_TRY(const bool contains, Contains(right, left, &budget_));
    return Value(contains == (op == "in"));
  }
  if (op == "~") {
    return Add(Value(left.ToText()), Value(right.ToText()));
  }
  if (op == "+") {
    return Add(left, right);
  }
  if (op == "*" && left.is_string() && right.is_int()) {
    const auto count = static_cast<size_t>(std::max<int64_t>(right.as_int(), 0));
    const size_t size = left.as_string().size();
    if (size != 0 && count > limits_.max_output_bytes / size) {
      return TemplateError("a string is too long");
    }
    VARVE_RETURN_IF_ERROR(budget_.SpendBytes(size * count + count));
    std::string repeated;
    for (size_t i = 0; i < count; ++i) {
      repeated += left.as_string();
    }
    return Value(std::move(repeated));
  }
  if (op[0] != '<' && op[0] != '>') {
    return Calculate(op, left, right);
  }
  VARVE_TRY(const int order, Compare(left, right));
  if (op == "<") {
    return Value(order < 0);
  }
  if (op == "<=") {
    return Value(order <= 0);
  }
  return Value(op == ">" ? order > 0 : order >= 0);
}

Result<Value> Evaluator::EvaluateSlice(const Expression& expression, const Scope& scope) {
  VARVE_TRY(const Value operand, Evaluate(*expression.args[0], scope));
  Value parts[3];
  for (size_t i = 0; i < 3; ++i) {
    if (expression.args[i + 1] == nullptr) {
      continue;
    }
    VARVE_TRY(parts[i], Evaluate(*expression.args[i + 1], scope));
    if (!parts[i].is_none() && !parts[i].is_int()) {
      return TemplateError("a part of a slice is no integer");
    }
  }
  const int64_t step = parts[2].is_none() ? 1 : parts[2].as_int();
  if (step == 0) {
    return TemplateError("a slice has the step 0");
  }
  if (!operand.is_string() && !operand.is_list()) {
    return TemplateError("it slices " + std::string(operand.KindName()));
  }
  VARVE_TRY(const std::vector<Value> items, Iterate(operand, &budget_));
  int64_t bounds[2] = {};
  SliceBounds(parts, static_cast<int64_t>(items.size()), step, bounds);
  std::vector<Value> taken;
  const auto size = static_cast<int64_t>(items.size());
  for (int64_t i = bounds[0]; step > 0 ? i < bounds[1] : i > bounds[1];) {
    taken.push_back(items[static_cast<size_t>(i)]);
    if (std::abs(step) > size) {
      break;
    }
    i += step;
  }
  if (operand.is_list()) {
    return Value::MakeList(std::move(taken));
  }
  std::string text;
  for (const Value& character : taken) {
    text += character.as_string();
  }
  return Value(std::move(text));
}

Result<Arguments> Evaluator::EvaluateArguments(const Expression& expression, const Scope& scope) {
  Arguments arguments;
  for (size_t i = 1; i < expression.args.size(); ++i) {
    VARVE_TRY(Value value, Evaluate(*expression.args[i], scope));
    arguments.plain.push_back(std::move(value));
  }
  for (const auto& [name, argument] : expression.named_args) {
    VARVE_TRY(Value value, Evaluate(*argument, scope));
    arguments.named.emplace_back(name, std::move(value));
  }
  return arguments;
}

Result<Value> Evaluator::EvaluateCall(const Expression& expression, const Scope& scope) {
  VARVE_TRY(const Value callee, Evaluate(*expression.args[0], scope));
  VARVE_TRY(const Arguments arguments, EvaluateArguments(expression, scope));
  if (const BuiltinFunction* function = callee.function()) {
    return CallFunction(*function, arguments);
  }
  if (const Statement* macro = callee.macro()) {
    return CallMacro(*macro, arguments);
  }
  return TemplateError("line " + std::to_string(expression.line) + ": it calls '" +
                       expression.args[0]->name + "', which is " + std::string(callee.KindName()));
}

}  // namespace varve::jinja
