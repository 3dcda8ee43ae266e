// Codecs: how the K and V of a run of tokens become bytes. One file each, listed in one registry
// (registry.cc).
//
// A run is up to `token_capacity` consecutive tokens of one layer, all kv heads. A sealed page is
// one or two runs (sinks in an exact codec, the rest in the context's codec); the unsealed tail of
// a context is a run of an exact codec that grows in place. Keys come after RoPE unless the codec
// says otherwise. Id and version are written in every page header and never reused for another
// meaning.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

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
};

struct RunShape {
  int32_t num_kv_heads = 0;
  int32_t head_dim = 0;
  int32_t token_capacity =
      0;  // tokens that the encoded run has room for; fixes every offset inside it

  bool operator==(const RunShape&) const = default;
};

// Calibrated tables of a codec (centroids, rotations, means), bound to a model. Codecs without
// calibration ignore them. The hash is stored in every page that needs them, so that a page is
// never decoded with other tables.
struct CodecTables {
  CodecId codec;
  uint64_t hash = 0;
  std::vector<std::byte> bytes;  // format by codec
};

class Codec {
 public:
  virtual ~Codec() = default;

  virtual CodecId id() const = 0;
  virtual uint16_t version() const = 0;
  virtual std::string_view name() const = 0;  // as users write it
  // True if tokens can be appended to an encoded run one by one (exact codecs).
  virtual bool appendable() const = 0;
  // True if the codec takes keys before RoPE; Attend then rotates decoded keys by their positions.
  virtual bool keys_before_rope() const { return false; }
  // True if Attend cannot read the bytes and the run is decoded first (cold codecs).
  virtual bool decode_only() const { return false; }

  // Bytes of an encoded run. Everything that decoding needs except `CodecTables`.
  virtual size_t EncodedBytes(const RunShape& shape) const = 0;
  // Bits per stored value, all metadata included: 8 * EncodedBytes / (2 * heads * tokens *
  // head_dim).
  double BitsPerValue(const RunShape& shape) const;

  // Encodes tokens [first_token, first_token + num_tokens) of the run. k and v: [num_tokens,
  // num_kv_heads, head_dim] with `token_stride` floats from one token to the next. first_token must
  // be 0 unless appendable(). REQUIRES: out.size() == EncodedBytes(shape), first_token + num_tokens
  // <= shape.token_capacity.
  virtual void Encode(const RunShape& shape,
                      int32_t first_token,
                      int32_t num_tokens,
                      const float* k,
                      const float* v,
                      size_t token_stride,
                      const CodecTables* tables,
                      std::span<std::byte> out) const = 0;

  // Decodes tokens [first_token, first_token + num_tokens) into k and v: [num_tokens, num_kv_heads,
  // head_dim], dense.
  virtual void Decode(const RunShape& shape,
                      int32_t first_token,
                      int32_t num_tokens,
                      std::span<const std::byte> encoded,
                      const CodecTables* tables,
                      float* k,
                      float* v) const = 0;
};

// The codec with this id, or kCodecMismatch naming the id (a page of a newer build).
Result<const Codec*> FindCodec(CodecId id);
// The codec of this name, or kInvalidArgument that lists the names there are.
Result<const Codec*> FindCodec(std::string_view name);
std::span<const Codec* const> AllCodecs();

}  // namespace varve
