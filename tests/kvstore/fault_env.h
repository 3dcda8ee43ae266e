// A RocksDB environment that counts what is written, fails on demand, kills the process at a chosen
// file operation, and forgets what was never synced, as a power cut does. (File creations and
// renames count as durable at once; RocksDB syncs their directories itself.)
#pragma once

#include <array>
#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include <rocksdb/env.h>
#include <rocksdb/file_system.h>

namespace varve {

class FaultFileSystem final : public rocksdb::FileSystemWrapper {
 public:
  enum class Fault { kNone, kNoSpace, kWriteError, kReadError };
  enum class FileKind { kBlob, kTable, kLog, kOther };

  FaultFileSystem();
  const char* Name() const override { return "FaultFileSystem"; }

  // Every operation of that kind fails until further notice. A full file system refuses bytes, but
  // still creates, renames and deletes files.
  void Fail(Fault fault) { fault_ = fault; }
  // The n-th write, sync, rename or deletion from now on kills this process with SIGKILL.
  void KillAt(int64_t n) { kill_in_ = n; }
  // From the n-th on, all of them fail: the power is gone. Then, with the database closed,
  // LoseUnsynced.
  void CutPowerAt(int64_t n) { power_in_ = n; }
  bool power_is_cut() const { return power_cut_; }
  // Whether the caller is a compaction after the power cut: what it writes, renames and deletes
  // goes nowhere, without an error. RocksDB 7.8, which Debian builds with assertions, ends the
  // process over a compaction whose first write failed.
  bool Pretends() const;
  void LoseUnsynced();

  uint64_t BytesAppended(FileKind kind) const { return appended_[static_cast<size_t>(kind)]; }
  uint64_t BytesAppended() const;
  int64_t num_operations() const { return operations_; }

  rocksdb::IOStatus NewWritableFile(const std::string& name,
                                    const rocksdb::FileOptions& options,
                                    std::unique_ptr<rocksdb::FSWritableFile>* result,
                                    rocksdb::IODebugContext* debug) override;
  rocksdb::IOStatus ReuseWritableFile(const std::string& name,
                                      const std::string& old_name,
                                      const rocksdb::FileOptions& options,
                                      std::unique_ptr<rocksdb::FSWritableFile>* result,
                                      rocksdb::IODebugContext* debug) override;
  rocksdb::IOStatus NewRandomAccessFile(const std::string& name,
                                        const rocksdb::FileOptions& options,
                                        std::unique_ptr<rocksdb::FSRandomAccessFile>* result,
                                        rocksdb::IODebugContext* debug) override;
  rocksdb::IOStatus RenameFile(const std::string& from,
                               const std::string& to,
                               const rocksdb::IOOptions& options,
                               rocksdb::IODebugContext* debug) override;
  rocksdb::IOStatus DeleteFile(const std::string& name,
                               const rocksdb::IOOptions& options,
                               rocksdb::IODebugContext* debug) override;

  // For the files of this file system.
  rocksdb::IOStatus BeforeWrite(bool takes_space = false);
  rocksdb::IOStatus BeforeRead() const;
  void NoteAppend(const std::string& name, uint64_t bytes);
  void NoteSync(const std::string& name);

 private:
  struct Sizes {
    uint64_t written = 0;
    uint64_t synced = 0;
  };

  std::atomic<Fault> fault_{Fault::kNone};
  std::atomic<int64_t> kill_in_{0};
  std::atomic<int64_t> power_in_{0};
  std::atomic<bool> power_cut_{false};
  std::atomic<int64_t> operations_{0};
  std::array<std::atomic<uint64_t>, 4> appended_{};
  std::mutex mutex_;
  std::map<std::string, Sizes> files_;  // guarded by mutex_
};

std::shared_ptr<rocksdb::Env> MakeEnv(const std::shared_ptr<FaultFileSystem>& files);

}  // namespace varve
