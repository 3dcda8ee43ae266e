#include <algorithm>
#include <charconv>

#include "coordinator/chat_template/jinja_builtins.h"
#include "coordinator/chat_template/jinja_parser.h"

namespace varve::jinja {
namespace {

// Operators that associate to the left, loosest first. Comparisons stand between "not" and these.
constexpr int kNumBinaryLevels = 3;
constexpr std::string_view kLevelOperators[kNumBinaryLevels][4] = {{"+", "-", "", ""},
                                                                   {"~", "", "", ""},
                                                                   {"*", "/", "//", "%"}};

}  // namespace

ExpressionPtr ExpressionParser::Make(Kind kind) const {
  auto expression = std::make_unique<Expression>();
  expression->kind = kind;
  expression->line = reader_->Peek().line;
  return expression;
}

ExpressionPtr ExpressionParser::Make(Kind kind,
                                     std::string name,
                                     ExpressionPtr first,
                                     ExpressionPtr second) const {
  ExpressionPtr expression = Make(kind);
  expression->name = std::move(name);
  expression->args.push_back(std::move(first));
  if (second != nullptr) {
    expression->args.push_back(std::move(second));
  }
  return expression;
}

Result<ExpressionPtr> ExpressionParser::Parse(bool allow_condition) {
  VARVE_RETURN_IF_ERROR(reader_->Enter());
  auto parsed = allow_condition ? ParseCondition() : ParseBinary(-2);
  reader_->Leave();
  return parsed;
}

Result<ExpressionPtr> ExpressionParser::ParseTuple(bool allow_condition) {
  VARVE_TRY(ExpressionPtr first, Parse(allow_condition));
  if (!reader_->AtOperator(",")) {
    return first;
  }
  ExpressionPtr tuple = Make(Kind::kList, "", std::move(first));
  while (reader_->TakeOperator(",")) {
    VARVE_TRY(ExpressionPtr item, Parse(allow_condition));
    tuple->args.push_back(std::move(item));
  }
  return tuple;
}

Result<ExpressionPtr> ExpressionParser::ParseCondition() {
  VARVE_TRY(ExpressionPtr value, ParseBinary(-2));
  while (reader_->TakeName("if")) {
    VARVE_TRY(ExpressionPtr condition, ParseBinary(-2));
    value = Make(Kind::kCondition, "", std::move(value), std::move(condition));
    if (reader_->TakeName("else")) {
      VARVE_TRY(ExpressionPtr otherwise, Parse());
      value->args.push_back(std::move(otherwise));
    }
  }
  return value;
}

// Level -2 is "or", -1 is "and", the others are kLevelOperators.
Result<ExpressionPtr> ExpressionParser::ParseBinary(int level) {
  const auto parse_operand = [this, level]() -> Result<ExpressionPtr> {
    if (level == -1) {
      return ParseNot();
    }
    return level + 1 == kNumBinaryLevels ? ParseUnary(true) : ParseBinary(level + 1);
  };
  VARVE_TRY(ExpressionPtr left, parse_operand());
  while (true) {
    const Token& next = reader_->Peek();
    if (level < 0) {
      const std::string_view word = level == -2 ? "or" : "and";
      if (!reader_->AtName(word)) {
        return left;
      }
    } else {
      const auto& operators = kLevelOperators[level];
      const bool found =
          next.kind == Token::Kind::kOperator &&
          std::find(std::begin(operators), std::end(operators), next.text) != std::end(operators);
      if (!found) {
        return left;
      }
    }
    std::string op = reader_->Take().text;
    VARVE_TRY(ExpressionPtr right, parse_operand());
    left = Make(Kind::kBinary, std::move(op), std::move(left), std::move(right));
  }
}

Result<ExpressionPtr> ExpressionParser::ParseNot() {
  if (!reader_->TakeName("not")) {
    return ParseCompare();
  }
  VARVE_RETURN_IF_ERROR(reader_->Enter());
  VARVE_TRY(ExpressionPtr operand, ParseNot());
  reader_->Leave();
  return Make(Kind::kNot, "", std::move(operand));
}

Result<ExpressionPtr> ExpressionParser::ParseCompare() {
  constexpr std::string_view kComparisons[] = {"==", "!=", "<", "<=", ">", ">="};
  VARVE_TRY(ExpressionPtr left, ParseBinary(0));
  bool compared = false;
  while (true) {
    const Token& next = reader_->Peek();
    const bool is_not_in = reader_->AtName("not") && reader_->Peek(1).text == "in";
    const bool is_comparison =
        next.kind == Token::Kind::kOperator &&
        std::find(std::begin(kComparisons), std::end(kComparisons), next.text) !=
            std::end(kComparisons);
    if (!is_comparison && !is_not_in && !reader_->AtName("in")) {
      return left;
    }
    if (compared) {
      return reader_->Unsupported("a chained comparison");
    }
    std::string op = reader_->Take().text;
    if (is_not_in) {
      op.append(" ").append(reader_->Take().text);
    }
    VARVE_TRY(ExpressionPtr right, ParseBinary(0));
    left = Make(Kind::kBinary, std::move(op), std::move(left), std::move(right));
    compared = true;
  }
}

Result<ExpressionPtr> ExpressionParser::ParseUnary(bool with_filters) {
  ExpressionPtr operand;
  if (reader_->AtOperator("-") || reader_->AtOperator("+")) {
    const bool negate = reader_->Take().text == "-";
    VARVE_RETURN_IF_ERROR(reader_->Enter());
    VARVE_TRY(operand, ParseUnary(false));
    reader_->Leave();
    if (negate) {
      operand = Make(Kind::kNegate, "", std::move(operand));
    }
  } else {
    VARVE_TRY(operand, ParsePrimary());
  }
  VARVE_TRY(operand, ParsePostfix(std::move(operand)));
  if (reader_->AtOperator("**")) {
    return reader_->Unsupported("the operator **");
  }
  if (!with_filters) {
    return operand;
  }
  return ParseFiltersAndTests(std::move(operand));
}

Result<ExpressionPtr> ExpressionParser::ParsePrimary() {
  ExpressionPtr constant = Make(Kind::kConstant);
  switch (reader_->Peek().kind) {
    case Token::Kind::kString: {
      std::string text;
      while (reader_->At(Token::Kind::kString)) {
        text += reader_->Take().text;
      }
      constant->constant = std::move(text);
      return constant;
    }
    case Token::Kind::kInteger:
    case Token::Kind::kFloat: {
      const bool is_integer = reader_->At(Token::Kind::kInteger);
      int64_t integer = 0;
      double number = 0;
      const std::string& text = reader_->Peek().text;
      const char* end = text.data() + text.size();
      const auto parsed = is_integer ? std::from_chars(text.data(), end, integer)
                                     : std::from_chars(text.data(), end, number);
      if (parsed.ec != std::errc()) {
        return reader_->Wrong("a number is too large");
      }
      constant->constant = is_integer ? Value(integer) : Value(number);
      reader_->Take();
      return constant;
    }
    case Token::Kind::kName: {
      std::string name = reader_->Take().text;
      if (name == "none" || name == "None") {
        return constant;
      }
      if (name == "true" || name == "True" || name == "false" || name == "False") {
        constant->constant = Value(name == "true" || name == "True");
        return constant;
      }
      constant->kind = Kind::kName;
      constant->name = std::move(name);
      return constant;
    }
    default:
      return ParseBracketed();
  }
}

Result<ExpressionPtr> ExpressionParser::ParseBracketed() {
  if (reader_->AtOperator("{")) {
    return ParseDict();
  }
  const bool is_list = reader_->AtOperator("[");
  if (!is_list && !reader_->AtOperator("(")) {
    return reader_->Wrong("an expression is missing");
  }
  const std::string_view close = is_list ? "]" : ")";
  reader_->Take();
  ExpressionPtr list = Make(Kind::kList);
  bool has_comma = false;
  while (!reader_->AtOperator(close)) {
    VARVE_TRY(ExpressionPtr item, Parse());
    list->args.push_back(std::move(item));
    if (!reader_->TakeOperator(",")) {
      break;
    }
    has_comma = true;
  }
  VARVE_RETURN_IF_ERROR(reader_->Expect(Token::Kind::kOperator, close));
  if (!is_list && !has_comma && list->args.size() == 1) {
    return std::move(list->args[0]);
  }
  return list;
}

Result<ExpressionPtr> ExpressionParser::ParseDict() {
  VARVE_RETURN_IF_ERROR(reader_->Expect(Token::Kind::kOperator, "{"));
  ExpressionPtr dict = Make(Kind::kDict);
  while (!reader_->AtOperator("}")) {
    VARVE_TRY(ExpressionPtr key, Parse());
    VARVE_RETURN_IF_ERROR(reader_->Expect(Token::Kind::kOperator, ":"));
    VARVE_TRY(ExpressionPtr value, Parse());
    dict->args.push_back(std::move(key));
    dict->args.push_back(std::move(value));
    if (!reader_->TakeOperator(",")) {
      break;
    }
  }
  VARVE_RETURN_IF_ERROR(reader_->Expect(Token::Kind::kOperator, "}"));
  return dict;
}

Result<ExpressionPtr> ExpressionParser::ParsePostfix(ExpressionPtr operand) {
  while (true) {
    if (reader_->TakeOperator(".")) {
      VARVE_TRY(std::string name, reader_->ExpectName());
      operand = Make(Kind::kAttribute, std::move(name), std::move(operand));
    } else if (reader_->TakeOperator("[")) {
      VARVE_TRY(operand, ParseSubscript(std::move(operand)));
    } else if (reader_->AtOperator("(")) {
      VARVE_TRY(operand, ParseCall(std::move(operand)));
    } else {
      return operand;
    }
  }
}

Result<ExpressionPtr> ExpressionParser::ParseSubscript(ExpressionPtr operand) {
  ExpressionPtr parts[3];  // start, stop, step
  size_t num_colons = 0;
  while (!reader_->AtOperator("]")) {
    if (reader_->TakeOperator(":")) {
      if (++num_colons > 2) {
        return reader_->Wrong("a slice has too many parts");
      }
      continue;
    }
    if (parts[num_colons] != nullptr) {
      return reader_->Wrong("']' is missing");
    }
    VARVE_TRY(parts[num_colons], Parse());
  }
  VARVE_RETURN_IF_ERROR(reader_->Expect(Token::Kind::kOperator, "]"));
  if (num_colons == 0) {
    if (parts[0] == nullptr) {
      return reader_->Wrong("an index is missing");
    }
    return Make(Kind::kIndex, "", std::move(operand), std::move(parts[0]));
  }
  ExpressionPtr slice = Make(Kind::kSlice, "", std::move(operand));
  for (ExpressionPtr& part : parts) {
    slice->args.push_back(std::move(part));
  }
  return slice;
}

Result<ExpressionPtr> ExpressionParser::ParseCall(ExpressionPtr callee) {
  if (callee->kind == Kind::kAttribute) {
    if (!IsKnownMethod(callee->name)) {
      return reader_->Unsupported("the method '" + callee->name + "'");
    }
    callee->kind = Kind::kMethod;
    VARVE_RETURN_IF_ERROR(ParseArguments(callee.get()));
    return callee;
  }
  if (callee->kind != Kind::kName) {
    return reader_->Unsupported("a call of what has no name");
  }
  called_names_.push_back({callee->name, callee->line});
  ExpressionPtr call = Make(Kind::kCall, "", std::move(callee));
  VARVE_RETURN_IF_ERROR(ParseArguments(call.get()));
  return call;
}

Result<void> ExpressionParser::ParseArguments(Expression* call) {
  VARVE_RETURN_IF_ERROR(reader_->Expect(Token::Kind::kOperator, "("));
  while (!reader_->AtOperator(")")) {
    if (reader_->AtOperator("*") || reader_->AtOperator("**")) {
      return reader_->Unsupported("unpacked arguments (*)");
    }
    const bool is_named = reader_->At(Token::Kind::kName) &&
                          reader_->Peek(1).kind == Token::Kind::kOperator &&
                          reader_->Peek(1).text == "=";
    std::string name;
    if (is_named) {
      name = reader_->Take().text;
      reader_->Take();
    }
    VARVE_TRY(ExpressionPtr value, Parse());
    if (is_named) {
      call->named_args.emplace_back(std::move(name), std::move(value));
    } else if (!call->named_args.empty()) {
      return reader_->Wrong("a plain argument follows a named one");
    } else {
      call->args.push_back(std::move(value));
    }
    if (!reader_->TakeOperator(",")) {
      break;
    }
  }
  return reader_->Expect(Token::Kind::kOperator, ")");
}

Result<ExpressionPtr> ExpressionParser::ParseFiltersAndTests(ExpressionPtr operand) {
  while (true) {
    if (reader_->TakeOperator("|")) {
      VARVE_TRY(std::string name, reader_->ExpectName());
      if (!IsKnownFilter(name)) {
        return reader_->Unsupported("the filter '" + name + "'");
      }
      operand = Make(Kind::kFilter, std::move(name), std::move(operand));
      if (reader_->AtOperator("(")) {
        VARVE_RETURN_IF_ERROR(ParseArguments(operand.get()));
      }
    } else if (reader_->TakeName("is")) {
      VARVE_TRY(operand, ParseTest(std::move(operand)));
    } else if (reader_->AtOperator("(")) {
      return reader_->Unsupported("a call of what has no name");
    } else {
      return operand;
    }
  }
}

Result<ExpressionPtr> ExpressionParser::ParseTest(ExpressionPtr operand) {
  const bool negated = reader_->TakeName("not");
  VARVE_TRY(std::string name, reader_->ExpectName());
  if (!IsKnownTest(name)) {
    return reader_->Unsupported("the test '" + name + "'");
  }
  ExpressionPtr test = Make(Kind::kTest, name, std::move(operand));
  if (reader_->AtOperator("(")) {
    VARVE_RETURN_IF_ERROR(ParseArguments(test.get()));
  } else if (TestTakesArgument(name)) {
    VARVE_TRY(ExpressionPtr argument, ParsePrimary());
    VARVE_TRY(argument, ParsePostfix(std::move(argument)));
    test->args.push_back(std::move(argument));
  }
  return negated ? Make(Kind::kNot, "", std::move(test)) : std::move(test);
}

}  // namespace varve::jinja
