#include <array>
#include <string>

#include "kernels/codec/codec.h"
#include "kernels/codec/codecs.h"
#include "proto/base/check.h"
#include "proto/base/hash.h"

namespace varve {

std::span<const Codec* const> AllCodecs() {
  // One line per codec: this is the list. In the order in which tables show them.
  static const std::array kCodecs = {
      F32Codec(),        Bf16Codec(),       Int8Codec(),       Fp8Codec(),      Int4Codec(),
      Int3Codec(),       Int2Codec(),       Rot4Codec(),       Rot3Codec(),     Rot2Codec(),
      Kivi4Codec(),      Kivi2Codec(),      Kivi4G32Codec(),   Kivi2G32Codec(), Klt4Codec(),
      Klt3Codec(),       Klt2Codec(),       Nuq4Codec(),       Nuq3Codec(),     Nuq2Codec(),
      Nuq4SparseCodec(), Nuq3SparseCodec(), Nuq2SparseCodec(), Skvq4Codec(),    Skvq2Codec(),
      ThinkCodec(),      Deco4Codec(),      LorcCodec()};
  return kCodecs;
}

Result<const Codec*> FindCodec(CodecId id) {
  for (const Codec* codec : AllCodecs()) {
    if (codec->id() == id) {
      return codec;
    }
  }
  return Error{ErrorCode::kCodecMismatch,
               "codec id " + std::to_string(static_cast<unsigned>(id)) +
                   " is not known to this build: the page was written by a newer one"};
}

Result<const Codec*> FindCodec(std::string_view name) {
  std::string known;
  for (const Codec* codec : AllCodecs()) {
    if (codec->name() == name) {
      return codec;
    }
    known += known.empty() ? "" : ", ";
    known += codec->name();
  }
  return Error{ErrorCode::kInvalidArgument,
               "there is no codec '" + std::string(name) + "'; there are: " + known};
}

uint64_t CodecTables::HashOf(std::span<const float> values) {
  return Hash64(std::as_bytes(values));
}

CodecTables Codec::Calibrate(const CalibrationSample& /*sample*/) const {
  VARVE_UNREACHABLE("a codec without tables was asked to make some");
}

size_t Codec::TableFloats(size_t /*num_kv_heads*/, size_t /*head_dim*/) const {
  VARVE_UNREACHABLE("a codec without tables was asked for their size");
}

double Codec::BitsPerValue(const RunShape& shape, const CodecTables* tables) const {
  const double values = 2.0 * shape.num_kv_heads * shape.token_capacity * shape.head_dim;
  return 8.0 * static_cast<double>(EncodedBytes(shape, tables)) / values;
}

}  // namespace varve
