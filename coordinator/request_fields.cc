#include "coordinator/request_fields.h"

#include <algorithm>
#include <utility>

#include <fmt/core.h>

#include <nlohmann/json.hpp>

namespace varve {
namespace {

using Json = nlohmann::json;

constexpr int kMaxDepth = 32;
// Values cost memory far beyond their text: "[0,0,0,...]" takes 8 times its bytes.
constexpr size_t kMaxValues = size_t{16} << 20;

ApiError BadJson(const std::string& what) {
  return ApiError{.error = {ErrorCode::kInvalidArgument, what}};
}

// Looks at brackets and commas outside of strings, before a parser allocates for them.
std::optional<ApiError> CheckShape(std::string_view body) {
  int depth = 0;
  size_t num_values = 0;
  bool in_string = false;
  for (size_t i = 0; i < body.size(); ++i) {
    const char c = body[i];
    if (in_string) {
      if (c == '\\') {
        ++i;
      }
      in_string = c != '"';
      continue;
    }
    if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      if (++depth > kMaxDepth) {
        return BadJson(fmt::format(
            "The JSON body is nested deeper than {} levels at byte {}.", kMaxDepth, i + 1));
      }
    } else if (c == ']' || c == '}') {
      --depth;
    } else if (c == ',' && ++num_values > kMaxValues) {
      return BadJson(fmt::format("The JSON body has more than {} values.", kMaxValues));
    }
  }
  return std::nullopt;
}

const char* TypeName(const Json& value) {
  switch (value.type()) {
    case Json::value_t::object:
      return "an object";
    case Json::value_t::array:
      return "an array";
    case Json::value_t::string:
      return "a string";
    case Json::value_t::boolean:
      return "a boolean";
    case Json::value_t::number_float:
      return "a fractional number";
    default:
      return value.is_null() ? "null" : "an integer";
  }
}

// A value as messages quote it: cut, because a client may send megabytes.
std::string Shown(const Json& value) {
  constexpr size_t kMaxShown = 64;
  std::string text = value.dump(-1, ' ', false, Json::error_handler_t::replace);
  if (text.size() > kMaxShown) {
    text.resize(kMaxShown);
    text += "...";
  }
  return text;
}

bool IsEmptyValue(const Json& value) {
  return value.is_null() || (value.is_boolean() && !value.get<bool>()) ||
         (value.is_number() && value.get<double>() == 0.0) ||
         ((value.is_array() || value.is_object()) && value.empty()) ||
         (value.is_string() && value.get_ref<const std::string&>().empty());
}

}  // namespace

std::optional<ApiError> ParseJsonBody(std::string_view body, Json* out) {
  if (auto error = CheckShape(body)) {
    return error;
  }
  try {
    *out = Json::parse(body.begin(), body.end());
  } catch (const Json::exception& exception) {
    // Without "[json.exception.parse_error.101] " at its front the text names line, column and
    // cause.
    std::string what = exception.what();
    what.erase(0, what.find("] ") == std::string::npos ? 0 : what.find("] ") + 2);
    return BadJson(fmt::format("The body is not valid JSON: {}.", what));
  }
  if (!out->is_object()) {
    return BadJson(fmt::format("The body must be a JSON object, not {}.", TypeName(*out)));
  }
  return std::nullopt;
}

RequestFields::RequestFields(Json* object, std::string path)
    : object_(object), path_(std::move(path)) {}

Json* RequestFields::Any(const char* name) {
  known_.insert(name);
  const auto it = object_->find(name);
  return error_ || it == object_->end() || it->is_null() ? nullptr : &*it;
}

Json* RequestFields::Object(const char* name) {
  Json* value = Any(name);
  if (value != nullptr && !value->is_object()) {
    Fail(name, fmt::format("must be an object, not {}", TypeName(*value)));
    return nullptr;
  }
  return value;
}

std::optional<std::string> RequestFields::String(const char* name) {
  Json* value = Any(name);
  if (value == nullptr) {
    return std::nullopt;
  }
  if (!value->is_string()) {
    Fail(name, fmt::format("must be a string, not {}", TypeName(*value)));
    return std::nullopt;
  }
  return std::move(value->get_ref<std::string&>());
}

std::string RequestFields::RequiredString(const char* name) {
  std::optional<std::string> value = String(name);
  if (!value) {
    Fail(name, "is required");
    return {};
  }
  return *std::move(value);
}

std::optional<int64_t> RequestFields::Integer(const char* name, int64_t min, int64_t max) {
  const Json* value = Any(name);
  if (value == nullptr) {
    return std::nullopt;
  }
  if (!value->is_number_integer()) {
    Fail(name, fmt::format("must be an integer, not {}", TypeName(*value)));
    return std::nullopt;
  }
  const bool too_big = value->is_number_unsigned() &&
                       value->get<uint64_t>() > static_cast<uint64_t>(std::max<int64_t>(max, 0));
  const auto number = value->get<int64_t>();
  if (too_big || number < min || number > max) {
    Fail(name, fmt::format("must be from {} to {}, not {}", min, max, Shown(*value)));
    return std::nullopt;
  }
  return number;
}

std::optional<double> RequestFields::Number(const char* name, double min, double max) {
  const Json* value = Any(name);
  if (value == nullptr) {
    return std::nullopt;
  }
  if (!value->is_number()) {
    Fail(name, fmt::format("must be a number, not {}", TypeName(*value)));
    return std::nullopt;
  }
  const auto number = value->get<double>();
  if (!(number >= min && number <= max)) {
    Fail(name, fmt::format("must be from {} to {}, not {}", min, max, Shown(*value)));
    return std::nullopt;
  }
  return number;
}

std::optional<bool> RequestFields::Bool(const char* name) {
  const Json* value = Any(name);
  if (value == nullptr) {
    return std::nullopt;
  }
  if (!value->is_boolean()) {
    Fail(name, fmt::format("must be true or false, not {}", TypeName(*value)));
    return std::nullopt;
  }
  return value->get<bool>();
}

void RequestFields::Ignore(std::initializer_list<const char*> names) {
  known_.insert(names.begin(), names.end());
}

void RequestFields::RefuseUnlessEmpty(std::initializer_list<const char*> names) {
  for (const char* name : names) {
    const Json* value = Any(name);
    if (value != nullptr && !IsEmptyValue(*value)) {
      Fail(name, "is not supported by this server", ErrorCode::kUnsupported);
    }
  }
}

void RequestFields::OnlyInteger(const char* name, int64_t value) {
  const Json* given = Any(name);
  if (given != nullptr && (!given->is_number_integer() || given->get<int64_t>() != value)) {
    Fail(name,
         fmt::format("is supported as {} only, not {}", value, Shown(*given)),
         ErrorCode::kUnsupported);
  }
}

void RequestFields::Fail(const char* name, const std::string& what, ErrorCode code) {
  Fail(ApiError{.error = {code, fmt::format("'{}{}' {}.", path_, name, what)},
                .param = path_ + name});
}

void RequestFields::Fail(ApiError error) {
  if (!error_) {
    error_ = std::move(error);
  }
}

std::optional<ApiError> RequestFields::Finish() {
  for (const auto& [name, value] : object_->items()) {
    if (!known_.contains(name)) {
      Fail(name.substr(0, 64).c_str(), "is not a field of this request");
    }
  }
  return error_;
}

}  // namespace varve
