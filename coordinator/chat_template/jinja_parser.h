// Tokens to a tree. What the evaluator does not have (a tag, filter, test, method or function) is
// refused here, by name, so that a template fails when its model is loaded and not in the middle of
// a conversation.
#pragma once

#include <string_view>
#include <vector>

#include "coordinator/chat_template/jinja_ast.h"
#include "coordinator/chat_template/jinja_lexer.h"

namespace varve::jinja {

// kInvalidArgument for a syntax error, kUnsupported for what is not there; both name the line.
Result<std::vector<Statement>> ParseTemplate(std::string_view source);

// Reads tokens one by one; shared by the parsers of statements and expressions.
class TokenReader {
 public:
  explicit TokenReader(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  const Token& Peek(size_t ahead = 0) const {
    return tokens_[std::min(position_ + ahead, tokens_.size() - 1)];
  }
  Token Take() { return position_ + 1 < tokens_.size() ? tokens_[position_++] : tokens_.back(); }
  bool At(Token::Kind kind, std::string_view text = {}) const {
    return Peek().kind == kind && (text.empty() || Peek().text == text);
  }
  bool AtOperator(std::string_view text) const { return At(Token::Kind::kOperator, text); }
  bool AtName(std::string_view text) const { return At(Token::Kind::kName, text); }
  bool TakeOperator(std::string_view text);
  bool TakeName(std::string_view text);
  Result<void> Expect(Token::Kind kind, std::string_view text = {});
  Result<std::string> ExpectName();

  // Syntax error at the next token; what is not supported there.
  Error Wrong(std::string_view why) const;
  Error Unsupported(std::string_view what) const;

  // Held while parsing something that may nest; counts how deep.
  Result<void> Enter();
  void Leave() { --depth_; }

 private:
  std::vector<Token> tokens_;
  size_t position_ = 0;
  int depth_ = 0;
};

// Names that a template calls, for the check that they can be called at all.
struct CalledName {
  std::string name;
  int line = 0;
};

class ExpressionParser {
 public:
  explicit ExpressionParser(TokenReader* reader) : reader_(reader) {}

  // With `allow_condition` false, an "if" behind the expression is left alone ({% for x in y if z
  // %}).
  Result<ExpressionPtr> Parse(bool allow_condition = true);
  // A tuple without brackets, too: a, b.
  Result<ExpressionPtr> ParseTuple(bool allow_condition = true);

  const std::vector<CalledName>& called_names() const { return called_names_; }

 private:
  using Kind = Expression::Kind;

  Result<ExpressionPtr> ParseCondition();
  Result<ExpressionPtr> ParseBinary(int level);
  Result<ExpressionPtr> ParseNot();
  Result<ExpressionPtr> ParseCompare();
  Result<ExpressionPtr> ParseUnary(bool with_filters);
  Result<ExpressionPtr> ParsePrimary();
  Result<ExpressionPtr> ParseBracketed();
  Result<ExpressionPtr> ParseDict();
  Result<ExpressionPtr> ParsePostfix(ExpressionPtr operand);
  Result<ExpressionPtr> ParseSubscript(ExpressionPtr operand);
  Result<ExpressionPtr> ParseCall(ExpressionPtr callee);
  Result<ExpressionPtr> ParseFiltersAndTests(ExpressionPtr operand);
  Result<ExpressionPtr> ParseTest(ExpressionPtr operand);
  Result<void> ParseArguments(Expression* call);

  ExpressionPtr Make(Kind kind) const;
  ExpressionPtr Make(Kind kind,
                     std::string name,
                     ExpressionPtr first,
                     ExpressionPtr second = nullptr) const;

  TokenReader* reader_;
  std::vector<CalledName> called_names_;
};

}  // namespace varve::jinja
