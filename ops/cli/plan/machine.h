// What `varve plan` knows of a machine: how much each tier holds, how fast it is read, how fast one
// computes, and which part of that a step reaches.
//
// A machine description is YAML or JSON, a table with these keys; sizes are as 80GiB, rates per
// second as numbers or sizes. What is not given is as in the preset that `like` names, h100 if
// there is none:
//
//   name               for the output
//   like               h100 or h200
//   workers_share      true: all workers together have the rates and sizes, as on one machine
//                      without GPUs; false: each worker has them
//   device_memory, host_memory, disk         sizes; 0: not known, does not limit
//   read_bandwidth, host_bandwidth, disk_bandwidth    bytes/s of the tiers, as attention reads them
//   flops              multiplications and additions per second
//   exchange_us        of one exchange between the workers
//   matmul_efficiency, attention_efficiency          of flops, in prefill
//   weights_efficiency, kv_efficiency                of read_bandwidth, in decode
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "proto/base/result.h"

namespace varve::cli {

// Operations per value of a page, at the rate of `flops`: attention over it in a decode step is
// bound by these where it is not by memory.
struct CodecWork {
  double decode = 0;     // whoever asks
  double per_query = 0;  // for each query head that shares the KV head
  double per_row = 0;    // the same, half of what a token costs whatever head_dim is
};

struct Machine {
  std::string name;
  bool workers_share = false;
  // Efficiencies come from measurements (ops/cli/plan/machine_here.h); else they are assumed.
  bool is_measured = false;
  uint64_t device_memory = 0;
  uint64_t host_memory = 0;
  uint64_t disk = 0;
  double read_bandwidth = 0;
  double host_bandwidth = 0;
  double disk_bandwidth = 0;
  double flops = 0;
  double exchange_us = 0;
  double matmul_efficiency = 0;
  double attention_efficiency = 0;
  double weights_efficiency = 0;
  double kv_efficiency = 0;
  // By codec; a codec that is not there is bound by memory only.
  std::map<std::string, CodecWork, std::less<>> codec_work;
  CodecWork sketch_work;    // of each key, by which selective attention ranks pages
  double token_work = 0;    // operations per token, layer and value of the hidden state, in prefill
  double encode_work = 0;   // operations per value that is sealed
  double layer_us = 0;      // of a decode step, per layer, whatever it reads
  double held_page_us = 0;  // of a page that selective attention reads: its state, its variance
};

// "h100" or "h200". kInvalidArgument naming those that there are.
Result<Machine> MachinePreset(std::string_view name);
// Errors: kInvalidArgument, naming the key and `file`.
Result<Machine> ParseMachine(std::string_view text, const std::string& file);

}  // namespace varve::cli
