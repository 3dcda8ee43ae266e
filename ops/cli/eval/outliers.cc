#include "ops/cli/eval/outliers.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <map>
#include <numeric>
#include <span>
#include <vector>

#include <fmt/format.h>

#include "kernels/codec/bf16_block.h"
#include "kernels/codec/f16_block.h"
#include "proto/base/file.h"
#include "proto/base/rng.h"
#include "worker/model_config.h"
#include "worker/safetensors.h"

#include <nlohmann/json.hpp>

namespace varve::cli {
namespace {

constexpr uint64_t kMaxConfigBytes = uint64_t{1} << 24;

struct FloatTensor {
  std::vector<size_t> shape;
  std::vector<float> values;
};

std::vector<float> Widen(const Tensor& tensor) {
  const size_t width = tensor.type == TensorType::kF32 ? 4 : 2;
  std::vector<float> values(tensor.bytes.size() / width);
  if (width == 4) {
    std::memcpy(values.data(), tensor.bytes.data(), tensor.bytes.size());
    return values;
  }
  for (size_t i = 0; i < values.size(); ++i) {
    uint16_t half = 0;
    std::memcpy(&half, tensor.bytes.data() + 2 * i, sizeof(half));
    values[i] = tensor.type == TensorType::kBf16 ? Bf16ToFloat(half) : F16ToFloat(half);
  }
  return values;
}

// The tensors of a model, some of them changed.
class Changes {
 public:
  explicit Changes(const SafetensorsModel& files) : files_(files) {}

  const std::map<std::string, FloatTensor>& changed() const { return changed_; }

  // All values of a row of a matrix, or one value of a vector. Absent tensors are none: biases.
  void ScaleRow(const std::string& name, size_t row, double factor) {
    if (FloatTensor* tensor = Open(name)) {
      const size_t width = tensor->values.size() / tensor->shape[0];
      for (size_t i = 0; i < width; ++i) {
        Scale(&tensor->values[row * width + i], factor);
      }
    }
  }
  void ScaleColumn(const std::string& name, size_t column, double factor) {
    if (FloatTensor* tensor = Open(name)) {
      const size_t width = tensor->shape[1];
      for (size_t row = 0; row < tensor->shape[0]; ++row) {
        Scale(&tensor->values[row * width + column], factor);
      }
    }
  }
  // One weight of a norm that multiplies by weight + offset.
  void ScaleNorm(const std::string& name, size_t index, double offset, double factor) {
    if (FloatTensor* tensor = Open(name)) {
      float& value = tensor->values[index];
      value = static_cast<float>((value + offset) * factor - offset);
    }
  }

 private:
  static void Scale(float* value, double factor) { *value = static_cast<float>(*value * factor); }

  FloatTensor* Open(const std::string& name) {
    const auto known = changed_.find(name);
    if (known != changed_.end()) {
      return &known->second;
    }
    const auto tensor = files_.tensors().find(name);
    if (tensor == files_.tensors().end()) {
      return nullptr;
    }
    return &(changed_[name] = {tensor->second.shape, Widen(tensor->second)});
  }

