#include "ops/cli/plan/machine_here.h"

#include <algorithm>
#include <filesystem>

#include <unistd.h>

#include "kvstore/disk_tier.h"
#include "proto/base/clock.h"
#include "proto/base/rng.h"

#include "ops/cli/bench/roofs.h"

namespace varve::cli {
namespace {

constexpr size_t kPageBytes = size_t{128} << 10;
constexpr uint64_t kPages = 1024;
constexpr uint64_t kBatch = 64;
constexpr int kRounds = 3;

// How fast the disk tier gives pages back: through RocksDB, from the operating system's cache as
// far as that has them, as while a step reads.
Result<double> MeasureDiskTier(const std::string& directory) {
  VARVE_TRY(const auto disk, DiskTier::Open({.directory = directory}));
  std::vector<std::byte> page(kPageBytes);
  Rng rng(1);
  for (std::byte& byte : page) {
    byte = static_cast<std::byte>(rng.Next());
  }
  const std::span<const std::byte> record = page;
  const auto key_of = [](uint64_t index) { return PageKey{.owner = 1, .page = index}; };
  for (uint64_t index = 0; index < kPages; ++index) {
    const PageKey key = key_of(index);
    VARVE_RETURN_IF_ERROR(disk->PutPages({&key, 1}, {&record, 1}));
  }
  ContextManifest manifest{.id = {1}, .name = "probe", .version = 1};
  manifest.num_tokens = static_cast<int64_t>(kPages) * manifest.policy.page_tokens;
  VARVE_RETURN_IF_ERROR(disk->CommitManifest(manifest, {}));
  double best_s = 1e30;
  for (int round = 0; round < kRounds; ++round) {
    const int64_t begin_us = SystemClock().NowUs();
    for (uint64_t first = 0; first < kPages; first += kBatch) {
      std::vector<PageKey> keys;
      for (uint64_t index = first; index < first + kBatch; ++index) {
        keys.push_back(key_of(index));
      }
      VARVE_RETURN_IF_ERROR(disk->GetPages(std::move(keys)).get());
    }
    best_s = std::min(best_s, static_cast<double>(SystemClock().NowUs() - begin_us) * 1e-6);
  }
  return static_cast<double>(kPageBytes * kPages) / best_s;
}

}  // namespace

void SetCpuEfficiencies(Machine& machine) {
  machine.workers_share = true;
  machine.is_measured = true;
  machine.matmul_efficiency = 0.8;
  machine.attention_efficiency = 0.84;
  machine.weights_efficiency = 0.72;
  machine.kv_efficiency = 0.9;
  machine.codec_work = {{"int8", {13.1, 1.2, 211}}, {"int4", {10.2, 0.8, 211}}};
  machine.sketch_work = {8, 0.8, 211};
  machine.encode_work = 100;
  machine.token_work = 40;
  machine.layer_us = 5;
  machine.exchange_us = 3;
  machine.held_page_us = 10;
}

Result<Machine> MeasureMachineHere(int threads, const std::string& directory) {
  Machine machine;
  machine.name = "here";
  SetCpuEfficiencies(machine);
  for (int round = 0; round < kRounds; ++round) {  // other load only lowers them
    const Roofs roofs = MeasureRoofs(threads);
    machine.read_bandwidth = std::max(machine.read_bandwidth, roofs.read_bytes_per_s);
    machine.flops = std::max(machine.flops, roofs.fp32_flops_per_s);
  }
  machine.host_bandwidth = machine.read_bandwidth;
  machine.host_memory = static_cast<uint64_t>(::sysconf(_SC_PHYS_PAGES)) *
                        static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
  VARVE_TRY(machine.disk_bandwidth, MeasureDiskTier(directory));
  std::error_code failure;
  const auto space = std::filesystem::space(directory, failure);
  machine.disk = failure ? 0 : space.available;
  return machine;
}

}  // namespace varve::cli
