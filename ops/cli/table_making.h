// Makes the tables that some codecs need: runs sequences of real text through a model, looks on,
// and calibrates every codec with what each layer computed. What `varve calibrate` and the quality
// lab share. Next: worker/calibration.h, kernels/codec/codec.h (Codec::Calibrate)
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/codec/table_set.h"
#include "proto/base/result.h"

namespace varve::cli {

// Fewer tokens say too little about 64 to 256 dimensions.
inline constexpr int64_t kLeastCalibrationTokens = 512;

struct TableMaking {
  std::string model_dir;
  std::vector<std::vector<int32_t>> sequences;  // of tokens; each begins as a context does
  std::vector<const Codec*> codecs;             // each needs tables
  std::string sensitivity_file = {};  // worker/sensitivity.h, of these sequences; empty: none
  int threads = 1;
};

struct MadeTables {
  CodecTableSet tables;     // of each codec and layer
  uint64_t model_hash = 0;  // of the model as its files have it
};

// How far it is: "tokens" looked at, then "tables" made. Called from the caller's thread; the last
// call of each has done == total.
using TableProgress = std::function<void(std::string_view what, int64_t done, int64_t total)>;

// Cuts a text's tokens into sequences of up to `sequence_tokens` of them, each behind `bos` if the
// model's contexts begin with it.
std::vector<std::vector<int32_t>> CutSequences(std::span<const int32_t> tokens,
                                               std::optional<int32_t> bos,
                                               int64_t sequence_tokens);

// Holds keys and values of all sequences in memory, in f32. Errors: kInvalidArgument if there are
// fewer than kLeastCalibrationTokens; those of opening the model and of its steps, and of
// Sensitivity::Open.
Result<MadeTables> MakeCodecTables(const TableMaking& making, const TableProgress& progress);

}  // namespace varve::cli
