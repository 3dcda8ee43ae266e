#include "worker/weights.h"

#include <algorithm>
#include <optional>
#include <set>
#include <string_view>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "proto/base/hash.h"

namespace varve {
namespace {

constexpr uint64_t kHashWholeBytes = uint64_t{1} << 30;
constexpr size_t kHashSampleBytes = size_t{64} << 10;
constexpr size_t kHashSampleStride = size_t{16} << 20;

// Takes tensors out of a file by name and collects what is wrong with them.
class TensorTaker {
 public:
  explicit TensorTaker(const SafetensorsModel& files) : files_(files) {}

  WeightView Matrix(const std::string& name, size_t rows, size_t cols) {
    const Tensor* tensor = Take(name, {rows, cols});
    if (tensor == nullptr) {
      return {};
    }
    return {.data = tensor->bytes.data(),
            .dtype = dtype_,
            .rows = rows,
            .cols = cols,
            .row_stride = cols};
  }

  VectorView Vector(const std::string& name, size_t size) {
    const Tensor* tensor = Take(name, {size});
    return tensor == nullptr ? VectorView{} : VectorView{tensor->bytes.data(), dtype_, size};
  }

  bool Has(const std::string& name) const { return files_.tensors().contains(name); }
  void Ignore(const std::string& name) { taken_.insert(name); }

  Result<void> Finish() const {
    if (error_) {
      return *error_;
    }
    std::vector<std::string> unexpected;
    for (const auto& [name, tensor] : files_.tensors()) {
      // Older files store the rotary frequencies, which the configuration gives, too.
      if (!taken_.contains(name) && !name.ends_with("rotary_emb.inv_freq")) {
        unexpected.push_back(name);
      }
    }
    if (!unexpected.empty()) {
      return Error{
          ErrorCode::kBadModel,
          fmt::format("the weights have tensors that the configuration does not ask for: {}",
                      fmt::join(unexpected, ", "))};
    }
    return {};
  }

 private:
  const Tensor* Take(const std::string& name, const std::vector<size_t>& shape) {
    taken_.insert(name);
    const auto it = files_.tensors().find(name);
    if (it == files_.tensors().end()) {
      Fail(fmt::format("the weights lack the tensor {}", name));
      return nullptr;
    }
    const Tensor& tensor = it->second;
    if (tensor.shape != shape) {
      Fail(fmt::format("the tensor {} has shape [{}]; the configuration asks for [{}]",
                       name,
                       fmt::join(tensor.shape, ", "),
                       fmt::join(shape, ", ")));
      return nullptr;
    }
    switch (tensor.type) {
      case TensorType::kF32:
        dtype_ = DType::kF32;
        break;
      case TensorType::kBf16:
        dtype_ = DType::kBf16;
        break;
      case TensorType::kF16:
        dtype_ = DType::kF16;
        break;
      default:
        Fail(fmt::format("the tensor {} holds integers", name));
        return nullptr;
    }
    if (reinterpret_cast<uintptr_t>(tensor.bytes.data()) % DTypeBytes(dtype_) != 0) {
      Fail(fmt::format("the tensor {} is not aligned to its dtype in the file", name));
      return nullptr;
    }
    return &tensor;
  }

  void Fail(std::string message) {
    if (!error_) {
      error_ = Error{ErrorCode::kBadModel, std::move(message)};
    }
  }

