#include "coordinator/chat_template/jinja_parser.h"

#include <algorithm>
#include <set>

#include "coordinator/chat_template/jinja_builtins.h"

namespace varve::jinja {
namespace {

constexpr int kMaxNesting = 100;

std::string InQuotes(std::string_view text) {
  return std::string("'").append(text).append("'");
}

class StatementParser {
 public:
  explicit StatementParser(std::vector<Token> tokens)
      : reader_(std::move(tokens)), expressions_(&reader_) {}

  Result<std::vector<Statement>> Run() {
    VARVE_TRY(std::vector<Statement> body, ParseBody({}));
    if (!reader_.At(Token::Kind::kEnd)) {
      return reader_.Wrong(InQuotes(reader_.Peek(1).text) + " closes nothing");
    }
    for (const CalledName& called : expressions_.called_names()) {
      if (FindFunction(called.name) || assigned_names_.contains(called.name)) {
        continue;
      }
      return Error{ErrorCode::kUnsupported,
                   "The chat template calls '" + called.name + "' (line " +
                       std::to_string(called.line) + "), which is not supported."};
    }
    return body;
  }

 private:
  using Kind = Statement::Kind;
  using Names = std::initializer_list<std::string_view>;

  Statement Make(Kind kind) const {
    Statement statement;
    statement.kind = kind;
    statement.line = reader_.Peek().line;
    return statement;
  }

  // Statements up to a block whose tag is one of `ends`, or to the end of the template; that block
  // is not taken.
  Result<std::vector<Statement>> ParseBody(Names ends) {
    VARVE_RETURN_IF_ERROR(reader_.Enter());
    std::vector<Statement> body;
    while (!reader_.At(Token::Kind::kEnd)) {
      if (reader_.At(Token::Kind::kText)) {
        body.push_back(Make(Kind::kText));
        body.back().text = reader_.Take().text;
      } else if (reader_.At(Token::Kind::kExpressionBegin)) {
        reader_.Take();
        body.push_back(Make(Kind::kOutput));
        VARVE_TRY(body.back().expression, expressions_.ParseTuple());
        VARVE_RETURN_IF_ERROR(reader_.Expect(Token::Kind::kExpressionEnd));
      } else {
        const std::string_view tag = reader_.Peek(1).text;
        if (std::find(ends.begin(), ends.end(), tag) != ends.end() || tag.starts_with("end") ||
            tag == "else" || tag == "elif") {
          break;
        }
        VARVE_TRY(Statement statement, ParseBlock());
        body.push_back(std::move(statement));
      }
    }
    reader_.Leave();
    return body;
  }

  Result<Statement> ParseBlock() {
    VARVE_RETURN_IF_ERROR(reader_.Expect(Token::Kind::kBlockBegin));
    VARVE_TRY(const std::string tag, reader_.ExpectName());
    if (tag == "if") {
      return ParseIf();
    }
    if (tag == "for") {
      return ParseFor();
    }
    if (tag == "set") {
      return ParseSet();
    }
    if (tag == "macro") {
      return ParseMacro();
    }
    if (tag == "break" || tag == "continue") {
      if (loop_depth_ == 0) {
        return reader_.Wrong(InQuotes(tag) + " stands outside a loop");
      }
      VARVE_RETURN_IF_ERROR(reader_.Expect(Token::Kind::kBlockEnd));
      return Make(tag == "break" ? Kind::kBreak : Kind::kContinue);
    }
    if (tag == "generation") {
      Statement group = Make(Kind::kGroup);
      VARVE_RETURN_IF_ERROR(reader_.Expect(Token::Kind::kBlockEnd));
      VARVE_TRY(group.body, ParseBody({"endgeneration"}));
      VARVE_RETURN_IF_ERROR(Close("endgeneration"));
      return group;
    }
    return reader_.Unsupported("the tag " + InQuotes(tag));
  }

  // Takes {% tag %}.
  Result<void> Close(std::string_view tag) {
    if (!reader_.At(Token::Kind::kBlockBegin)) {
      return reader_.Wrong(InQuotes(tag) + " is missing");
    }
    reader_.Take();
    if (!reader_.TakeName(tag)) {
      return reader_.Wrong(InQuotes(tag) + " is missing");
    }
    return reader_.Expect(Token::Kind::kBlockEnd);
  }

  bool AtTag(std::string_view tag) const {
    return reader_.At(Token::Kind::kBlockBegin) && reader_.Peek(1).text == tag;
  }

  Result<Statement> ParseIf() {
    Statement statement = Make(Kind::kIf);
    VARVE_TRY(statement.expression, expressions_.ParseTuple());
    VARVE_RETURN_IF_ERROR(reader_.Expect(Token::Kind::kBlockEnd));
    VARVE_TRY(statement.body, ParseBody({"elif", "else", "endif"}));
    if (AtTag("elif")) {
      reader_.Take();
      reader_.Take();
      // The elif takes the {% endif %} that closes both.
      VARVE_RETURN_IF_ERROR(reader_.Enter());
      VARVE_TRY(Statement otherwise, ParseIf());
      reader_.Leave();
      statement.else_body.push_back(std::move(otherwise));
      return statement;
    }
    if (AtTag("else")) {
      VARVE_RETURN_IF_ERROR(Close("else"));
      VARVE_TRY(statement.else_body, ParseBody({"endif"}));
    }
    VARVE_RETURN_IF_ERROR(Close("endif"));
    return statement;
  }

