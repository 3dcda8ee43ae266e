// How long steps and an ingest take: bytes and operations over the rates that a machine reaches.
// All arithmetic; nothing is measured here.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "worker/model_config.h"

#include "ops/cli/plan/machine.h"

namespace varve::cli {

// What a step reads, all workers together.
struct PlannedReads {
  std::string codec;        // of most of the pages
  double device_bytes = 0;  // of pages, by the tier they are read from
  double host_bytes = 0;
  double disk_bytes = 0;
  double sketch_bytes = 0;  // in host memory
};

struct PlannedStep {
  double weights_s = 0;    // matrix products
  double attention_s = 0;  // over pages, wherever they are
  double sketch_s = 0;     // ranking pages
  double fixed_s = 0;      // exchanges, and what each layer costs anyhow
  double total_s() const { return weights_s + attention_s + sketch_s + fixed_s; }
};

class Predictor {
 public:
  // Both outlive this. bytes_per_weight: as the weights are held.
  Predictor(const Machine& machine,
            const ModelConfig& model,
            int num_workers,
            double bytes_per_weight);

  // One token behind `tokens` others. `share`: of the tokens of global layers, that is attended to;
  // below 1 the pages are chosen by the sketch.
  PlannedStep Decode(int64_t tokens, double share, const PlannedReads& reads) const;
  // `tokens` tokens behind `first` others, in chunks, sealed in the end.
  double Prefill(int64_t first, int64_t tokens) const;

 private:
  // Machines that the rates are of.
  double Machines() const { return machine_.workers_share ? 1.0 : num_workers_; }
  double Flops() const { return machine_.flops * Machines(); }

  const Machine& machine_;
  const ModelConfig& model_;
  const double num_workers_;
  const double bytes_per_weight_;
};

}  // namespace varve::cli
