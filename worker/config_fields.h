// Reads the fields of one JSON object and remembers which of them were asked for, so that a field
// that nobody understood can be refused by its name. The first error sticks; readers return their
// fallback from then on, so that the code that reads a configuration stays a list of fields.
//
// Threads: one at a time. The object must outlive the reader.
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "proto/base/result.h"

#include <nlohmann/json_fwd.hpp>

namespace varve {

class ConfigFields {
 public:
  // `path` is the prefix in messages: "" for the whole file, "rope_scaling." for an object inside
  // it.
  ConfigFields(const nlohmann::json& object, std::string path);

  bool Has(std::string_view name) const;              // there, and not null
  bool IsNull(std::string_view name) const;           // there, and null
  const nlohmann::json* Find(std::string_view name);  // null if absent or null; counts as read

  // A missing or null field gives the fallback; without one it is an error that names the field. So
  // is a field of another type or outside [lowest, highest].
  int64_t Int(std::string_view name,
              std::optional<int64_t> fallback,
              int64_t lowest,
              int64_t highest);
  double Number(std::string_view name,
                std::optional<double> fallback,
                double lowest,
                double highest);
  bool Bool(std::string_view name, bool fallback);
  std::string String(std::string_view name, std::string fallback);
  std::vector<std::string> Strings(std::string_view name);  // empty if absent
  std::vector<int64_t> Ints(std::string_view name);         // empty if absent

  // Marks a field as read without looking at it.
  void Ignore(std::string_view name) { read_.emplace(name); }
  // Records an error, unless there is one already.
  void Fail(ErrorCode code, std::string message);
  void Unsupported(std::string_view name, std::string_view why);

  // The first error; or kUnsupported naming every field that was neither read nor is in `harmless`
  // nor null.
  Result<void> Finish(std::span<const std::string_view> harmless, std::string_view what) const;

  // The first error so far.
  Result<void> Status() const;
  const std::string& path() const { return path_; }

 private:
  const nlohmann::json& object_;
  std::string path_;
  std::set<std::string, std::less<>> read_;
  std::optional<Error> error_;
};

}  // namespace varve
