#include "worker/safetensors.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <optional>
#include <set>
#include <string_view>

#include <fmt/format.h>

#include <nlohmann/json.hpp>

namespace varve {
namespace {

using Json = nlohmann::json;

// The format's own limit.
constexpr uint64_t kMaxHeaderBytes = 100'000'000;

Error BadFile(const std::string& path, const std::string& what) {
  return {ErrorCode::kBadModel, fmt::format("{}: {}", path, what)};
}

Error BadTensor(const std::string& path, const std::string& tensor, const std::string& what) {
  return BadFile(path, fmt::format("tensor {}: {}", tensor, what));
}

struct TypeName {
  std::string_view name;
  TensorType type;
  size_t bytes;
};
constexpr TypeName kTypes[] = {{"F32", TensorType::kF32, 4},
                               {"BF16", TensorType::kBf16, 2},
                               {"F16", TensorType::kF16, 2},
                               {"I64", TensorType::kI64, 8},
                               {"I32", TensorType::kI32, 4}};

// Parses without exceptions; refuses a name that occurs twice in the outermost object, which JSON
// itself would allow.
Result<Json> ParseHeader(const std::string& path, std::string_view text) {
  std::set<std::string> names;
  std::optional<std::string> twice;
  const auto watch = [&](int depth, Json::parse_event_t event, Json& value) {
    if (depth == 1 && event == Json::parse_event_t::key &&
        !names.insert(value.get<std::string>()).second) {
      twice = value.get<std::string>();
    }
    return true;
  };
  Json header = Json::parse(text, watch, /*allow_exceptions=*/false);
  if (!header.is_object()) {
    return BadFile(path, "the header is not a JSON object");
  }
  if (twice) {
    return BadTensor(path, *twice, "is named twice");
  }
  return header;
}

// A non-negative integer.
std::optional<uint64_t> AsSize(const Json& value) {
  if (!value.is_number_unsigned()) {
    return std::nullopt;
  }
  return value.get<uint64_t>();
}

struct Extent {
  uint64_t begin;
  uint64_t end;
  std::string name;
};

Result<Extent> ParseTensor(const std::string& path,
                           const std::string& name,
                           const Json& entry,
                           std::span<const std::byte> data,
                           Tensor& tensor) {
  if (!entry.is_object() || !entry.contains("dtype") || !entry.contains("shape") ||
      !entry.contains("data_offsets") || entry.size() != 3) {
    return BadTensor(path, name, "must have dtype, shape and data_offsets, and nothing else");
  }
  const std::string type_name = entry["dtype"].is_string() ? entry["dtype"].get<std::string>() : "";
  const TypeName* type = std::find_if(
      std::begin(kTypes), std::end(kTypes), [&](const TypeName& t) { return t.name == type_name; });
  if (type == std::end(kTypes)) {
    return BadTensor(
        path,
        name,
        fmt::format("dtype {} is not supported; F32, BF16 and F16 are", entry["dtype"].dump()));
  }
  tensor.type = type->type;
  uint64_t bytes = type->bytes;
  const Json& shape = entry["shape"];
  for (const Json& dimension : shape) {
    const std::optional<uint64_t> size = AsSize(dimension);
    if (!shape.is_array() || !size || __builtin_mul_overflow(bytes, *size, &bytes)) {
      return BadTensor(path, name, fmt::format("shape {} is not one of a tensor", shape.dump()));
    }
    tensor.shape.push_back(*size);
  }
  const Json& offsets = entry["data_offsets"];
  const bool is_pair = offsets.is_array() && offsets.size() == 2;
  const std::optional<uint64_t> begin = is_pair ? AsSize(offsets[0]) : std::nullopt;
  const std::optional<uint64_t> end = is_pair ? AsSize(offsets[1]) : std::nullopt;
  if (!shape.is_array() || !begin || !end || *begin > *end || *end > data.size()) {
    return BadTensor(
        path,
        name,
        fmt::format(
            "data_offsets {} are outside the {} bytes of data", offsets.dump(), data.size()));
  }
  if (*end - *begin != bytes) {
    return BadTensor(
        path,
        name,
        fmt::format(
            "data_offsets span {} bytes, shape and dtype ask for {}", *end - *begin, bytes));
  }
  tensor.bytes = data.subspan(*begin, bytes);
  return Extent{*begin, *end, name};
}

// The tensors must tile the data section.
Result<void> CheckTiling(const std::string& path,
                         std::vector<Extent> extents,
                         uint64_t data_bytes) {
  std::sort(extents.begin(), extents.end(), [](const Extent& a, const Extent& b) {
    return std::tie(a.begin, a.end) < std::tie(b.begin, b.end);
  });
  uint64_t at = 0;
  for (const Extent& extent : extents) {
    if (extent.begin < at) {
      return BadTensor(path, extent.name, "its bytes overlap another tensor's");
    }
    if (extent.begin > at) {
      return BadTensor(
          path, extent.name, fmt::format("{} bytes before it belong to none", extent.begin - at));
    }
    at = extent.end;
  }
  if (at != data_bytes) {
    return BadFile(path, fmt::format("{} bytes at the end belong to no tensor", data_bytes - at));
  }
  return {};
}

}  // namespace

Result<void> SafetensorsModel::AddFile(const std::string& path) {
  VARVE_TRY(std::shared_ptr<const MappedFile> file, MappedFile::Open(path));
  const std::span<const std::byte> bytes = file->bytes();
  uint64_t header_bytes = 0;
  if (bytes.size() < sizeof(header_bytes)) {
    return BadFile(path, "is too short for a safetensors file");
  }
  std::memcpy(&header_bytes, bytes.data(), sizeof(header_bytes));
  if (header_bytes > kMaxHeaderBytes || header_bytes > bytes.size() - sizeof(header_bytes)) {
    return BadFile(
        path,
        fmt::format("names a header of {} bytes in a file of {}", header_bytes, bytes.size()));
  }
  const std::span<const std::byte> data = bytes.subspan(sizeof(header_bytes) + header_bytes);
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()) + sizeof(header_bytes),
                              header_bytes);
  VARVE_TRY(const Json header, ParseHeader(path, text));
  std::vector<Extent> extents;
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") {
      continue;
    }
    Tensor tensor;
    VARVE_TRY(Extent extent, ParseTensor(path, name, entry, data, tensor));
    extents.push_back(std::move(extent));
    if (!tensors_.emplace(name, std::move(tensor)).second) {
      return BadTensor(path, name, "is in another shard, too");
    }
  }
  VARVE_RETURN_IF_ERROR(CheckTiling(path, std::move(extents), data.size()));
  files_.push_back(std::move(file));
  return {};
}

