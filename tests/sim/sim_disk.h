// A disk in memory for the simulation: a RocksDB file system that loses what was never synced when
// the power is cut, and stops or fails at a chosen operation.
//
// What a power cut leaves: of each file what was synced and a random part of what was appended
// since; of the names (creations, renames, deletions) what came before the last sync of the
// directory and a random number of the first ones since. Nothing is durable by accident.
//
// Threads: any.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include <rocksdb/file_system.h>

#include "proto/base/rng.h"

namespace varve {

class SimDisk final : public rocksdb::FileSystem {
 public:
  const char* Name() const override { return "SimDisk"; }

  // From the n-th operation that changes something on, nothing that the process does counts: it is
  // dead, or the power is gone. It does not know, and goes on until whoever runs it ends it.
  void StopAt(int64_t n) { stop_in_ = n; }
  bool is_stopped() const { return is_stopped_; }
  void Stop();
  // A new process on the same machine.
  void Restart();
  // A new process after a power cut.
  void RestartAfterPowerCut(Rng& rng);

  // Writes of compactions do not fail: RocksDB 7.8, which Debian builds with assertions, ends the
  // process over one whose first write failed.
  enum class Fault { kNone, kWrites, kReads };
  void Fail(Fault fault) { fault_ = fault; }
  // Syncs of files succeed and do nothing: a broken disk, or a store that does not sync.
  void LieAboutSyncs(bool lies) { lies_ = lies; }

  // Called before each operation that changes something; says whether it may fail.
  void SetGate(std::function<bool()> gate) { gate_ = std::move(gate); }
  int64_t num_operations() const { return num_operations_; }
  // Directories whose names were ever synced.
  std::set<std::string> synced_directories() const { return synced_directories_; }
  // Of the operations so far and their names, in order: equal for equal runs.
  uint64_t history() const { return history_; }

  rocksdb::IOStatus NewSequentialFile(const std::string& name,
                                      const rocksdb::FileOptions& options,
                                      std::unique_ptr<rocksdb::FSSequentialFile>* result,
                                      rocksdb::IODebugContext* debug) override;
  rocksdb::IOStatus NewRandomAccessFile(const std::string& name,
                                        const rocksdb::FileOptions& options,
                                        std::unique_ptr<rocksdb::FSRandomAccessFile>* result,
                                        rocksdb::IODebugContext* debug) override;
  rocksdb::IOStatus NewWritableFile(const std::string& name,
                                    const rocksdb::FileOptions& options,
                                    std::unique_ptr<rocksdb::FSWritableFile>* result,
                                    rocksdb::IODebugContext* debug) override;
  rocksdb::IOStatus NewDirectory(const std::string& name,
                                 const rocksdb::IOOptions& options,
                                 std::unique_ptr<rocksdb::FSDirectory>* result,
                                 rocksdb::IODebugContext* debug) override;
  rocksdb::IOStatus FileExists(const std::string& name,
                               const rocksdb::IOOptions& options,
                               rocksdb::IODebugContext* debug) override;
  rocksdb::IOStatus GetChildren(const std::string& directory,
                                const rocksdb::IOOptions& options,
                                std::vector<std::string>* result,
                                rocksdb::IODebugContext* debug) override;
  rocksdb::IOStatus DeleteFile(const std::string& name,
                               const rocksdb::IOOptions& options,
                               rocksdb::IODebugContext* debug) override;
  rocksdb::IOStatus CreateDir(const std::string& name,
                              const rocksdb::IOOptions& options,
                              rocksdb::IODebugContext* debug) override;
  rocksdb::IOStatus CreateDirIfMissing(const std::string& name,
                                       const rocksdb::IOOptions& options,
                                       rocksdb::IODebugContext* debug) override;
  rocksdb::IOStatus DeleteDir(const std::string& name,
                              const rocksdb::IOOptions& options,
                              rocksdb::IODebugContext* debug) override;
  rocksdb::IOStatus GetFileSize(const std::string& name,
                                const rocksdb::IOOptions& options,
                                uint64_t* size,
                                rocksdb::IODebugContext* debug) override;
  rocksdb::IOStatus GetFileModificationTime(const std::string& name,
                                            const rocksdb::IOOptions& options,
                                            uint64_t* time,
                                            rocksdb::IODebugContext* debug) override;
  rocksdb::IOStatus RenameFile(const std::string& from,
                               const std::string& to,
                               const rocksdb::IOOptions& options,
                               rocksdb::IODebugContext* debug) override;
  rocksdb::IOStatus LockFile(const std::string& name,
                             const rocksdb::IOOptions& options,
                             rocksdb::FileLock** lock,
                             rocksdb::IODebugContext* debug) override;
  rocksdb::IOStatus UnlockFile(rocksdb::FileLock* lock,
                               const rocksdb::IOOptions& options,
                               rocksdb::IODebugContext* debug) override;
  rocksdb::IOStatus GetTestDirectory(const rocksdb::IOOptions& options,
                                     std::string* path,
                                     rocksdb::IODebugContext* debug) override;
  rocksdb::IOStatus NewLogger(const std::string& name,
                              const rocksdb::IOOptions& options,
                              std::shared_ptr<rocksdb::Logger>* result,
                              rocksdb::IODebugContext* debug) override;
  rocksdb::IOStatus GetAbsolutePath(const std::string& path,
                                    const rocksdb::IOOptions& options,
                                    std::string* absolute,
                                    rocksdb::IODebugContext* debug) override;
  rocksdb::IOStatus IsDirectory(const std::string& path,
                                const rocksdb::IOOptions& options,
                                bool* is_directory,
                                rocksdb::IODebugContext* debug) override;

  struct Node {
    std::string bytes;
    size_t synced = 0;
  };
  // For the files of this disk.
  rocksdb::IOStatus Append(const std::string& name, Node& node, const rocksdb::Slice& bytes);
  rocksdb::IOStatus Truncate(const std::string& name, Node& node, uint64_t size);
  rocksdb::IOStatus Sync(const std::string& name, Node& node);
  rocksdb::IOStatus SyncNames(const std::string& directory);
  rocksdb::IOStatus Read(const Node& node, uint64_t at, size_t n, rocksdb::Slice* result, char* to);
  uint64_t SizeOf(const Node& node);

 private:
  using Names = std::map<std::string, std::shared_ptr<Node>>;
  // A change of the names: an empty `from` creates `node` at `to`, an empty `to` deletes `from`.
  struct Change {
    std::string from;
    std::string to;
    std::shared_ptr<Node> node;
  };

  rocksdb::IOStatus BeforeWrite(const std::string& name);
  std::shared_ptr<Node> Find(const std::string& name);
  rocksdb::IOStatus ApplyChange(Change change);
  static void Apply(const Change& change, Names& names);

  std::function<bool()> gate_;
  std::atomic<int64_t> stop_in_{0};
  std::atomic<bool> is_stopped_{false};
  std::atomic<Fault> fault_{Fault::kNone};
  std::atomic<bool> lies_{false};
  std::atomic<int64_t> num_operations_{0};
  std::atomic<uint64_t> history_{0};

  std::mutex mutex_;
  // All names and their files, as they are and as a power cut leaves them.
  struct State {
    Names names;
    Names durable_names;
    std::vector<Change> changes;  // since the last sync of the directory
  };
  static State Copy(const State& state);

  std::set<std::string> synced_directories_;  // guarded by mutex_

  State state_;   // guarded by mutex_
  State frozen_;  // likewise: when it was stopped
};

}  // namespace varve
