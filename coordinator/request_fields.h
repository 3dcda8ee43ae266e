// Strict reading of a JSON request body: each field once, with its type and range; what is not read
// is refused by name.
//
// The first thing that is wrong is kept and all later reads give nothing, so that a parser reads
// all its fields in a row and asks once, at the end, with Finish(). null counts as absent, as
// clients send it.
//
//   RequestFields fields(body);
//   params.model = fields.RequiredString("model");
//   params.stream = fields.Bool("stream").value_or(false);
//   if (auto error = fields.Finish()) { return *error; }
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "coordinator/openai_error.h"

#include <nlohmann/json_fwd.hpp>

namespace varve {

// Parses a request body: an object, nested at most 32 deep. The error says where the text stops
// being JSON.
std::optional<ApiError> ParseJsonBody(std::string_view body, nlohmann::json* out);

class RequestFields {
 public:
  // `object` must outlive this. `path` stands before the names in messages ("kv." for {"kv":
  // {...}}).
  explicit RequestFields(nlohmann::json* object, std::string path = "");

  std::optional<std::string> String(const char* name);
  std::string RequiredString(const char* name);
  std::optional<int64_t> Integer(const char* name, int64_t min, int64_t max);
  std::optional<double> Number(const char* name, double min, double max);
  std::optional<bool> Bool(const char* name);
  // Null if absent. The value may be moved from.
  nlohmann::json* Any(const char* name);
  nlohmann::json* Object(const char* name);

  // Well-known fields that do nothing here, whatever they say.
  void Ignore(std::initializer_list<const char*> names);
  // Fields that are known but not available: refused by name unless absent, null, false, zero, or
  // empty.
  void RefuseUnlessEmpty(std::initializer_list<const char*> names);
  // Only this value will do.
  void OnlyInteger(const char* name, int64_t value);

  void Fail(const char* name,
            const std::string& what,
            ErrorCode code = ErrorCode::kInvalidArgument);
  void Fail(ApiError error);
  bool failed() const { return error_.has_value(); }
  // The first error, unknown fields included.
  std::optional<ApiError> Finish();

 private:
  nlohmann::json* object_;
  std::string path_;
  std::set<std::string> known_;
  std::optional<ApiError> error_;
};

}  // namespace varve
