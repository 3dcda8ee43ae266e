// The file of tables that codecs were calibrated with for a model: safetensors, beside the model,
// written by `varve calibrate`. It holds `model_hash` (I64, one value) and, for each codec and
// layer, `{codec}.v{version}.layer.{layer}` (F32).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "kernels/codec/table_set.h"
#include "proto/base/result.h"
#include "worker/model_config.h"

namespace varve {

inline constexpr std::string_view kCodecTablesFile = "varve_tables.safetensors";

// Errors: kNotFound, kModelMismatch (made for another model), kVersionSkew (a codec or a version of
// one that this build does not know), kBadModel naming the codec (damaged, of another shape),
// kIoError.
Result<std::shared_ptr<const CodecTableSet>> LoadCodecTables(const std::string& path,
                                                             const ModelConfig& config,
                                                             uint64_t model_hash);

// Replaces the file as a whole.
Result<void> SaveCodecTables(const std::string& path,
                             const CodecTableSet& tables,
                             uint64_t model_hash);

}  // namespace varve
