// One life of a store, or many: contexts that are ingested, read, committed, deleted and sent down
// their ladders, over a disk that is cut, killed and fails, beside a model that remembers only what
// was promised. Everything follows from the seed.
//
// What is not simulated: the order in which two threads of RocksDB's own pools read. Reads do not
// count as operations and fail all or not at all, so it makes no difference.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "proto/base/rng.h"
#include "tests/kvstore/kv_support.h"
#include "tests/sim/sim_disk.h"
#include "tests/sim/sim_env.h"

namespace varve {

class StoreWorld {
 public:
  struct Options {
    uint64_t seed = 0;
    int num_operations = 60;
    bool syncs_lie = false;
  };
  // Uses the folder "world" of the working directory: RocksDB orders some deletions by hashes of
  // paths, so that a path that differs from run to run would make a difference. One at a time.
  explicit StoreWorld(const Options& options);
  ~StoreWorld();

  // Returns the first broken promise; empty if there was none.
  std::string Run();

  struct Counts {
    int commits = 0;
    int restarts = 0;
    int power_cuts = 0;
    int reads = 0;  // of whole contexts
    int demotions = 0;
    int misdirected = 0;
  };
  const Counts& counts() const { return counts_; }
  // Equal for equal runs.
  uint64_t history() const { return disk_->history(); }

 private:
  struct Context {
    KvPolicy policy;
    uint64_t version = 0;  // 0: nothing was reported committed
    int64_t tokens = 0;
    int64_t trying_tokens = -1;  // of a commit whose end is not known
    bool is_deleting = false;    // a deletion whose end is not known
    std::optional<SequenceId> ingest;
    std::map<std::pair<int, uint64_t>, uint64_t> page_hashes;  // by layer and page
  };
  struct Reader {
    SequenceId sequence;
    uint64_t context = 0;
    int64_t base_tokens = 0;
    int64_t own_tokens = 0;
  };

  // What may happen.
  void Act();
  void Create();
  void Ingest(uint64_t id, Context& context);
  void Commit(uint64_t id, Context& context);
  void Delete(uint64_t id);
  void Read();
  void SpillPrivate();
  void Maintain();
  void Break();

  // A new process (store_world_restart.cc).
  void Restart();
  bool Open();
  void CompareManifests(const std::vector<ContextManifest>& manifests);
  void Audit();
  void AuditPages(uint64_t id, Context& context);
  void Misdirect(uint64_t id, const Context& context);

  void OpenReader(uint64_t id);
  void Close(SequenceId sequence);
  // One step of a reader, and all that it sees.
  void ReadOn(Reader& reader);
  void CheckLayer(const Reader& reader, int32_t layer);
  // Whether the call succeeded. A failure that faults explain asks for a restart; any other breaks
  // a promise.
  bool Try(const Result<void>& result, std::string_view what);
  void Broken(std::string what);
  bool goes_on() const { return broken_.empty() && !wants_restart_ && !disk_->is_stopped(); }
  Context* PickContext(uint64_t& id);

  const Options options_;
  Rng rng_;
  std::shared_ptr<SimDisk> disk_ = std::make_shared<SimDisk>();
  std::shared_ptr<SimEnv> env_;
  std::unique_ptr<DiskTier> tier_;
  std::unique_ptr<StoreGroup> group_;
  std::map<uint64_t, Context> contexts_;
  std::vector<Reader> readers_;
  uint64_t next_id_ = 1;
  uint64_t next_sequence_ = 1;
  bool had_fault_ = false;  // since the process began
  int fault_left_ = 0;      // operations until the fault is over
  bool power_fails_ = false;
  bool wants_restart_ = false;
  std::string broken_;
  Counts counts_;
};

}  // namespace varve
