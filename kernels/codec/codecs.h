// The codecs of the registry, one function each. For registry.cc: everyone else asks FindCodec.
#pragma once

#include "kernels/codec/codec.h"

namespace varve {

const Codec* F32Codec();
const Codec* Bf16Codec();
const Codec* Int8Codec();

}  // namespace varve
