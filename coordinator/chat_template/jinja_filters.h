// What the files of filters share. For jinja_filters.cc and jinja_sequence_filters.cc only.
#pragma once

#include <string>
#include <string_view>
#include <unordered_map>

#include "coordinator/chat_template/jinja_builtins.h"

namespace varve::jinja {

using FilterFunction = Result<Value> (*)(const Value& subject,
                                         const Arguments& arguments,
                                         Budget* budget);
using FilterTable = std::unordered_map<std::string_view, FilterFunction>;

// Filters of lists and dicts.
const FilterTable& SequenceFilters();

// Text filters take anything and see its text.
Result<std::string> TextOf(const Value& value, Budget* budget);

// The argument at this place or of this name, or `otherwise` if it is not given or of another kind.
std::string TextArgument(const Arguments& arguments,
                         size_t index,
                         std::string_view name,
                         std::string_view otherwise);
int64_t IntArgument(const Arguments& arguments,
                    size_t index,
                    std::string_view name,
                    int64_t otherwise);
bool BoolArgument(const Arguments& arguments, size_t index, std::string_view name);

}  // namespace varve::jinja
