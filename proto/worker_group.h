// The workers, as the coordinator sees them: N workers that step together. This is the only place
// where coordinator and workers meet. The implementation in one process is
// worker/local_worker_group.h; a remote one speaks the same calls.
//
// Threads: Step, OpenSequence, CloseSequence and the calls that write a manifest (CommitContext,
// ForkContext, UpdateContext) come from one thread at a time (the engine's); the other calls may
// come from any thread at any time.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "proto/base/ids.h"
#include "proto/base/result.h"
#include "proto/context_manifest.h"
#include "proto/kv_policy.h"
#include "proto/step_plan.h"

namespace varve {

struct ModelDescription {
  std::string name;          // last component of the model directory
  std::string architecture;  // for example "LlamaForCausalLM"
  int32_t vocab_size = 0;
  int64_t max_positions = 0;  // longest sequence that the model takes
  int32_t num_layers = 0;
  uint64_t model_hash = 0;  // of config and weights, as they are held
  uint64_t weight_bytes = 0;
  std::string weights = "auto";  // how they are held: auto (as stored) or int8
};

// Attention over a context that reads the pages that matter and a random sample of the others,
// until the error that it estimates for its output is small enough.
struct SelectiveAttention {
  double epsilon = 0.05;  // relative error of the attention output, in each layer and head
  double delta = 0.01;    // probability with which one may be larger
  int64_t budget_tokens =
      0;              // most tokens of sealed pages that a step reads in a layer; 0: no limit
  uint64_t seed = 0;  // of the sample
};

struct OpenSequenceOptions {
  // A request on a context: reads the context's first `base_tokens` tokens, writes its own private,
  // transient tail.
  std::optional<ContextId> base;
  int64_t base_tokens = 0;
  // Reads every page of `base`, also where its policy has requests select pages.
  bool reads_every_page = false;
  // How the global layers attend to the sealed pages of `base`; nothing: as its policy says.
  std::optional<SelectiveAttention> selective;
  // An ingest: the sequence IS the context `context`, whose committed tokens it continues. Excludes
  // `base`.
  std::optional<ContextId> context;
  KvPolicy policy;  // of the private tail; a context's own policy rules its pages
};

struct TierBytes {
  uint64_t used = 0;
  uint64_t budget = 0;  // 0: unlimited
};

// Sealed pages on one rung of the ladder, and the bytes of their records.
struct RungUsage {
  int64_t pages = 0;
  uint64_t bytes = 0;
};

struct ContextUsage {
  ContextId id;
  int64_t num_pages = 0;      // sealed pages, over all layers and workers
  uint64_t device_bytes = 0;  // bytes of them and of tails that are resident there
  uint64_t host_bytes = 0;
  uint64_t disk_bytes = 0;  // bytes written for pages and tail
  // Of these, what is counted as another context's: the sums over all contexts of the differences
  // are what the tiers hold of them.
  uint64_t shared_device_bytes = 0;
  uint64_t shared_host_bytes = 0;
  uint64_t shared_disk_bytes = 0;
  uint64_t bf16_bytes = 0;  // the same tokens and layers in bf16, as if none were pruned
  // Tokens of pages and tail, counted once for each layer; and those of them that are kept.
  int64_t layer_tokens = 0;
  int64_t kept_layer_tokens = 0;
  // Committed sealed pages by the codec that they are in; all are hot without a ladder.
  std::array<RungUsage, kNumRungs> rungs{};
};

// Why pages were not encoded anew although their rung is a lower one.
enum class DemotionFailure : uint8_t { kRead, kWrite, kBudget };
inline constexpr std::array<std::string_view, 3> kDemotionFailureNames = {"read",
                                                                          "write",
                                                                          "budget"};

// What went wrong with the disk.
enum class DiskFault : uint8_t { kNoSpace, kReadOnly, kRead, kWrite, kCorrupt };
inline constexpr std::array<std::string_view, 5> kDiskFaultNames = {"no_space",
                                                                    "read_only",
                                                                    "read",
                                                                    "write",
                                                                    "corrupt"};

struct WorkerStats {
  bool has_device = false;  // a device tier of its own
  TierBytes device;
  TierBytes host;
  TierBytes disk;
  // Calls that met a fault of the disk; of the whole tier, like `disk`.
  std::array<uint64_t, kDiskFaultNames.size()> disk_errors{};
  int64_t num_pages = 0;
  uint64_t page_reads_device = 0;  // pages attended from the device tier
  uint64_t page_reads_host = 0;    // pages attended from the host tier
  uint64_t page_reads_disk = 0;    // pages fetched from disk
  uint64_t disk_bytes_read = 0;
  uint64_t disk_bytes_written = 0;
  // Of the disk that the workers of a process share, with the first of them: what all that is
  // written took in files.
  uint64_t disk_file_bytes_written = 0;
  uint64_t pages_sealed = 0;
  // Of contexts whose policy selects pages: what requests read, and what they chose from.
  uint64_t selective_pages_read = 0;
  uint64_t selective_pages_total = 0;
  uint64_t checksum_failures = 0;
  // Of contexts with a ladder: their pages on each rung, those that were encoded anew for it, and
  // the bytes that these had before.
  std::array<RungUsage, kNumRungs> rungs{};
  std::array<uint64_t, kNumRungs> demotions{};
  std::array<uint64_t, kNumRungs> demoted_bytes{};
  std::array<uint64_t, kDemotionFailureNames.size()> demotion_failures{};
  double disk_read_seconds = 0;
  double disk_write_seconds = 0;
};

// A context as the bytes of one file, in pieces. One caller at a time.
class ContextSource {
 public:
  virtual ~ContextSource() = default;
  // The next piece, a few MiB at most; empty at the end. Errors: kPageCorrupt, kPageMissing,
  // kIoError.
  virtual Result<std::string> Next() = 0;
};

// What takes such a file in. Destroyed before Finish has succeeded it leaves nothing. One caller at
// a time.
class ContextSink {
 public:
  virtual ~ContextSink() = default;
  // The next bytes. After an error it can only be destroyed. Errors: kInvalidArgument (no context
  // file), kVersionSkew, kPageCorrupt, kModelMismatch, kCodecMismatch, kBudgetExceeded, kIoError.
  virtual Result<void> Write(std::string_view bytes) = 0;
  // The whole file was written.
  virtual bool complete() const = 0;
  // Makes the context durable and known. kInvalidArgument if it is not complete.
  virtual Result<ContextManifest> Finish() = 0;
};

struct ImportOptions {
  ContextId id;  // of the new context; never used before
  std::string name;
  uint64_t tokenizer_hash = 0;  // the file's must be the same
  int64_t now_unix_s = 0;
};

class WorkerGroup {
 public:
  virtual ~WorkerGroup() = default;