  Result<Statement> ParseFor() {
    Statement statement = Make(Kind::kFor);
    const bool bracketed = reader_.TakeOperator("(");
    do {
      VARVE_TRY(std::string name, reader_.ExpectName());
      assigned_names_.insert(name);
      statement.targets.push_back(std::move(name));
    } while (reader_.TakeOperator(","));
    if (bracketed) {
      VARVE_RETURN_IF_ERROR(reader_.Expect(Token::Kind::kOperator, ")"));
    }
    VARVE_RETURN_IF_ERROR(reader_.Expect(Token::Kind::kName, "in"));
    VARVE_TRY(statement.expression, expressions_.ParseTuple(false));
    if (reader_.TakeName("if")) {
      VARVE_TRY(statement.condition, expressions_.Parse());
    }
    if (reader_.AtName("recursive")) {
      return reader_.Unsupported("a recursive loop");
    }
    VARVE_RETURN_IF_ERROR(reader_.Expect(Token::Kind::kBlockEnd));
    ++loop_depth_;
    VARVE_TRY(statement.body, ParseBody({"else", "endfor"}));
    --loop_depth_;
    if (AtTag("else")) {
      VARVE_RETURN_IF_ERROR(Close("else"));
      VARVE_TRY(statement.else_body, ParseBody({"endfor"}));
    }
    VARVE_RETURN_IF_ERROR(Close("endfor"));
    return statement;
  }

  Result<Statement> ParseSet() {
    Statement statement = Make(Kind::kSet);
    VARVE_TRY(std::string name, reader_.ExpectName());
    statement.targets.push_back(std::move(name));
    if (reader_.TakeOperator(".")) {
      VARVE_TRY(statement.attribute, reader_.ExpectName());
    } else {
      assigned_names_.insert(statement.targets[0]);
    }
    if (reader_.AtOperator(",")) {
      return reader_.Unsupported("an assignment to several names");
    }
    if (reader_.AtOperator("|")) {
      return reader_.Unsupported("a filtered block assignment");
    }
    if (reader_.TakeOperator("=")) {
      VARVE_TRY(statement.expression, expressions_.ParseTuple());
      VARVE_RETURN_IF_ERROR(reader_.Expect(Token::Kind::kBlockEnd));
      return statement;
    }
    VARVE_RETURN_IF_ERROR(reader_.Expect(Token::Kind::kBlockEnd));
    VARVE_TRY(statement.body, ParseBody({"endset"}));
    VARVE_RETURN_IF_ERROR(Close("endset"));
    return statement;
  }

  Result<Statement> ParseMacro() {
    Statement statement = Make(Kind::kMacro);
    VARVE_TRY(std::string name, reader_.ExpectName());
    assigned_names_.insert(name);
    statement.targets.push_back(std::move(name));
    VARVE_RETURN_IF_ERROR(reader_.Expect(Token::Kind::kOperator, "("));
    while (!reader_.AtOperator(")")) {
      Statement::Parameter parameter;
      VARVE_TRY(parameter.name, reader_.ExpectName());
      assigned_names_.insert(parameter.name);
      if (reader_.TakeOperator("=")) {
        VARVE_TRY(parameter.default_value, expressions_.Parse());
      }
      statement.parameters.push_back(std::move(parameter));
      if (!reader_.TakeOperator(",")) {
        break;
      }
    }
    VARVE_RETURN_IF_ERROR(reader_.Expect(Token::Kind::kOperator, ")"));
    VARVE_RETURN_IF_ERROR(reader_.Expect(Token::Kind::kBlockEnd));
    const int outer_loop_depth = std::exchange(loop_depth_, 0);
    VARVE_TRY(statement.body, ParseBody({"endmacro"}));
    loop_depth_ = outer_loop_depth;
    VARVE_RETURN_IF_ERROR(Close("endmacro"));
    return statement;
  }

  TokenReader reader_;
  ExpressionParser expressions_;
  std::set<std::string>
      assigned_names_;  // what a call may reach besides the functions of the language
  int loop_depth_ = 0;
};

}  // namespace

bool TokenReader::TakeOperator(std::string_view text) {
  if (!AtOperator(text)) {
    return false;
  }
  Take();
  return true;
}

bool TokenReader::TakeName(std::string_view text) {
  if (!AtName(text)) {
    return false;
  }
  Take();
  return true;
}

Result<void> TokenReader::Expect(Token::Kind kind, std::string_view text) {
  if (!At(kind, text)) {
    return Wrong(text.empty() ? "the end of a tag is missing" : InQuotes(text) + " is missing");
  }
  Take();
  return {};
}

Result<std::string> TokenReader::ExpectName() {
  if (!At(Token::Kind::kName)) {
    return Wrong("a name is missing");
  }
  return Take().text;
}

Error TokenReader::Wrong(std::string_view why) const {
  return TemplateError("line " + std::to_string(Peek().line) + ": " + std::string(why));
}

Error TokenReader::Unsupported(std::string_view what) const {
  return Error{ErrorCode::kUnsupported,
               "The chat template uses " + std::string(what) + " (line " +
                   std::to_string(Peek().line) + "), which is not supported."};
}

Result<void> TokenReader::Enter() {
  if (++depth_ > kMaxNesting) {
    return Wrong("it nests too deep");
  }
  return {};
}

Result<std::vector<Statement>> ParseTemplate(std::string_view source) {
  VARVE_TRY(std::vector<Token> tokens, Lex(source));
  return StatementParser(std::move(tokens)).Run();
}

}  // namespace varve::jinja
