#include "coordinator/tokenizer/json_fields.h"

#include <algorithm>
#include <limits>

#include "proto/base/file.h"

#include <nlohmann/json.hpp>

namespace varve {
namespace {

constexpr uint64_t kMaxJsonBytes = uint64_t{512} << 20;

const Json kNull;

std::string BaseName(const std::string& path) {
  return path.substr(path.find_last_of('/') + 1);
}

}  // namespace

Result<Json> ReadJsonFile(const std::string& path, std::string* bytes_read) {
  VARVE_TRY(std::string bytes, ReadFile(path, kMaxJsonBytes));
  Json json = Json::parse(bytes, nullptr, false);
  if (json.is_discarded()) {
    return Error{ErrorCode::kBadModel, BaseName(path) + " is not valid JSON."};
  }
  if (!json.is_object()) {
    return Error{ErrorCode::kBadModel, BaseName(path) + " is not a JSON object."};
  }
  if (bytes_read != nullptr) {
    *bytes_read = std::move(bytes);
  }
  return json;
}

bool JsonAt::is_null() const {
  return value->is_null();
}

JsonAt JsonAt::Field(std::string_view name) const {
  const std::string field_path =
      path.ends_with(':') ? path + " " + std::string(name) : path + "." + std::string(name);
  const auto found = value->find(std::string(name));
  return {found == value->end() ? &kNull : &*found, field_path};
}

JsonAt JsonAt::Element(size_t index) const {
  VARVE_CHECK(value->is_array() && index < value->size());
  return {&(*value)[index], path + "[" + std::to_string(index) + "]"};
}

size_t JsonAt::size() const {
  return value->size();
}

Result<void> JsonAt::RequireObject() const {
  if (!value->is_object()) {
    return Bad("is not an object");
  }
  return {};
}

Result<void> JsonAt::RequireArray() const {
  if (!value->is_array()) {
    return Bad("is not a list");
  }
  return {};
}

Result<void> JsonAt::RequireOnly(std::initializer_list<std::string_view> names) const {
  VARVE_RETURN_IF_ERROR(RequireObject());
  for (const auto& item : value->items()) {
    if (std::find(names.begin(), names.end(), item.key()) == names.end()) {
      return Field(item.key()).Unsupported("");
    }
  }
  return {};
}

Result<std::string> JsonAt::AsString() const {
  if (!value->is_string()) {
    return Bad("is not a string");
  }
  return value->get_ref<const std::string&>();
}

Result<bool> JsonAt::AsBool(bool if_null) const {
  if (value->is_null()) {
    return if_null;
  }
  if (!value->is_boolean()) {
    return Bad("is not true or false");
  }
  return *value->get_ptr<const bool*>();
}

Result<int64_t> JsonAt::AsInt() const {
  if (!value->is_number_integer()) {
    return Bad("is not an integer");
  }
  return value->get<int64_t>();
}

Result<int32_t> JsonAt::AsTokenId() const {
  VARVE_TRY(const int64_t id, AsInt());
  constexpr int64_t kMaxTokenId =
      (1 << 24) - 1;  // no vocabulary is near; bounds the tables that ids index
  if (id < 0 || id > kMaxTokenId) {
    return Bad("is not a token id");
  }
  return static_cast<int32_t>(id);
}

Error JsonAt::Bad(std::string_view why) const {
  return Error{ErrorCode::kBadModel, path + " " + std::string(why) + "."};
}

Error JsonAt::Unsupported(std::string_view why) const {
  return Error{ErrorCode::kUnsupported,
               path + (why.empty() ? "" : " ") + std::string(why) + " is not supported."};
}

}  // namespace varve