  virtual int num_workers() const = 0;
  virtual const ModelDescription& model() const = 0;

  // Runs one step on every worker. An Error means that no sequence of the plan can go on (a worker
  // is lost).
  virtual Result<StepResult> Step(const StepPlan& plan) = 0;

  virtual Result<void> OpenSequence(SequenceId sequence, const OpenSequenceOptions& options) = 0;
  // Frees a request's tail. Closing an ingest drops what was not committed.
  virtual Result<void> CloseSequence(SequenceId sequence) = 0;

  // Registers an empty context; nothing is durable before its first commit.
  virtual Result<void> CreateContext(const ContextManifest& manifest) = 0;
  // Makes the context durable up to manifest.num_tokens: pages first, then the manifest, on every
  // worker (prepare on all, then commit on all). `sequence` is its open ingest. After success the
  // context survives kill -9 and power loss.
  virtual Result<void> CommitContext(SequenceId sequence,
                                     const ContextManifest& manifest,
                                     const ContextAppend& append) = 0;
  // A new context that begins with all that `options.source` has committed, durable on return.
  // Copies nothing: pages, tail, text and token ids are read where they are, for as long as one
  // context names them. kNotFound, kAlreadyExists, kConflict (nothing is committed yet),
  // kResourceExhausted.
  virtual Result<ContextManifest> ForkContext(const ForkOptions& options) = 0;
  // Makes other attributes durable. kNotFound.
  virtual Result<void> UpdateContext(const ContextManifest& manifest) = 0;
  // The committed context must not change or be deleted while it is exported. kNotFound,
  // kUnsupported (nothing is on disk).
  virtual Result<std::unique_ptr<ContextSource>> ExportContext(ContextId context) = 0;
  // kUnsupported (there is no disk).
  virtual Result<std::unique_ptr<ContextSink>> ImportContext(const ImportOptions& options) = 0;
  // Its name and manifest are gone on return; what forks of it read stays until the last is
  // deleted.
  virtual Result<void> DeleteContext(ContextId context) = 0;
  // The committed contexts, after recovery.
  virtual Result<std::vector<ContextManifest>> ListContexts() = 0;
  // The text or the token ids that the context was made from.
  virtual Result<std::string> ReadContextText(ContextId context) = 0;
  virtual Result<std::vector<int32_t>> ReadContextTokens(ContextId context) = 0;

  virtual Result<ContextUsage> GetContextUsage(ContextId context) = 0;
  virtual std::vector<WorkerStats> Stats() = 0;  // one per worker
};

}  // namespace varve
