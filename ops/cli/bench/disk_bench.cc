#include "ops/cli/bench/disk_bench.h"

#include <algorithm>
#include <future>
#include <optional>
#include <vector>

#include <fmt/format.h>

#include "kvstore/disk_tier.h"
#include "proto/base/clock.h"
#include "proto/base/log.h"
#include "proto/base/rng.h"

#include "ops/cli/bench/raw_read.h"
#include "ops/cli/exit_code.h"
#include "ops/cli/temporary_directory.h"
#include <nlohmann/json.hpp>

namespace varve::cli {
namespace {

constexpr uint16_t kLayers = 4;
constexpr size_t kBatchBytes = size_t{4} << 20;
// Direct reads are of whole sectors.
constexpr uint64_t kSectorBytes = 4096;

struct Row {
  std::string bench;
  double seconds = 0;
  double roof_bytes_per_s = 0;      // 0: none
  double write_amplification = -1;  // < 0: says nothing of it
};

class Bench {
 public:
  Bench(const DiskBenchOptions& options, std::string directory)
      : options_(options), directory_(std::move(directory)) {
    record_bytes_ = (options.record_bytes + kSectorBytes - 1) / kSectorBytes * kSectorBytes;
    pages_ = std::max<uint64_t>(1, options.total_bytes / record_bytes_ / kLayers);
    tier_options_.directory = directory_ + "/data";
    if (options.io_threads > 0) {
      tier_options_.num_io_threads = options.io_threads;
    }
  }

  Result<void> Run() {
    VARVE_RETURN_IF_ERROR(Write());
    const std::string file = directory_ + "/raw";
    VARVE_RETURN_IF_ERROR(WriteRandomFile(file, Bytes()));
    const int threads = tier_options_.num_io_threads;
    std::vector<double> reads;
    std::vector<double> raw;
    std::vector<double> fio;
    // In turn, for a shared disk's speed changes from minute to minute.
    for (int run = 0; run < options_.runs; ++run) {
      VARVE_TRY(reads.emplace_back(), ReadOnce());
      VARVE_TRY(raw.emplace_back(), ReadFileInBlocks(file, record_bytes_, threads));
      if (const auto rate = FioBytesPerSecond(file, record_bytes_, threads)) {
        fio.push_back(static_cast<double>(Bytes()) / std::max(*rate, 1.0));
      }
    }
    double roof = static_cast<double>(Bytes()) / Median(raw);
    if (!fio.empty()) {
      roof = std::max(roof, static_cast<double>(Bytes()) / Median(fio));
    }
    Print({.bench = "disk_read", .seconds = Median(reads), .roof_bytes_per_s = roof});
    Print({.bench = "raw_read", .seconds = Median(raw), .roof_bytes_per_s = roof});
    if (!fio.empty()) {
      Print({.bench = "fio_read", .seconds = Median(fio), .roof_bytes_per_s = roof});
    }
    return {};
  }

 private:
  static double Median(std::vector<double> values) {
    std::sort(values.begin(), values.end());
    return values[values.size() / 2];
  }
  uint64_t Bytes() const { return kLayers * pages_ * record_bytes_; }
  static PageKey Key(uint16_t layer, uint64_t page) {
    return {PageKey::Space::kContext, 1, layer, layer, page};
  }

