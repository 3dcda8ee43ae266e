// Makes a model's KV look like a large model's. In large models a few channels of keys and values
// are 10 to 30 times as large as the others, which is what low-bit codecs break on; small models
// have none. This writes a copy of a model that computes the same function and has such channels:
//
//   keys    in each kv head, rotary pairs of channels (both partners) times `scale` in K, divided
//   by
//           it in Q: q.k is the same. Where q and k are normalised behind the projection, in the
//           weights of these norms, hence the same channels in every head of a layer.
//   values  in each kv head, channels times `scale` in V, divided by it in the columns of o_proj
//   that
//           read them.
//
// Changed tensors are written in f32, so that nothing is lost to rounding but 2^-24.
#pragma once

#include <cstdint>
#include <string>

#include "proto/base/result.h"

namespace varve::cli {

struct OutlierOptions {
  double scale = 20;
  uint64_t seed = 1;
  int32_t key_pairs = 2;       // of each kv head
  int32_t value_channels = 2;  // of each kv head
};

// Writes the copy to `out_dir`, which exists: configuration, tokenizer, weights. What else lies
// beside the model, such as tables calibrated for it, does not fit the copy and stays behind.
// Errors: kInvalidArgument (the options), kBadModel, kUnsupported (the model), kIoError.
Result<void> InjectOutliers(const std::string& model_dir,
                            const OutlierOptions& options,
                            const std::string& out_dir);

}  // namespace varve::cli
