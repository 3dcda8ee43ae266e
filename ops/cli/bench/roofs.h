// What this machine can do at best, measured: the roofs beside which every bench prints its
// figures.
#pragma once

namespace varve {

struct Roofs {
  double read_bytes_per_s = 0.0;  // streaming reads from memory that no cache holds
  double fp32_flops_per_s =
      0.0;  // independent fused multiply-adds in registers, two operations each
};

// Runs both probes on `threads` threads, each for 0.3 seconds, of which the best round counts:
// other load on the machine only lowers it. Takes about 0.7 seconds and 256 MiB.
Roofs MeasureRoofs(int threads);

}  // namespace varve
