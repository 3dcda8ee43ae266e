// Cuts a template into tokens and settles white space, as Jinja2 does with trim_blocks and
// lstrip_blocks set (which is how chat templates are rendered).
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "proto/base/result.h"

namespace varve::jinja {

struct Token {
  enum class Kind {
    kText,             // between the tags
    kExpressionBegin,  // {{
    kExpressionEnd,    // }}
    kBlockBegin,       // {%
    kBlockEnd,         // %}
    kName,
    kString,  // without its quotes, escapes resolved
    kInteger,
    kFloat,
    kOperator,
    kEnd,
  };
  Kind kind = Kind::kEnd;
  std::string text;
  int line = 1;
};

// The last token is kEnd. kInvalidArgument, naming the line, for what is not a template.
Result<std::vector<Token>> Lex(std::string_view source);

}  // namespace varve::jinja
