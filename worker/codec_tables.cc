#include "worker/codec_tables.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <optional>

#include <fmt/format.h>

#include "proto/base/file.h"
#include "proto/base/hash.h"
#include "worker/safetensors.h"

#include <nlohmann/json.hpp>

namespace varve {
namespace {

constexpr std::string_view kHashName = "model_hash";

std::string TensorName(const Codec& codec, int32_t layer) {
  return fmt::format("{}.v{}.layer.{}", codec.name(), codec.version(), layer);
}

// The hash that the file names, if it does.
std::optional<uint64_t> HashIn(const SafetensorsModel& file) {
  const auto found = file.tensors().find(kHashName);
  if (found == file.tensors().end() || found->second.type != TensorType::kI64 ||
      found->second.bytes.size() != sizeof(uint64_t)) {
    return std::nullopt;
  }
  uint64_t hash;
  std::memcpy(&hash, found->second.bytes.data(), sizeof(hash));
  return hash;
}

Result<CodecTables> ReadTables(const std::string& path,
                               const std::string& name,
                               const Tensor& tensor,
                               size_t num_floats) {
  if (tensor.type != TensorType::kF32 || tensor.bytes.size() != num_floats * sizeof(float)) {
    return Error{ErrorCode::kBadModel,
                 fmt::format("'{}': {} must have {} F32 values", path, name, num_floats)};
  }
  CodecTables tables;
  tables.values.resize(num_floats);
  std::memcpy(tables.values.data(), tensor.bytes.data(), tensor.bytes.size());
  for (const float value : tables.values) {
    if (!std::isfinite(value)) {
      return Error{ErrorCode::kBadModel,
                   fmt::format("'{}': {} holds a value that is not a number", path, name)};
    }
  }
  tables.hash = CodecTables::HashOf(tables.values);
  return tables;
}

}  // namespace

Result<std::shared_ptr<const CodecTableSet>> LoadCodecTables(const std::string& path,
                                                             const ModelConfig& config,
                                                             uint64_t model_hash) {
  VARVE_TRY(const SafetensorsModel file, SafetensorsModel::OpenFile(path));
  const std::optional<uint64_t> hash = HashIn(file);
  if (!hash) {
    return Error{ErrorCode::kBadModel,
                 fmt::format("'{}' names no model: it is no file of `varve calibrate`", path)};
  }
  if (*hash != model_hash) {
    return Error{ErrorCode::kModelMismatch,
                 fmt::format("'{}' was made for the model {}, not for this one, {}: remove it, or "
                             "make it again with `varve calibrate`",
                             path,
                             HashToHex(*hash),
                             HashToHex(model_hash))};
  }
  auto set = std::make_shared<CodecTableSet>();
  size_t known = 1;  // the hash
  for (const Codec* codec : AllCodecs()) {
    if (!codec->needs_tables()) {
      continue;
    }
    const size_t floats = codec->TableFloats(static_cast<size_t>(config.num_kv_heads),
                                             static_cast<size_t>(config.head_dim));
    for (int32_t layer = 0; layer < config.num_layers; ++layer) {
      const std::string name = TensorName(*codec, layer);
      const auto found = file.tensors().find(name);
      if (found != file.tensors().end()) {
        VARVE_TRY(CodecTables tables, ReadTables(path, name, found->second, floats));
        if (!codec->TablesAreSound(tables.values,
                                   static_cast<size_t>(config.num_kv_heads),
                                   static_cast<size_t>(config.head_dim))) {
          return Error{ErrorCode::kBadModel,
                       fmt::format("'{}': {} is damaged: make the file again with `varve "
                                   "calibrate`",
                                   path,
                                   name)};
        }
        set->Add(codec->id(), layer, std::move(tables));
        ++known;
      }
    }
  }
  if (known != file.tensors().size()) {
    return Error{ErrorCode::kVersionSkew,
                 fmt::format("'{}' holds {} tables that this build does not know: make it again "
                             "with `varve calibrate`",
                             path,
                             file.tensors().size() - known)};
  }
  return std::shared_ptr<const CodecTableSet>(std::move(set));
}

Result<void> SaveCodecTables(const std::string& path,
                             const CodecTableSet& tables,
                             uint64_t model_hash) {
  nlohmann::ordered_json header;
  std::string data(sizeof(model_hash), '\0');
  std::memcpy(data.data(), &model_hash, sizeof(model_hash));
  header[std::string(kHashName)] = {
      {"dtype", "I64"}, {"shape", {1}}, {"data_offsets", {0, data.size()}}};
  for (const auto& [key, own] : tables.all()) {
    VARVE_TRY(const Codec* codec, FindCodec(key.first));
    const size_t begin = data.size();
    const auto bytes = std::as_bytes(std::span(own.values));
    data.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    header[TensorName(*codec, key.second)] = {
        {"dtype", "F32"}, {"shape", {own.values.size()}}, {"data_offsets", {begin, data.size()}}};
  }
  std::string text = header.dump();
  text.append((8 - text.size() % 8) % 8, ' ');
  uint64_t header_bytes = text.size();
  static_assert(std::endian::native == std::endian::little);
  std::string out(sizeof(header_bytes), '\0');
  std::memcpy(out.data(), &header_bytes, sizeof(header_bytes));
  out += text;
  out += data;
  return WriteFileAtomically(path, out);
}

}  // namespace varve
