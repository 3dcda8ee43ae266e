// Reading JSON objects field by field, with errors that name the field by its path
// ("tokenizer.json: model.type"). Private to this folder: no exception of the JSON library leaves
// these functions.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>

#include "proto/base/result.h"

#include <nlohmann/json_fwd.hpp>

namespace varve {

using Json = nlohmann::json;

// kBadModel if the file is not JSON, ReadFile's error if it cannot be read. `bytes_read` may be
// null.
Result<Json> ReadJsonFile(const std::string& path, std::string* bytes_read);

// A JSON value and where it stands, for messages.
struct JsonAt {
  const Json* value = nullptr;
  std::string path;

  bool is_null() const;  // null, or not there
  // The field of an object, a null value if it is not there. REQUIRES: an object (RequireObject).
  JsonAt Field(std::string_view name) const;
  JsonAt Element(size_t index) const;  // REQUIRES: an array with that many elements
  size_t size() const;

  Result<void> RequireObject() const;
  Result<void> RequireArray() const;
  // Refuses fields that are not listed: what is not understood is not ignored.
  Result<void> RequireOnly(std::initializer_list<std::string_view> names) const;

  Result<std::string> AsString() const;
  Result<bool> AsBool(bool if_null) const;
  Result<int64_t> AsInt() const;
  Result<int32_t> AsTokenId() const;

  Error Bad(std::string_view why) const;          // kBadModel: "<path> <why>."
  Error Unsupported(std::string_view why) const;  // kUnsupported: "<path> <why> is not supported."
};

}  // namespace varve