Result<SafetensorsModel> SafetensorsModel::OpenFile(const std::string& path) {
  SafetensorsModel model;
  VARVE_RETURN_IF_ERROR(model.AddFile(path));
  return model;
}

Result<SafetensorsModel> SafetensorsModel::OpenDirectory(const std::string& directory) {
  const std::string single = directory + "/model.safetensors";
  const std::string index_path = single + ".index.json";
  if (FileExists(single)) {
    return OpenFile(single);
  }
  if (!FileExists(index_path)) {
    return Error{ErrorCode::kBadModel,
                 fmt::format("{} has neither model.safetensors nor model.safetensors.index.json",
                             directory)};
  }
  VARVE_TRY(const std::string text, ReadFile(index_path, kMaxHeaderBytes));
  const Json index = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object()) {
    return BadFile(index_path, "has no object weight_map");
  }
  std::set<std::string> shards;
  for (const auto& [tensor, shard] : index["weight_map"].items()) {
    const std::string name = shard.is_string() ? shard.get<std::string>() : "";
    // A shard lies beside its index: a path would reach files that are not the model's.
    if (name.empty() || name.find('/') != std::string::npos) {
      return BadTensor(
          index_path, tensor, fmt::format("{} is not the name of a shard", shard.dump()));
    }
    shards.insert(name);
  }
  SafetensorsModel model;
  for (const std::string& shard : shards) {
    VARVE_RETURN_IF_ERROR(model.AddFile(directory + "/" + shard));
  }
  for (const auto& [tensor, shard] : index["weight_map"].items()) {
    if (!model.tensors_.contains(tensor)) {
      return BadTensor(index_path, tensor, fmt::format("is not in {}", shard.dump()));
    }
  }
  return model;
}

uint64_t SafetensorsModel::total_bytes() const {
  uint64_t total = 0;
  for (const auto& [name, tensor] : tensors_) {
    total += tensor.bytes.size();
  }
  return total;
}

std::optional<uint64_t> SafetensorsModel::FindNumber(std::string_view name) const {
  const auto found = tensors_.find(name);
  uint64_t number;
  if (found == tensors_.end() || found->second.type != TensorType::kI64 ||
      found->second.bytes.size() != sizeof(number)) {
    return std::nullopt;
  }
  std::memcpy(&number, found->second.bytes.data(), sizeof(number));
  return number;
}

Result<void> SaveSafetensors(const std::string& path, std::span<const NamedTensor> tensors) {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  uint64_t data_bytes = 0;
  for (const auto& [name, tensor] : tensors) {
    const auto* type = std::find_if(std::begin(kTypes), std::end(kTypes), [&](const TypeName& row) {
      return row.type == tensor.type;
    });
    const uint64_t begin = data_bytes;
    data_bytes += tensor.bytes.size();
    header[name] = {
        {"dtype", type->name}, {"shape", tensor.shape}, {"data_offsets", {begin, data_bytes}}};
  }
  std::string text = header.dump();
  text.append((8 - text.size() % 8) % 8, ' ');
  const uint64_t header_bytes = text.size();
  static_assert(std::endian::native == std::endian::little);
  std::string out(sizeof(header_bytes), '\0');
  std::memcpy(out.data(), &header_bytes, sizeof(header_bytes));
  out.reserve(out.size() + text.size() + data_bytes);
  out += text;
  for (const NamedTensor& row : tensors) {
    out.append(reinterpret_cast<const char*>(row.tensor.bytes.data()), row.tensor.bytes.size());
  }
  return WriteFileAtomically(path, out);
}

}  // namespace varve
