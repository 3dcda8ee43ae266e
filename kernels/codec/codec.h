// Codecs: how the K and V of a run of tokens become bytes. One file each, listed in one registry
// (registry.cc).
//
// A run is up to `token_capacity` consecutive tokens of one layer, all kv heads. A sealed page is
// one or two runs (sinks in an exact codec, the rest in the context's codec); the unsealed tail of
// a context is a run of an exact codec that grows in place. Keys come and go after RoPE; a codec
// that keeps them as they were before undoes it by itself. Id and version are written in every page
// header and never reused for another meaning.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/rope.h"
#include "proto/base/result.h"

namespace varve {

// Embedded on disk: do not change or reuse a value.
enum class CodecId : uint16_t {
  kF32 = 1,
  kBf16 = 2,
  kInt8 = 3,
  kFp8 = 4,
  kInt4 = 5,
  kInt3 = 6,
  kInt2 = 7,
  kRot4 = 8,
  kRot3 = 9,
  kRot2 = 10,
  kKivi4 = 11,
  kKivi2 = 12,
  kKivi4G32 = 13,
  kKivi2G32 = 14,
  kKlt4 = 15,
  kKlt3 = 16,
  kKlt2 = 17,
  kNuq4 = 18,
  kNuq3 = 19,
  kNuq2 = 20,
  kNuq4Sparse = 21,
  kNuq3Sparse = 22,
  kNuq2Sparse = 23,
  kRvq8 = 24,
  kRvq4 = 25,
  kRvq8Large = 26,
  kSkvq4 = 27,
  kSkvq2 = 28,
  kThink = 29,
  kDeco4 = 30,
  kLorc = 31,
  kPca = 34,
  kPcaFine = 35,
  kKlt18 = 36,
};

struct RunShape {
  int32_t num_kv_heads = 0;
  int32_t head_dim = 0;
  int32_t token_capacity =
      0;  // tokens that the encoded run has room for; fixes every offset inside it

  bool operator==(const RunShape&) const = default;
};

// Calibrated tables of a codec (centroids, transforms, means) for one layer of a model. The hash is
// stored with every run that needs them, so that a run is never decoded with other tables.
struct CodecTables {
  uint64_t hash = 0;          // HashOf(values)
  std::vector<float> values;  // shape by codec

  static uint64_t HashOf(std::span<const float> values);
};

// What a layer's keys, values and queries are like: what tables are made from.
struct CalibrationSample {
  int32_t num_kv_heads = 0;
  int32_t head_dim = 0;
  int64_t num_tokens = 0;
  std::vector<float> k;  // [num_tokens, num_kv_heads, head_dim], before RoPE
  std::vector<float> v;  // [num_tokens, num_kv_heads, head_dim]
  // Mean of q q^T over tokens and over the query heads of each kv head, of queries before RoPE,
  // sm_scale and attention factor included. [num_kv_heads, head_dim, head_dim]
  std::vector<double> q_moment;
  bool has_rope = false;
  // Squared gradients of the model's loss with respect to k and v, shaped alike, or empty: ones.
  std::vector<float> k_sensitivity;
  std::vector<float> v_sensitivity;
};

// What some codecs need to know about a run beside its shape.
struct RunContext {
  const CodecTables* tables = nullptr;  // of the run's codec and layer; null: none
  const Rope* rope = nullptr;           // by which the keys were rotated; null: they were not
  int64_t first_position = 0;           // position in the sequence of the run's token 0
  // Pruned runs: [num_kv_heads, num_indices] offsets from first_position, of the run's tokens from
  // first_index on; null: token t stands at first_position + t.
  const int32_t* token_indices = nullptr;
  int32_t num_indices = 0;
  int32_t first_index = 0;

  // Where the run's tokens from first_token on stand, for one kv head.
  RopePositions PositionsOf(size_t kv_head, size_t first_token) const;
};

class Codec {
 public:
  virtual ~Codec() = default;

  virtual CodecId id() const = 0;
  virtual uint16_t version() const = 0;
  virtual std::string_view name() const = 0;  // as users write it
  // True if tokens can be appended to an encoded run one by one (exact codecs).
  virtual bool appendable() const = 0;
  // True if the codec works only with tables that Calibrate made for the model.
  virtual bool needs_tables() const { return false; }
  // REQUIRES: needs_tables().
  virtual CodecTables Calibrate(const CalibrationSample& sample) const;
  // Floats of a layer's tables. REQUIRES: needs_tables().
  virtual size_t TableFloats(size_t num_kv_heads, size_t head_dim) const;

  // Whether tables of this size are ones that Calibrate can make, as far as decoding relies on it:
  // those of a damaged file must not lead outside a run. REQUIRES: TableFloats values, all finite.
  virtual bool TablesAreSound(std::span<const float> /*values*/,
                              size_t /*num_kv_heads*/,
                              size_t /*head_dim*/) const {
    return true;
  }

  // True if tables decide how large runs are, so that sizes differ from layer to layer.
  virtual bool sized_by_tables() const { return false; }

  // Bytes of an encoded run. Everything that decoding needs except the context. `tables`: of the
  // run's layer; null, and of a codec that is sized_by_tables(): the most that any make it.
  virtual size_t EncodedBytes(const RunShape& shape, const CodecTables* tables) const = 0;
  size_t EncodedBytes(const RunShape& shape) const { return EncodedBytes(shape, nullptr); }
  // Bits per stored value, all metadata included: 8 * EncodedBytes / (2 * heads * tokens *
  // head_dim).
  double BitsPerValue(const RunShape& shape, const CodecTables* tables = nullptr) const;

  // Encodes tokens [first_token, first_token + num_tokens) of the run. k and v: [num_tokens,
  // num_kv_heads, head_dim] with `token_stride` floats from one token to the next. first_token must
  // be 0 unless appendable(). REQUIRES: out.size() == EncodedBytes(shape, context.tables),
  // first_token + num_tokens <= shape.token_capacity; tables if needs_tables().
  virtual void Encode(const RunShape& shape,
                      int32_t first_token,
                      int32_t num_tokens,
                      const float* k,
                      const float* v,
                      size_t token_stride,
                      const RunContext& context,
                      std::span<std::byte> out) const = 0;

  // Decodes tokens [first_token, first_token + num_tokens) into k and v: [num_tokens, num_kv_heads,
  // head_dim], dense. Unless overridden: head by head with DecodeHead.
  virtual void Decode(const RunShape& shape,
                      int32_t first_token,
                      int32_t num_tokens,
                      std::span<const std::byte> encoded,
                      const RunContext& context,
                      float* k,
                      float* v) const;

  // The same of one kv head; k, v: [num_tokens, head_dim]. Attend decodes tiles with it, into
  // floats that stay in the cache, where it has no reader that scores the encoded bytes: codecs
  // without one override this. Does not allocate.
  virtual void DecodeHead(const RunShape& shape,
                          int32_t kv_head,
                          int32_t first_token,
                          int32_t num_tokens,
                          std::span<const std::byte> encoded,
                          const RunContext& context,
                          float* k,
                          float* v) const;
};

// The codec with this id, or kCodecMismatch naming the id (a page of a newer build).
Result<const Codec*> FindCodec(CodecId id);
// The codec of this name, or kInvalidArgument that lists the names there are.
Result<const Codec*> FindCodec(std::string_view name);
std::span<const Codec* const> AllCodecs();

}  // namespace varve
