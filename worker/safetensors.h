// Reads safetensors: one file, or shards with an index. The files are memory-mapped; a tensor is a
// view into a map and is never copied. Writes one file.
//
// A file is untrusted input: header size, JSON, dtypes, shapes and offsets are checked before
// anything points into it, and the tensors must tile the data section exactly (no overlap, no gap),
// as the format demands.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/dense.h"
#include "proto/base/file.h"
#include "proto/base/result.h"

namespace varve {

enum class TensorType : uint8_t { kF32, kBf16, kF16, kI64, kI32 };

struct Tensor {
  TensorType type = TensorType::kF32;
  std::vector<size_t> shape;
  std::span<const std::byte> bytes;  // row-major, little-endian
};

class SafetensorsModel {
 public:
  // One file.
  static Result<SafetensorsModel> OpenFile(const std::string& path);
  // A model directory: model.safetensors, or the shards that model.safetensors.index.json names.
  static Result<SafetensorsModel> OpenDirectory(const std::string& directory);

  // By name. The views live as long as this object or any copy of it.
  const std::map<std::string, Tensor, std::less<>>& tensors() const { return tensors_; }
  uint64_t total_bytes() const;
  // The number that is the I64 tensor of this name and of one value, if there is such a tensor.
  std::optional<uint64_t> FindNumber(std::string_view name) const;

 private:
  Result<void> AddFile(const std::string& path);

  std::vector<std::shared_ptr<const MappedFile>> files_;
  std::map<std::string, Tensor, std::less<>> tensors_;
};

struct NamedTensor {
  std::string name;
  Tensor tensor;
};

// Replaces the file as a whole. REQUIRES: names are distinct, shapes and bytes agree.
Result<void> SaveSafetensors(const std::string& path, std::span<const NamedTensor> tensors);

}  // namespace varve
