#include "worker/codec_tables.h"

#include <cmath>
#include <cstring>
#include <optional>

#include <fmt/format.h>

#include "proto/base/hash.h"
#include "worker/safetensors.h"

namespace varve {
namespace {

constexpr std::string_view kHashName = "model_hash";

std::string TensorName(const Codec& codec, int32_t layer) {
  return fmt::format("{}.v{}.layer.{}", codec.name(), codec.version(), layer);
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
  const std::optional<uint64_t> hash = file.FindNumber(kHashName);
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
  std::vector<NamedTensor> tensors = {
      {std::string(kHashName), {TensorType::kI64, {1}, std::as_bytes(std::span(&model_hash, 1))}}};
  for (const auto& [key, own] : tables.all()) {
    VARVE_TRY(const Codec* codec, FindCodec(key.first));
    tensors.push_back(
        {TensorName(*codec, key.second),
         {TensorType::kF32, {own.values.size()}, std::as_bytes(std::span(own.values))}});
  }
  return SaveSafetensors(path, tensors);
}

}  // namespace varve
