#include "worker/codec_tables.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>

#include <fmt/format.h>

#include "proto/base/file.h"
#include "proto/base/hash.h"
#include "worker/safetensors.h"

namespace varve {
namespace {

constexpr std::string_view kHashName = "model_hash";

std::string TensorName(const Codec& codec, int32_t layer) {
  return fmt::format("{}.v{}.layer.{}", codec.name(), codec.version(), layer);
}

// The tables of one codec and layer, or nothing if they are not such as a calibration makes.
std::optional<CodecTables> ReadTables(const Codec& codec,
                                      const ModelConfig& config,
                                      const Tensor& tensor) {
  const auto num_kv_heads = static_cast<size_t>(config.num_kv_heads);
  const auto head_dim = static_cast<size_t>(config.head_dim);
  const size_t num_floats = codec.TableFloats(num_kv_heads, head_dim);
  if (tensor.type != TensorType::kF32 || tensor.bytes.size() != num_floats * sizeof(float)) {
    return std::nullopt;
  }
  CodecTables tables;
  tables.values.resize(num_floats);
  std::memcpy(tables.values.data(), tensor.bytes.data(), tensor.bytes.size());
  const bool all_finite = std::all_of(
      tables.values.begin(), tables.values.end(), [](float value) { return std::isfinite(value); });
  if (!all_finite || !codec.TablesAreSound(tables.values, num_kv_heads, head_dim)) {
    return std::nullopt;
  }
  tables.hash = CodecTables::HashOf(tables.values);
  return tables;
}

}  // namespace

Result<std::shared_ptr<const CodecTableSet>> LoadCodecTables(const std::string& path,
                                                             const ModelConfig& config,
                                                             uint64_t model_hash) {
  if (!FileExists(path)) {
    return Error{ErrorCode::kNotFound,
                 fmt::format("there is no file of tables '{}'; `varve calibrate` makes one", path)};
  }
  VARVE_TRY(const SafetensorsModel file, SafetensorsModel::OpenFile(path));
  const std::optional<uint64_t> hash = file.FindNumber(kHashName);
  if (!hash) {
    return Error{ErrorCode::kBadModel,
                 fmt::format("'{}' names no model: it is no file of `varve calibrate`", path)};
  }
  if (*hash != model_hash) {
    return Error{ErrorCode::kModelMismatch,
                 fmt::format("'{}' was made for the model {}, not for this one, {}: leave it "
                             "out, or make it again with `varve calibrate`",
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
    for (int32_t layer = 0; layer < config.num_layers; ++layer) {
      const std::string name = TensorName(*codec, layer);
      const auto found = file.tensors().find(name);
      if (found != file.tensors().end()) {
        std::optional<CodecTables> tables = ReadTables(*codec, config, found->second);
        if (!tables) {
          return Error{ErrorCode::kBadModel,
                       fmt::format("'{}' is damaged: these are no tables of codec {} for layer {}. "
                                   "Make the file again with `varve calibrate`",
                                   path,
                                   codec->name(),
                                   layer)};
        }
        set->Add(codec->id(), layer, std::move(*tables));
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