  const SafetensorsModel& files_;
  std::set<std::string> taken_;
  std::optional<Error> error_;
  DType dtype_ = DType::kF32;  // of the tensor taken last
};

LayerWeights TakeLayer(TensorTaker& taker, const ModelConfig& config, int32_t index) {
  const std::string prefix = fmt::format("model.layers.{}.", index);
  const auto hidden = static_cast<size_t>(config.hidden_size);
  const auto head_dim = static_cast<size_t>(config.head_dim);
  const auto ffn = static_cast<size_t>(config.ffn_size);
  const size_t q_rows = static_cast<size_t>(config.num_qo_heads) * head_dim;
  const size_t kv_rows = static_cast<size_t>(config.num_kv_heads) * head_dim;
  const auto matrix = [&](std::string_view name, size_t rows, size_t cols) {
    return taker.Matrix(fmt::format("{}{}.weight", prefix, name), rows, cols);
  };
  const auto vector = [&](bool wanted, std::string_view name, size_t size) {
    return wanted ? taker.Vector(fmt::format("{}{}", prefix, name), size) : VectorView{};
  };
  LayerWeights layer;
  layer.input_norm = vector(true, "input_layernorm.weight", hidden);
  // Llama's post_attention_layernorm stands before the FFN; Gemma's normalises what attention
  // gives.
  const bool post = config.has_post_norms;
  layer.pre_ffn_norm = vector(
      true, post ? "pre_feedforward_layernorm.weight" : "post_attention_layernorm.weight", hidden);
  layer.post_attention_norm = vector(post, "post_attention_layernorm.weight", hidden);
  layer.post_ffn_norm = vector(post, "post_feedforward_layernorm.weight", hidden);
  layer.q_norm = vector(config.has_qk_norm, "self_attn.q_norm.weight", head_dim);
  layer.k_norm = vector(config.has_qk_norm, "self_attn.k_norm.weight", head_dim);
  layer.q = matrix("self_attn.q_proj", q_rows, hidden);
  layer.k = matrix("self_attn.k_proj", kv_rows, hidden);
  layer.v = matrix("self_attn.v_proj", kv_rows, hidden);
  layer.o = matrix("self_attn.o_proj", hidden, q_rows);
  layer.q_bias = vector(config.has_qkv_bias, "self_attn.q_proj.bias", q_rows);
  layer.k_bias = vector(config.has_qkv_bias, "self_attn.k_proj.bias", kv_rows);
  layer.v_bias = vector(config.has_qkv_bias, "self_attn.v_proj.bias", kv_rows);
  layer.o_bias = vector(config.has_o_bias, "self_attn.o_proj.bias", hidden);
  layer.gate = matrix("mlp.gate_proj", ffn, hidden);
  layer.up = matrix("mlp.up_proj", ffn, hidden);
  layer.down = matrix("mlp.down_proj", hidden, ffn);
  layer.gate_bias = vector(config.has_ffn_bias, "mlp.gate_proj.bias", ffn);
  layer.up_bias = vector(config.has_ffn_bias, "mlp.up_proj.bias", ffn);
  layer.down_bias = vector(config.has_ffn_bias, "mlp.down_proj.bias", hidden);
  return layer;
}

void HashTensorBytes(Hasher64& hasher, std::span<const std::byte> bytes, bool whole) {
  if (whole || bytes.size() <= 2 * kHashSampleBytes) {
    hasher.Update(bytes);
    return;
  }
  for (size_t at = 0; at < bytes.size(); at += kHashSampleStride) {
    hasher.Update(bytes.subspan(at, std::min(kHashSampleBytes, bytes.size() - at)));
  }
  hasher.Update(bytes.last(kHashSampleBytes));
}

uint64_t HashModel(const SafetensorsModel& files, const ModelConfig& config) {
  const bool whole = files.total_bytes() <= kHashWholeBytes;
  Hasher64 hasher;
  hasher.Update(fmt::format("model v1 {:016x}\n", config.hash));
  for (const auto& [name, tensor] : files.tensors()) {
    hasher.Update(fmt::format(
        "{} {} [{}]\n", name, static_cast<int>(tensor.type), fmt::join(tensor.shape, ",")));
    HashTensorBytes(hasher, tensor.bytes, whole);
  }
  return hasher.Digest();
}

}  // namespace

VectorView VectorView::Slice(size_t begin, size_t count) const {
  if (data == nullptr) {
    return {};
  }
  VARVE_CHECK(begin + count <= size);
  return {static_cast<const std::byte*>(data) + begin * DTypeBytes(dtype), dtype, count};
}

Result<ModelWeights> LoadWeights(const std::string& directory, const ModelConfig& config) {
  ModelWeights weights;
  VARVE_TRY(weights.files, SafetensorsModel::OpenDirectory(directory));
  TensorTaker taker(weights.files);
  const auto vocab = static_cast<size_t>(config.vocab_size);
  const auto hidden = static_cast<size_t>(config.hidden_size);
  weights.embedding = taker.Matrix("model.embed_tokens.weight", vocab, hidden);
  weights.final_norm = taker.Vector("model.norm.weight", hidden);
  if (config.tie_word_embeddings) {
    weights.lm_head = weights.embedding;
    taker.Ignore("lm_head.weight");  // some files repeat it
  } else {
    weights.lm_head = taker.Matrix("lm_head.weight", vocab, hidden);
  }
  for (int32_t i = 0; i < config.num_layers; ++i) {
    weights.layers.push_back(TakeLayer(taker, config, i));
  }
  VARVE_RETURN_IF_ERROR(taker.Finish());
  weights.bytes = weights.files.total_bytes();
  weights.model_hash = HashModel(weights.files, config);
  return weights;
}

}  // namespace varve
