#include "worker/sensitivity.h"

#include <cmath>
#include <cstring>

#include <fmt/format.h>

#include "kernels/codec/bf16_block.h"
#include "proto/base/check.h"
#include "proto/base/hash.h"

namespace varve {
namespace {

constexpr std::string_view kHashName = "model_hash";
constexpr std::string_view kLengthsName = "sequence_lengths";
constexpr std::string_view kTokensName = "tokens";
constexpr std::string_view kSides[] = {"k", "v"};

std::string TensorName(int32_t layer, std::string_view side) {
  return fmt::format("layer.{}.{}", layer, side);
}

std::vector<int32_t> LengthsOf(const TokenSequences& sequences) {
  std::vector<int32_t> lengths;
  for (const std::vector<int32_t>& tokens : sequences) {
    lengths.push_back(static_cast<int32_t>(tokens.size()));
  }
  return lengths;
}

std::vector<int32_t> AllTokens(const TokenSequences& sequences) {
  std::vector<int32_t> all;
  for (const std::vector<int32_t>& tokens : sequences) {
    all.insert(all.end(), tokens.begin(), tokens.end());
  }
  return all;
}

Result<const Tensor*> FindTensor(const std::string& path,
                                 const SafetensorsModel& file,
                                 std::string_view name) {
  const auto found = file.tensors().find(name);
  if (found == file.tensors().end()) {
    return Error{
        ErrorCode::kBadModel,
        fmt::format("'{}' has no {}: it is no file of ops/calibration/gradients, or one of "
                    "a model of fewer layers",
                    path,
                    name)};
  }
  return &found->second;
}

Result<std::vector<int32_t>> ReadNumbers(const std::string& path,
                                         const SafetensorsModel& file,
                                         std::string_view name) {
  VARVE_TRY(const Tensor* tensor, FindTensor(path, file, name));
  if (tensor->type != TensorType::kI32 || tensor->shape.size() != 1) {
    return Error{ErrorCode::kBadModel, fmt::format("'{}': {} must be I32 in a row", path, name)};
  }
  std::vector<int32_t> numbers(tensor->shape[0]);
  std::memcpy(numbers.data(), tensor->bytes.data(), tensor->bytes.size());
  return numbers;
}

Result<void> CheckModel(const std::string& path,
                        const SafetensorsModel& file,
                        uint64_t model_hash) {
  const std::optional<uint64_t> hash = file.FindNumber(kHashName);
  if (!hash) {
    return Error{
        ErrorCode::kBadModel,
        fmt::format("'{}' names no model: it is no file of ops/calibration/gradients", path)};
  }
  if (*hash != model_hash) {
    return Error{ErrorCode::kModelMismatch,
                 fmt::format("'{}' was made with the model {}, not with this one, {}",
                             path,
                             HashToHex(*hash),
                             HashToHex(model_hash))};
  }
  return {};
}

Error OtherTokens(const std::string& path, const std::string& what) {
  return {
      ErrorCode::kInvalidArgument,
      fmt::format("'{}' was made from other tokens: {}; give both the same --text, --tokens and "
                  "--sequence-tokens",
                  path,
                  what)};
}

Result<void> CheckTokens(const std::string& path,
                         const SafetensorsModel& file,
                         const TokenSequences& sequences) {
  VARVE_TRY(const std::vector<int32_t> lengths, ReadNumbers(path, file, kLengthsName));
  VARVE_TRY(const std::vector<int32_t> tokens, ReadNumbers(path, file, kTokensName));
  if (lengths.size() != sequences.size()) {
    return OtherTokens(
        path,
        fmt::format("of {} sequences, where there are {} here", lengths.size(), sequences.size()));
  }
  size_t next = 0;
  for (size_t s = 0; s < sequences.size(); ++s) {
    const std::vector<int32_t>& own = sequences[s];
    if (lengths[s] != static_cast<int32_t>(own.size())) {
      return OtherTokens(path,
                         fmt::format("its sequence {} has {} tokens, where there are {} here",
                                     s + 1,
                                     lengths[s],
                                     own.size()));
    }
    for (size_t t = 0; t < own.size() && next < tokens.size(); ++t, ++next) {
      if (tokens[next] != own[t]) {
        return OtherTokens(path,
                           fmt::format("token {} of its sequence {} is {}, where it is {} here",
                                       t + 1,
                                       s + 1,
                                       tokens[next],
                                       own[t]));
      }
    }
  }
  const size_t expected = AllTokens(sequences).size();
  if (tokens.size() != expected) {
    return OtherTokens(path,
                       fmt::format("{} in all, where there are {} here", tokens.size(), expected));
  }
  return {};
}

float ValueAt(const Tensor& tensor, size_t i) {
  uint16_t bits;
  std::memcpy(&bits, tensor.bytes.data() + i * sizeof(bits), sizeof(bits));
  return Bf16ToFloat(bits);
}

Result<void> CheckLayer(const std::string& path,
                        const std::string& name,
                        const Tensor& tensor,
                        const std::vector<size_t>& shape) {
  if (tensor.type != TensorType::kBf16 || tensor.shape != shape) {
    return Error{ErrorCode::kBadModel,
                 fmt::format("'{}': {} must be BF16 of [{}]", path, name, fmt::join(shape, ", "))};
  }
  for (size_t i = 0; i < tensor.bytes.size() / sizeof(uint16_t); ++i) {
    const float value = ValueAt(tensor, i);
    if (!std::isfinite(value) || value < 0.0F) {
      return Error{
          ErrorCode::kBadModel,
          fmt::format(
              "'{}': value {} of {} is {}, and no square of a number", path, i, name, value)};
    }
  }
  return {};
}

}  // namespace

Result<void> SaveCalibrationTokens(const std::string& path,
                                   uint64_t model_hash,
                                   const TokenSequences& sequences) {
  const std::vector<int32_t> lengths = LengthsOf(sequences);
  const std::vector<int32_t> tokens = AllTokens(sequences);
  const auto numbers = [](const std::vector<int32_t>& values) {
    return Tensor{TensorType::kI32, {values.size()}, std::as_bytes(std::span(values))};
  };
  const NamedTensor tensors[] = {
      {std::string(kHashName), {TensorType::kI64, {1}, std::as_bytes(std::span(&model_hash, 1))}},
      {std::string(kLengthsName), numbers(lengths)},
      {std::string(kTokensName), numbers(tokens)}};
  return SaveSafetensors(path, tensors);
}

Result<Sensitivity> Sensitivity::Open(const std::string& path,
                                      const ModelConfig& config,
                                      uint64_t model_hash,
                                      const TokenSequences& sequences) {
  VARVE_TRY(SafetensorsModel file, SafetensorsModel::OpenFile(path));
  VARVE_RETURN_IF_ERROR(CheckModel(path, file, model_hash));
  VARVE_RETURN_IF_ERROR(CheckTokens(path, file, sequences));
  Sensitivity opened(std::move(file));
  for (const std::vector<int32_t>& tokens : sequences) {
    for (size_t t = 0; t < tokens.size(); ++t) {
      opened.positions_.push_back(static_cast<int32_t>(t));
    }
  }
  const std::vector<size_t> shape = {opened.positions_.size(),
                                     static_cast<size_t>(config.num_kv_heads),
                                     static_cast<size_t>(config.head_dim)};
  for (int32_t layer = 0; layer < config.num_layers; ++layer) {
    for (const std::string_view side : kSides) {
      const std::string name = TensorName(layer, side);
      VARVE_TRY(const Tensor* tensor, FindTensor(path, opened.file_, name));
      VARVE_RETURN_IF_ERROR(CheckLayer(path, name, *tensor, shape));
    }
  }
  return opened;
}

void Sensitivity::FillIn(int32_t num_exact, std::vector<CalibrationSample>* samples) const {
  for (size_t layer = 0; layer < samples->size(); ++layer) {
    CalibrationSample& sample = (*samples)[layer];
    VARVE_CHECK(static_cast<size_t>(sample.num_tokens) == positions_.size());
    for (const std::string_view side : kSides) {
      const Tensor& tensor =
          file_.tensors().find(TensorName(static_cast<int32_t>(layer), side))->second;
      std::vector<float>& out = side == "k" ? sample.k_sensitivity : sample.v_sensitivity;
      out.resize(sample.k.size());
      const size_t row = out.size() / positions_.size();
      for (size_t i = 0; i < out.size(); ++i) {
        out[i] = positions_[i / row] < num_exact ? 0.0F : ValueAt(tensor, i);
      }
    }
  }
}

}  // namespace varve
