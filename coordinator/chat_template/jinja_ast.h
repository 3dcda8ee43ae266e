// A parsed template: a tree of statements and expressions. Immutable once parsed.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "coordinator/chat_template/jinja_value.h"

namespace varve::jinja {

struct Expression;
using ExpressionPtr = std::unique_ptr<Expression>;

// The meaning of `name`, `args` and `named_args` by kind; args[0] is the operand, object, callee or
// subject if there is one.
struct Expression {
  enum class Kind {
    kConstant,   // constant
    kName,       // name
    kList,       // args: items (tuples, too)
    kDict,       // args: key, value, key, value, ...
    kNot,        // args[0]
    kNegate,     // args[0]
    kBinary,     // name: operator; args: left, right ("and", "or", "in", "not in", "==", "+", "~",
                 // ...)
    kCondition,  // args: value, condition, else (may be missing)
    kAttribute,  // args[0].name
    kIndex,      // args[0][args[1]]
    kSlice,      // args[0][args[1]:args[2]:args[3]], each but the first may be null
    kCall,       // args[0](args[1...], named_args)
    kMethod,     // args[0].name(args[1...], named_args)
    kFilter,     // args[0] | name(args[1...], named_args)
    kTest,       // args[0] is name(args[1...])
  };
  Kind kind = Kind::kConstant;
  std::string name;
  Value constant;
  std::vector<ExpressionPtr> args;
  std::vector<std::pair<std::string, ExpressionPtr>> named_args;
  int line = 1;
};

struct Statement {
  enum class Kind {
    kText,    // text
    kOutput,  // expression
    kIf,      // expression; body, else_body (an elif is an if in else_body)
    kFor,     // targets in expression [if condition]; body, else_body
    kSet,     // targets[0] = expression, or = body if there is no expression; attribute:
              // targets[0].attribute
    kMacro,   // targets[0] is the name; parameters; body
    kBreak,
    kContinue,
    kGroup,  // body, in the scope around it ({% generation %})
  };
  struct Parameter {
    std::string name;
    ExpressionPtr default_value;  // may be null
  };
  Kind kind = Kind::kText;
  std::string text;
  ExpressionPtr expression;
  ExpressionPtr condition;
  std::vector<std::string> targets;
  std::string attribute;
  std::vector<Parameter> parameters;
  std::vector<Statement> body;
  std::vector<Statement> else_body;
  int line = 1;
};

}  // namespace varve::jinja
