// The bytes of what is durable about a context beside its pages: the manifest record and the
// records of text and token ids that each commit adds. FORMAT.md describes them byte by byte. Each
// carries its version and a checksum bound to its key.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "kvstore/record_keys.h"
#include "proto/base/result.h"
#include "proto/context_manifest.h"

namespace varve {

// Version 1 had no token policy: its contexts keep all tokens. Version 2 had no ladder: the pages
// of its contexts keep their codec. Version 3 had no forks, pins or times to live.
inline constexpr uint16_t kManifestFormatVersion = 4;
inline constexpr uint16_t kTextFormatVersion = 1;

std::string EncodeManifest(const ContextManifest& manifest);
// `row` is the key under which the record was found. Errors: kPageCorrupt, kVersionSkew.
Result<ContextManifest> DecodeManifest(std::string_view row, std::string_view record);

std::string EncodeText(std::string_view row, std::string_view payload);
// The payload, which points into `record`. Errors: kPageCorrupt, kVersionSkew.
Result<std::string_view> DecodeText(std::string_view row, std::string_view record);

}  // namespace varve
