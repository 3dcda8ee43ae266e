// The codecs of the registry, one function each. For registry.cc: everyone else asks FindCodec.
#pragma once

#include "kernels/codec/codec.h"

namespace varve {

const Codec* F32Codec();
const Codec* Bf16Codec();
const Codec* Int8Codec();
const Codec* Fp8Codec();
const Codec* Int4Codec();
const Codec* Int3Codec();
const Codec* Int2Codec();
const Codec* Rot4Codec();
const Codec* Rot3Codec();
const Codec* Rot2Codec();
const Codec* Kivi4Codec();
const Codec* Kivi2Codec();
const Codec* Kivi4G32Codec();
const Codec* Kivi2G32Codec();
const Codec* Klt4Codec();
const Codec* Klt3Codec();
const Codec* Klt2Codec();
const Codec* Klt18Codec();
const Codec* Nuq4Codec();
const Codec* Nuq3Codec();
const Codec* Nuq2Codec();
const Codec* Nuq4SparseCodec();
const Codec* Nuq3SparseCodec();
const Codec* Nuq2SparseCodec();
const Codec* Pca10Codec();
const Codec* Pca16Codec();
const Codec* Skvq4Codec();
const Codec* Skvq2Codec();
const Codec* ThinkCodec();
const Codec* Deco4Codec();
const Codec* Rvq8Codec();
const Codec* Rvq4Codec();
const Codec* Rvq8LargeCodec();
const Codec* LorcCodec();

}  // namespace varve