  const SafetensorsModel& files_;
  std::map<std::string, FloatTensor> changed_;
};

// `count` different numbers below `bound`.
std::vector<size_t> Choose(Rng* rng, int32_t bound, int32_t count) {
  std::vector<size_t> numbers(static_cast<size_t>(bound));
  std::iota(numbers.begin(), numbers.end(), size_t{0});
  for (size_t i = 0; i < static_cast<size_t>(count); ++i) {
    std::swap(numbers[i], numbers[i + rng->Below(numbers.size() - i)]);
  }
  numbers.resize(static_cast<size_t>(count));
  return numbers;
}

void ChangeLayer(const ModelConfig& config,
                 const OutlierOptions& options,
                 int32_t layer,
                 Rng* rng,
                 Changes* changes) {
  const std::string prefix = fmt::format("model.layers.{}.self_attn.", layer);
  const auto head_dim = static_cast<size_t>(config.head_dim);
  const auto group = static_cast<size_t>(config.num_qo_heads / config.num_kv_heads);
  const double scale = options.scale;
  const auto scale_projection = [&](std::string_view name, size_t row, double factor) {
    changes->ScaleRow(fmt::format("{}{}_proj.weight", prefix, name), row, factor);
    changes->ScaleRow(fmt::format("{}{}_proj.bias", prefix, name), row, factor);
  };
  if (config.has_qk_norm) {
    const double offset = config.norm_weight_offset;
    for (const size_t pair : Choose(rng, config.head_dim / 2, options.key_pairs)) {
      for (const size_t channel : {pair, pair + head_dim / 2}) {
        changes->ScaleNorm(prefix + "k_norm.weight", channel, offset, scale);
        changes->ScaleNorm(prefix + "q_norm.weight", channel, offset, 1 / scale);
      }
    }
  }
  for (size_t head = 0; head < static_cast<size_t>(config.num_kv_heads); ++head) {
    if (!config.has_qk_norm) {
      for (const size_t pair : Choose(rng, config.head_dim / 2, options.key_pairs)) {
        for (const size_t channel : {pair, pair + head_dim / 2}) {
          scale_projection("k", head * head_dim + channel, scale);
          for (size_t q = head * group; q < (head + 1) * group; ++q) {
            scale_projection("q", q * head_dim + channel, 1 / scale);
          }
        }
      }
    }
    for (const size_t channel : Choose(rng, config.head_dim, options.value_channels)) {
      scale_projection("v", head * head_dim + channel, scale);
      for (size_t q = head * group; q < (head + 1) * group; ++q) {
        changes->ScaleColumn(prefix + "o_proj.weight", q * head_dim + channel, 1 / scale);
      }
    }
  }
}

std::string_view TypeName(TensorType type) {
  switch (type) {
    case TensorType::kF32:
      return "F32";
    case TensorType::kBf16:
      return "BF16";
    case TensorType::kF16:
      return "F16";
    case TensorType::kI64:
      return "I64";
    case TensorType::kI32:
      return "I32";
  }
  return "";
}

// One file with all tensors, the changed ones in f32.
std::string FormatWeights(const SafetensorsModel& files, const Changes& changes) {
  struct Entry {
    std::string name;
    std::string_view type;
    std::vector<size_t> shape;
    std::span<const std::byte> bytes;
  };
  std::vector<Entry> entries;
  for (const auto& [name, tensor] : files.tensors()) {
    const auto changed = changes.changed().find(name);
    if (changed == changes.changed().end()) {
      entries.push_back({name, TypeName(tensor.type), tensor.shape, tensor.bytes});
    } else {
      entries.push_back(
          {name, "F32", tensor.shape, std::as_bytes(std::span(changed->second.values))});
    }
  }
  // The data may have no gaps, so wide types come first to keep every tensor aligned.
  std::stable_sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    const auto width = [](const Entry& e) {
      return e.type == "I64" ? 8 : e.type.ends_with("32") ? 4 : 2;
    };
    return width(a) > width(b);
  });
  nlohmann::ordered_json header;
  size_t offset = 0;
  for (const Entry& entry : entries) {
    header[entry.name] = {{"dtype", entry.type},
                          {"shape", entry.shape},
                          {"data_offsets", {offset, offset + entry.bytes.size()}}};
    offset += entry.bytes.size();
  }
  std::string text = header.dump();
  text.append((8 - text.size() % 8) % 8, ' ');
  const uint64_t header_bytes = text.size();
  std::string file(sizeof(header_bytes), '\0');
  std::memcpy(file.data(), &header_bytes, sizeof(header_bytes));
  file.reserve(file.size() + text.size() + offset);
  file += text;
  for (const Entry& entry : entries) {
    file.append(reinterpret_cast<const char*>(entry.bytes.data()), entry.bytes.size());
  }
  return file;
}

bool BelongsToCopy(const std::string& name) {
  return name == "config.json" || name == "generation_config.json" || name == "vocab.json" ||
         name == "merges.txt" || name == "added_tokens.json" || name == "special_tokens_map.json" ||
         name.starts_with("tokenizer") || name.starts_with("chat_template");
}

Result<void> CopyOtherFiles(const std::string& from, const std::string& to) {
  namespace fs = std::filesystem;
  std::error_code failure;
  for (fs::directory_iterator it(from, failure), end; !failure && it != end;
       it.increment(failure)) {
    const std::string name = it->path().filename().string();
    if (BelongsToCopy(name)) {
      VARVE_TRY(const std::string bytes, ReadFile(it->path().string()));
      VARVE_RETURN_IF_ERROR(WriteFileAtomically(to + "/" + name, bytes));
    }
  }
  if (failure) {
    return Error{ErrorCode::kIoError, fmt::format("cannot list {}: {}", from, failure.message())};
  }
  return {};
}

}  // namespace

Result<void> InjectOutliers(const std::string& model_dir,
                            const OutlierOptions& options,
                            const std::string& out_dir) {
  VARVE_TRY(const std::string config_text, ReadFile(model_dir + "/config.json", kMaxConfigBytes));
  VARVE_TRY(const ModelConfig config, ParseModelConfig(config_text));
  if (!(options.scale > 0) || !std::isfinite(options.scale) || options.key_pairs < 0 ||
      options.key_pairs > config.head_dim / 2 || options.value_channels < 0 ||
      options.value_channels > config.head_dim) {
    return Error{ErrorCode::kInvalidArgument,
                 fmt::format("outliers of scale {:g} in {} pairs and {} channels of {}: the scale "
                             "must be over 0, and the channels must be there",
                             options.scale,
                             options.key_pairs,
                             options.value_channels,
                             config.head_dim)};
  }
  VARVE_TRY(const SafetensorsModel files, SafetensorsModel::OpenDirectory(model_dir));
  Changes changes(files);
  for (int32_t layer = 0; layer < config.num_layers; ++layer) {
    Rng rng(options.seed, static_cast<uint64_t>(layer));
    ChangeLayer(config, options, layer, &rng, &changes);
  }
  VARVE_RETURN_IF_ERROR(CopyOtherFiles(model_dir, out_dir));
  return WriteFileAtomically(out_dir + "/model.safetensors", FormatWeights(files, changes));
}

}  // namespace varve::cli
