// The statements, and what functions and macros do. The expressions are in jinja_expressions.cc.
#include "coordinator/chat_template/jinja_evaluator.h"

#include <algorithm>
#include <ctime>

namespace varve::jinja {
namespace {

constexpr int kMaxEvaluationDepth =
    1500;  // statements and expressions inside each other, through macros
constexpr size_t kMaxNamespaces = 64;   // bounds how deep a value can get through them
constexpr size_t kUnitsPerRound = 16;   // of a loop: its variable is a dict
constexpr int64_t kMaxRange = 100'000;  // as in the sandbox of Jinja2

}  // namespace

std::optional<BuiltinFunction> FindFunction(std::string_view name) {
  if (name == "range") {
    return BuiltinFunction::kRange;
  }
  if (name == "namespace") {
    return BuiltinFunction::kNamespace;
  }
  if (name == "dict") {
    return BuiltinFunction::kDict;
  }
  if (name == "raise_exception") {
    return BuiltinFunction::kRaiseException;
  }
  if (name == "strftime_now") {
    return BuiltinFunction::kStrftimeNow;
  }
  return std::nullopt;
}

const Value* Evaluator::Scope::Find(std::string_view name) const {
  for (const Scope* scope = this; scope != nullptr; scope = scope->parent) {
    for (const auto& [key, value] : scope->variables) {
      if (key == name) {
        return &value;
      }
    }
  }
  return nullptr;
}

void Evaluator::Scope::Set(std::string_view name, Value value) {
  for (auto& [key, old] : variables) {
    if (key == name) {
      old = std::move(value);
      return;
    }
  }
  variables.emplace_back(name, std::move(value));
}

Evaluator::Evaluator(std::vector<std::pair<std::string, Value>> variables,
                     int64_t now_unix_s,
                     EvaluatorLimits limits)
    : globals_{nullptr, std::move(variables)},
      now_unix_s_(now_unix_s),
      limits_(limits),
      budget_(limits.num_budget_units) {}

Evaluator::~Evaluator() {
  for (const auto& dict : namespaces_) {
    dict->entries.clear();
  }
}

Result<std::string> Evaluator::Render(const std::vector<Statement>& body) {
  std::string out;
  VARVE_RETURN_IF_ERROR(RunBody(body, &globals_, &out));
  return out;
}

Result<void> Evaluator::Step() {
  if (depth_ > kMaxEvaluationDepth) {
    return TemplateError("it nests too deep (macros that call themselves)");
  }
  return budget_.Spend(1);
}

Result<void> Evaluator::Write(std::string_view text, std::string* out) {
  VARVE_RETURN_IF_ERROR(budget_.SpendBytes(text.size()));
  if (out->size() + text.size() > limits_.max_output_bytes) {
    return TemplateError("its output is too long");
  }
  out->append(text);
  return {};
}

Result<Evaluator::Flow> Evaluator::RunBody(const std::vector<Statement>& body,
                                           Scope* scope,
                                           std::string* out) {
  for (const Statement& statement : body) {
    VARVE_TRY(const Flow flow, RunStatement(statement, scope, out));
    if (flow != Flow::kNext) {
      return flow;
    }
  }
  return Flow::kNext;
}

Result<Evaluator::Flow> Evaluator::RunStatement(const Statement& statement,
                                                Scope* scope,
                                                std::string* out) {
  const Nesting nesting(&depth_);
  VARVE_RETURN_IF_ERROR(Step());
  switch (statement.kind) {
    case Statement::Kind::kText:
      VARVE_RETURN_IF_ERROR(Write(statement.text, out));
      return Flow::kNext;
    case Statement::Kind::kOutput: {
      VARVE_TRY(const Value value, Evaluate(*statement.expression, *scope));
      VARVE_RETURN_IF_ERROR(value.is_string() ? Write(value.as_string(), out)
                                              : Write(value.ToText(), out));
      return Flow::kNext;
    }
    case Statement::Kind::kIf: {
      VARVE_TRY(const Value condition, Evaluate(*statement.expression, *scope));
      return RunBody(condition.IsTrue() ? statement.body : statement.else_body, scope, out);
    }
    case Statement::Kind::kFor:
      return RunFor(statement, scope, out);
    case Statement::Kind::kSet:
      VARVE_RETURN_IF_ERROR(RunSet(statement, scope));
      return Flow::kNext;
    case Statement::Kind::kMacro:
      scope->Set(statement.targets[0], Value(&statement));
      return Flow::kNext;
    case Statement::Kind::kBreak:
      return Flow::kBreak;
    case Statement::Kind::kContinue:
      return Flow::kContinue;
    case Statement::Kind::kGroup:
      return RunBody(statement.body, scope, out);
  }
  VARVE_UNREACHABLE("a statement of no kind");
}

Result<void> Evaluator::BindTargets(const Statement& statement, const Value& item, Scope* scope) {
  if (statement.targets.size() == 1) {
    scope->Set(statement.targets[0], item);
    return {};
  }
  if (!item.is_list() || item.as_list().size() != statement.targets.size()) {
    return TemplateError("line " + std::to_string(statement.line) + ": the loop wants lists of " +
                         std::to_string(statement.targets.size()) + " values");
  }
  for (size_t i = 0; i < statement.targets.size(); ++i) {
    scope->Set(statement.targets[i], item.as_list()[i]);
  }
  return {};
}

Result<Value> Evaluator::LoopVariable(const std::vector<Value>& items, size_t index) const {
  const auto number = [](size_t value) { return Value(static_cast<int64_t>(value)); };
  const bool first = index == 0;
  const bool last = index + 1 == items.size();
  return Value::MakeDict({{"index0", number(index)},
                          {"index", number(index + 1)},
                          {"first", Value(first)},
                          {"last", Value(last)},
                          {"length", number(items.size())},
                          {"revindex0", number(items.size() - index - 1)},
                          {"revindex", number(items.size() - index)},
                          {"previtem", first ? Value(Undefined{"previtem"}) : items[index - 1]},
                          {"nextitem", last ? Value(Undefined{"nextitem"}) : items[index + 1]}},
                         false);
}

Result<Evaluator::Flow> Evaluator::RunFor(const Statement& statement,
                                          Scope* scope,
                                          std::string* out) {
  VARVE_TRY(const Value iterable, Evaluate(*statement.expression, *scope));
  VARVE_TRY(std::vector<Value> items, Iterate(iterable, &budget_));
  if (statement.condition != nullptr) {
    std::vector<Value> kept;
    for (Value& item : items) {
      Scope inner{scope, {}};
      VARVE_RETURN_IF_ERROR(BindTargets(statement, item, &inner));
      VARVE_TRY(const Value condition, Evaluate(*statement.condition, inner));
      if (condition.IsTrue()) {
        kept.push_back(std::move(item));
      }
    }
    items = std::move(kept);
  }
  if (items.empty()) {
    return RunBody(statement.else_body, scope, out);
  }
  for (size_t i = 0; i < items.size(); ++i) {
    VARVE_RETURN_IF_ERROR(budget_.Spend(kUnitsPerRound));
    Scope inner{scope, {}};
    VARVE_TRY(Value loop, LoopVariable(items, i));
    inner.Set("loop", std::move(loop));
    VARVE_RETURN_IF_ERROR(BindTargets(statement, items[i], &inner));
    VARVE_TRY(const Flow flow, RunBody(statement.body, &inner, out));
    if (flow == Flow::kBreak) {
      break;
    }
  }
  return Flow::kNext;
}

Result<void> Evaluator::RunSet(const Statement& statement, Scope* scope) {
  Value value;
  if (statement.expression != nullptr) {
    VARVE_TRY(value, Evaluate(*statement.expression, *scope));
  } else {
    std::string text;
    Scope inner{scope, {}};
    VARVE_RETURN_IF_ERROR(RunBody(statement.body, &inner, &text));
    value = Value(std::move(text));
  }
  const std::string& target = statement.targets[0];
  if (statement.attribute.empty()) {
    scope->Set(target, std::move(value));
    return {};
  }
  const Value* found = scope->Find(target);
  if (found == nullptr || !found->is_dict() || !found->as_dict().is_namespace) {
    return TemplateError("line " + std::to_string(statement.line) + ": '" + target +
                         "' is not a namespace");
  }
  Dict* dict = found->mutable_namespace();
  dict->depth = std::max(dict->depth, value.depth() + 1);
  if (dict->depth > kMaxValueDepth) {
    return TemplateError("its namespaces nest too deep");
  }
  dict->Set(statement.attribute, std::move(value));
  return {};
}

Result<Value> Evaluator::CallMacro(const Statement& macro, const Arguments& arguments) {
  const std::string& name = macro.targets[0];
  Scope scope{&globals_, {}};
  if (arguments.plain.size() > macro.parameters.size()) {
    return TemplateError("the macro '" + name + "' has too many arguments");
  }
  for (size_t i = 0; i < macro.parameters.size(); ++i) {
    const Statement::Parameter& parameter = macro.parameters[i];
    Value value = Undefined{parameter.name};
    if (const Value* given = arguments.Get(i, parameter.name)) {
      value = *given;
    } else if (parameter.default_value != nullptr) {
      VARVE_TRY(value, Evaluate(*parameter.default_value, scope));
    }
    scope.Set(parameter.name, std::move(value));
  }
  for (const auto& [given, value] : arguments.named) {
    const bool known =
        std::ranges::any_of(macro.parameters, [&](const auto& p) { return p.name == given; });
    if (!known) {
      return TemplateError("the macro '" + name + "' has no argument '" + given + "'");
    }
  }
  std::string out;
  VARVE_RETURN_IF_ERROR(RunBody(macro.body, &scope, &out));
  return Value(std::move(out));
}

Result<Value> Evaluator::MakeNamespace(const Arguments& arguments) {
  if (arguments.plain.size() > 1) {
    return TemplateError("namespace has too many arguments");
  }
  if (namespaces_.size() == kMaxNamespaces) {
    return TemplateError("it makes too many namespaces");
  }
  std::vector<std::pair<std::string, Value>> entries;
  if (!arguments.plain.empty()) {
    if (!arguments.plain[0].is_dict()) {
      return TemplateError("namespace wants a dict");
    }
    entries = arguments.plain[0].as_dict().entries;
  }
  entries.insert(entries.end(), arguments.named.begin(), arguments.named.end());
  VARVE_TRY(Value made, Value::MakeDict(std::move(entries), true));
  namespaces_.push_back(made.shared_dict());
  return made;
}

Result<Value> Evaluator::CallFunction(BuiltinFunction function, const Arguments& arguments) {
  switch (function) {
    case BuiltinFunction::kNamespace:
      return MakeNamespace(arguments);
    case BuiltinFunction::kDict:
      if (!arguments.plain.empty()) {
        return TemplateError("dict wants named arguments");
      }
      return Value::MakeDict(arguments.named, false);
    case BuiltinFunction::kRaiseException: {
      const Value* message = arguments.Get(0, "message");
      return Error{ErrorCode::kInvalidArgument,
                   message == nullptr ? "The chat template refuses." : message->ToText()};
    }
    case BuiltinFunction::kStrftimeNow: {
      const Value* format = arguments.Get(0, "format");
      if (format == nullptr || !format->is_string()) {
        return TemplateError("strftime_now wants a format");
      }
      VARVE_TRY(std::string text, FormatTime(format->as_string(), now_unix_s_));
      return Value(std::move(text));
    }
    case BuiltinFunction::kRange:
      break;
  }
  VARVE_RETURN_IF_ERROR(arguments.Check("range", 3, {}));
  int64_t bounds[3] = {0, 0, 1};  // start, stop, step
  for (size_t i = 0; i < arguments.plain.size(); ++i) {
    const Value& bound = arguments.plain[i];
    if (!bound.is_int() || std::abs(bound.as_int()) > INT32_MAX) {
      return TemplateError("range wants small integers");
    }
    bounds[arguments.plain.size() == 1 ? 1 : i] = bound.as_int();
  }
  const auto [start, stop, step] = bounds;
  if (arguments.plain.empty() || step == 0) {
    return TemplateError("range wants a stop, and a step that is not 0");
  }
  std::vector<Value> numbers;
  for (int64_t i = start; step > 0 ? i < stop : i > stop; i += step) {
    if (static_cast<int64_t>(numbers.size()) == kMaxRange) {
      return TemplateError("it makes a range that is too long");
    }
    VARVE_RETURN_IF_ERROR(budget_.Spend(1));
    numbers.emplace_back(i);
  }
  return Value::MakeList(std::move(numbers));
}

Result<std::string> FormatTime(const std::string& format, int64_t unix_s) {
  constexpr std::string_view kConversions = "aAbBcdHIjmMpSUwWxXyYZ%eDFTRzsukVGgCnth";
  constexpr size_t kMaxFormatBytes = 200;
  for (size_t i = 0; i < format.size(); ++i) {
    if (format[i] == '%' && i + 1 < format.size() && format[i + 1] == '-') {
      ++i;
    }  // no padding: %-d
    else if (format[i] != '%') {
      continue;
    }
    if (++i >= format.size() || kConversions.find(format[i]) == std::string_view::npos) {
      return TemplateError("strftime_now has a bad format");
    }
  }
  if (format.size() > kMaxFormatBytes) {
    return TemplateError("strftime_now has a format that is too long");
  }
  const std::time_t time = unix_s;
  std::tm parts{};
  if (gmtime_r(&time, &parts) == nullptr) {
    return TemplateError("strftime_now has a bad time");
  }
  char buffer[kMaxFormatBytes * 32];
  return std::string(buffer, std::strftime(buffer, sizeof(buffer), format.c_str(), &parts));
}

}  // namespace varve::jinja