  Result<void> Write() {
    std::vector<std::byte> record(record_bytes_);
    Rng rng(1);
    const int64_t start_us = SystemClock().NowUs();
    VARVE_TRY(const auto tier, DiskTier::Open(tier_options_));
    for (uint64_t page = 0; page < pages_; ++page) {
      for (uint16_t layer = 0; layer < kLayers; ++layer) {
        for (size_t at = 0; at + sizeof(uint64_t) <= record.size(); at += sizeof(uint64_t)) {
          const uint64_t word = rng.Next();
          std::copy_n(reinterpret_cast<const std::byte*>(&word), sizeof(word), record.data() + at);
        }
        const PageKey key = Key(layer, page);
        const std::span<const std::byte> bytes = record;
        VARVE_RETURN_IF_ERROR(tier->PutPages({&key, 1}, {&bytes, 1}));
      }
    }
    ContextManifest manifest;
    manifest.id = ContextId{1};
    manifest.name = "bench";
    manifest.version = 1;
    manifest.num_tokens = static_cast<int64_t>(pages_ + 1) * KvPolicy().page_tokens;
    VARVE_RETURN_IF_ERROR(tier->CommitManifest(manifest, {}));
    const double seconds = static_cast<double>(SystemClock().NowUs() - start_us) * 1e-6;
    const DiskTier::Stats stats = tier->GetStats();
    Print({.bench = "disk_write",
           .seconds = seconds,
           .write_amplification = static_cast<double>(stats.file_bytes_written) /
                                  static_cast<double>(stats.bytes_written)});
    return {};
  }

  // Opened anew each time, so that nothing is in memory.
  Result<double> ReadOnce() {
    VARVE_TRY(const auto tier, DiskTier::Open(tier_options_));
    const size_t batch = std::max<size_t>(1, kBatchBytes / record_bytes_);
    using Records = std::future<Result<std::vector<std::vector<std::byte>>>>;
    const int64_t start_us = SystemClock().NowUs();
    for (uint16_t layer = 0; layer < kLayers; ++layer) {
      std::optional<Records> ahead;
      for (uint64_t first = 0; first < pages_ || ahead; first += batch) {
        std::vector<PageKey> keys;
        for (uint64_t page = first; page < std::min<uint64_t>(first + batch, pages_); ++page) {
          keys.push_back(Key(layer, page));
        }
        std::optional<Records> next;
        if (!keys.empty()) {
          next = tier->GetPages(std::move(keys));
        }
        if (ahead) {
          VARVE_TRY(const auto records, ahead->get());
          for (const auto& record : records) {
            if (record.size() != record_bytes_) {
              return Error{ErrorCode::kPageMissing, "a record that was written is not there"};
            }
          }
        }
        ahead = std::move(next);
      }
    }
    return static_cast<double>(SystemClock().NowUs() - start_us) * 1e-6;
  }

  void Print(const Row& row) const {
    const double rate = static_cast<double>(Bytes()) / row.seconds;
    const double roof = row.roof_bytes_per_s > 0 ? rate / row.roof_bytes_per_s : -1;
    if (options_.json) {
      nlohmann::ordered_json json = {{"bench", row.bench},
                                     {"record_bytes", record_bytes_},
                                     {"bytes", Bytes()},
                                     {"io_threads", tier_options_.num_io_threads},
                                     {"median_ms", row.seconds * 1000},
                                     {"mb_per_s", rate * 1e-6},
                                     {"roof_fraction", roof}};
      if (row.write_amplification >= 0) {
        json["write_amplification"] = row.write_amplification;
      }
      fmt::print("{}\n", json.dump());
      return;
    }
    fmt::print(
        "{:<12} {:>8} bytes a record  {:>7.1f} MB  {:>2} threads {:>10.1f} ms {:>9.1f} MB/s"
        "  roof {}{}\n",
        row.bench,
        record_bytes_,
        static_cast<double>(Bytes()) * 1e-6,
        tier_options_.num_io_threads,
        row.seconds * 1000,
        rate * 1e-6,
        roof < 0 ? "-" : fmt::format("{:.3f}", roof),
        row.write_amplification < 0
            ? ""
            : fmt::format("  write amplification {:.3f}", row.write_amplification));
  }

  const DiskBenchOptions& options_;
  const std::string directory_;
  DiskTierOptions tier_options_;
  uint64_t record_bytes_ = 0;
  uint64_t pages_ = 0;  // of a layer
};

}  // namespace

int RunDiskBench(const DiskBenchOptions& options) {
  InitLogging("warn");
  const auto directory = TemporaryDirectory::Make(options.directory);
  if (!directory) {
    return ReportError(directory.error());
  }
  const auto done = Bench(options, directory->path()).Run();
  return done ? kExitOk : ReportError(done.error());
}

}  // namespace varve::cli
