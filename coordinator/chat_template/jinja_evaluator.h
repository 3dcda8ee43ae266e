// Runs a parsed template. One Evaluator renders once, on one thread; the template it reads is
// shared.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "coordinator/chat_template/jinja_ast.h"
#include "coordinator/chat_template/jinja_builtins.h"

namespace varve::jinja {

struct EvaluatorLimits {
  size_t max_output_bytes = 0;
  size_t num_budget_units = 0;  // see Budget
};

class Evaluator {
 public:
  // `variables` are what the template sees at its top level; `now_unix_s` is what strftime_now
  // tells, in UTC.
  Evaluator(std::vector<std::pair<std::string, Value>> variables,
            int64_t now_unix_s,
            EvaluatorLimits limits);
  ~Evaluator();
  Evaluator(const Evaluator&) = delete;
  Evaluator& operator=(const Evaluator&) = delete;

  // The text of the template. kInvalidArgument for what goes wrong in it, with the message of
  // raise_exception if that was called, or with the limit that it hit.
  Result<std::string> Render(const std::vector<Statement>& body);

 private:
  using Kind = Expression::Kind;
  enum class Flow { kNext, kBreak, kContinue };

  struct Scope {
    const Scope* parent = nullptr;
    std::vector<std::pair<std::string, Value>> variables;

    const Value* Find(std::string_view name) const;
    void Set(std::string_view name, Value value);
  };

  // Counts how deep the evaluation is, for as long as it lives.
  class Nesting {
   public:
    explicit Nesting(int* depth) : depth_(depth) { ++*depth_; }
    ~Nesting() { --*depth_; }
    Nesting(const Nesting&) = delete;
    Nesting& operator=(const Nesting&) = delete;

   private:
    int* depth_;
  };
  Result<void> Step();

  Result<Flow> RunBody(const std::vector<Statement>& body, Scope* scope, std::string* out);
  Result<Flow> RunStatement(const Statement& statement, Scope* scope, std::string* out);
  Result<Flow> RunFor(const Statement& statement, Scope* scope, std::string* out);
  Result<void> RunSet(const Statement& statement, Scope* scope);
  Result<void> BindTargets(const Statement& statement, const Value& item, Scope* scope);
  Result<Value> LoopVariable(const std::vector<Value>& items, size_t index) const;
  Result<void> Write(std::string_view text, std::string* out);

  Result<Value> Evaluate(const Expression& expression, const Scope& scope);
  Result<Value> EvaluateName(const std::string& name, const Scope& scope) const;
  Result<Value> EvaluateContainer(const Expression& expression, const Scope& scope);
  Result<Value> EvaluateBinary(const Expression& expression, const Scope& scope);
  Result<Value> EvaluateCondition(const Expression& expression, const Scope& scope);
  Result<Value> EvaluateSlice(const Expression& expression, const Scope& scope);
  Result<Value> EvaluateCall(const Expression& expression, const Scope& scope);
  Result<Arguments> EvaluateArguments(const Expression& expression, const Scope& scope);
  Result<Value> Add(const Value& left, const Value& right);
  Result<Value> CallMacro(const Statement& macro, const Arguments& arguments);
  Result<Value> CallFunction(BuiltinFunction function, const Arguments& arguments);
  Result<Value> MakeNamespace(const Arguments& arguments);

  Scope globals_;
  int64_t now_unix_s_;
  EvaluatorLimits limits_;
  Budget budget_;
  int depth_ = 0;
  std::vector<std::shared_ptr<Dict>> namespaces_;  // emptied at the end: they may hold themselves
};

// What + - * / // % do to numbers. kInvalidArgument for overflow, division by zero and what is no
// number.
Result<Value> Calculate(std::string_view op, const Value& left, const Value& right);

// As Python's time.strftime, in UTC, of the formats that are ASCII and shorter than 200 bytes.
Result<std::string> FormatTime(const std::string& format, int64_t unix_s);

}  // namespace varve::jinja
