#include "worker/config_fields.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include <nlohmann/json.hpp>

namespace varve {
namespace {

bool IsInt64(const nlohmann::json& value) {
  return value.is_number_integer() &&
         (!value.is_number_unsigned() || value.get<uint64_t>() <= uint64_t{INT64_MAX});
}

}  // namespace

ConfigFields::ConfigFields(const nlohmann::json& object, std::string path)
    : object_(object), path_(std::move(path)) {
  VARVE_CHECK(object.is_object());
}

bool ConfigFields::Has(std::string_view name) const {
  const auto it = object_.find(name);
  return it != object_.end() && !it->is_null();
}

bool ConfigFields::IsNull(std::string_view name) const {
  const auto it = object_.find(name);
  return it != object_.end() && it->is_null();
}

const nlohmann::json* ConfigFields::Find(std::string_view name) {
  Ignore(name);
  const auto it = object_.find(name);
  return it != object_.end() && !it->is_null() ? &*it : nullptr;
}

int64_t ConfigFields::Int(std::string_view name,
                          std::optional<int64_t> fallback,
                          int64_t lowest,
                          int64_t highest) {
  const nlohmann::json* value = Find(name);
  if (value == nullptr) {
    if (!fallback) {
      Fail(ErrorCode::kBadModel, fmt::format("the field {}{} is missing", path_, name));
    }
    return fallback.value_or(lowest);
  }
  if (!IsInt64(*value) || value->get<int64_t>() < lowest || value->get<int64_t>() > highest) {
    Fail(ErrorCode::kBadModel,
         fmt::format("the field {}{} is {}; it must be an integer from {} to {}",
                     path_,
                     name,
                     value->dump(),
                     lowest,
                     highest));
    return fallback.value_or(lowest);
  }
  return value->get<int64_t>();
}

double ConfigFields::Number(std::string_view name,
                            std::optional<double> fallback,
                            double lowest,
                            double highest) {
  const nlohmann::json* value = Find(name);
  if (value == nullptr) {
    if (!fallback) {
      Fail(ErrorCode::kBadModel, fmt::format("the field {}{} is missing", path_, name));
    }
    return fallback.value_or(lowest);
  }
  const double number = value->is_number() ? value->get<double>() : std::nan("");
  if (!(number >= lowest && number <= highest)) {
    Fail(ErrorCode::kBadModel,
         fmt::format("the field {}{} is {}; it must be a number from {} to {}",
                     path_,
                     name,
                     value->dump(),
                     lowest,
                     highest));
    return fallback.value_or(lowest);
  }
  return number;
}

bool ConfigFields::Bool(std::string_view name, bool fallback) {
  const nlohmann::json* value = Find(name);
  if (value == nullptr) {
    return fallback;
  }
  if (!value->is_boolean()) {
    Fail(ErrorCode::kBadModel,
         fmt::format("the field {}{} is {}; it must be true or false", path_, name, value->dump()));
    return fallback;
  }
  return value->get<bool>();
}

std::string ConfigFields::String(std::string_view name, std::string fallback) {
  const nlohmann::json* value = Find(name);
  if (value == nullptr) {
    return fallback;
  }
  if (!value->is_string()) {
    Fail(ErrorCode::kBadModel,
         fmt::format("the field {}{} is {}; it must be a string", path_, name, value->dump()));
    return fallback;
  }
  return value->get<std::string>();
}

std::vector<std::string> ConfigFields::Strings(std::string_view name) {
  const nlohmann::json* value = Find(name);
  if (value == nullptr) {
    return {};
  }
  if (!value->is_array() ||
      !std::all_of(value->begin(), value->end(), [](const auto& v) { return v.is_string(); })) {
    Fail(ErrorCode::kBadModel,
         fmt::format("the field {}{} must be a list of strings", path_, name));
    return {};
  }
  return value->get<std::vector<std::string>>();
}

std::vector<int64_t> ConfigFields::Ints(std::string_view name) {
  const nlohmann::json* value = Find(name);
  if (value == nullptr) {
    return {};
  }
  const auto fits = [](const nlohmann::json& v) { return IsInt64(v); };
  if (!value->is_array() || !std::all_of(value->begin(), value->end(), fits)) {
    Fail(ErrorCode::kBadModel,
         fmt::format("the field {}{} must be a list of integers", path_, name));
    return {};
  }
  return value->get<std::vector<int64_t>>();
}

void ConfigFields::Fail(ErrorCode code, std::string message) {
  if (!error_) {
    error_ = Error{code, std::move(message)};
  }
}

void ConfigFields::Unsupported(std::string_view name, std::string_view why) {
  Fail(ErrorCode::kUnsupported,
       fmt::format("the field {}{} is not supported: {}", path_, name, why));
}

Result<void> ConfigFields::Status() const {
  return error_ ? Result<void>(*error_) : Result<void>();
}

Result<void> ConfigFields::Finish(std::span<const std::string_view> harmless,
                                  std::string_view what) const {
  VARVE_RETURN_IF_ERROR(Status());
  std::string unknown;
  for (const auto& [name, value] : object_.items()) {
    const bool known = value.is_null() || read_.contains(name) ||
                       std::find(harmless.begin(), harmless.end(), name) != harmless.end();
    if (!known) {
      unknown += fmt::format("{}{}{}", unknown.empty() ? "" : ", ", path_, name);
    }
  }
  if (!unknown.empty()) {
    return Error{ErrorCode::kUnsupported,
                 fmt::format("not supported in {}: {} (a field that is not understood might change "
                             "what the model computes)",
                             what,
                             unknown)};
  }
  return {};
}

}  // namespace varve
