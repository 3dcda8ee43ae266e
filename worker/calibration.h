// Collects from a running model what codecs are calibrated with. Next: kernels/codec/codec.h
// (Codec::Calibrate).
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/codec/codec.h"
#include "worker/kv_probe.h"
#include "worker/model_config.h"

namespace varve {

class CalibrationCollector final : public KvProbe {
 public:
  explicit CalibrationCollector(const ModelConfig& config);

  // Of all tokens, the first ones of a sequence too, though these are kept exactly: some behind
  // them look alike. Without them KL is higher for klt2, klt3, nuq3, nuq2 and pca10 of
  // SmolLM2-135M, 1 to 18 %.
  void Observe(int32_t layer,
               std::span<const int64_t> positions,
               const float* qkv,
               size_t stride) override;
  // The sample of each layer. REQUIRES: some tokens were observed.
  std::vector<CalibrationSample> Take();

 private:
  void AddQuery(const float* q, int32_t kv_head, CalibrationSample& sample) const;

  ModelConfig config_;
  KvGeometry geometry_;
  std::vector<CalibrationSample> samples_;  // [num_layers]
};

}  // namespace varve
