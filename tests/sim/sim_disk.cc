#include "tests/sim/sim_disk.h"

#include <algorithm>
#include <cstring>

#include "proto/base/hash.h"

namespace varve {
namespace {

using rocksdb::FileOptions;
using rocksdb::IODebugContext;
using rocksdb::IOOptions;
using rocksdb::IOStatus;
using rocksdb::Slice;
using NodePtr = std::shared_ptr<SimDisk::Node>;

class SequentialFile final : public rocksdb::FSSequentialFile {
 public:
  SequentialFile(SimDisk& disk, NodePtr node) : disk_(disk), node_(std::move(node)) {}
  IOStatus Read(size_t n, const IOOptions&, Slice* result, char* to, IODebugContext*) override {
    IOStatus status = disk_.Read(*node_, at_, n, result, to);
    at_ += status.ok() ? result->size() : 0;
    return status;
  }
  IOStatus Skip(uint64_t n) override {
    at_ += n;
    return IOStatus::OK();
  }

 private:
  SimDisk& disk_;
  const NodePtr node_;
  uint64_t at_ = 0;
};

class RandomAccessFile final : public rocksdb::FSRandomAccessFile {
 public:
  RandomAccessFile(SimDisk& disk, NodePtr node) : disk_(disk), node_(std::move(node)) {}
  IOStatus Read(uint64_t at, size_t n, const IOOptions&, Slice* result, char* to, IODebugContext*)
      const override {
    return disk_.Read(*node_, at, n, result, to);
  }

 private:
  SimDisk& disk_;
  const NodePtr node_;
};

class WritableFile final : public rocksdb::FSWritableFile {
 public:
  WritableFile(SimDisk& disk, std::string name, NodePtr node)
      : disk_(disk), name_(std::move(name)), node_(std::move(node)) {}
  using FSWritableFile::Append;
  IOStatus Append(const Slice& bytes, const IOOptions&, IODebugContext*) override {
    return disk_.Append(name_, *node_, bytes);
  }
  IOStatus Truncate(uint64_t size, const IOOptions&, IODebugContext*) override {
    return disk_.Truncate(name_, *node_, size);
  }
  IOStatus Close(const IOOptions&, IODebugContext*) override { return IOStatus::OK(); }
  IOStatus Flush(const IOOptions&, IODebugContext*) override { return IOStatus::OK(); }
  IOStatus Sync(const IOOptions&, IODebugContext*) override { return disk_.Sync(name_, *node_); }
  IOStatus Fsync(const IOOptions&, IODebugContext*) override { return disk_.Sync(name_, *node_); }
  uint64_t GetFileSize(const IOOptions&, IODebugContext*) override { return disk_.SizeOf(*node_); }

 private:
  SimDisk& disk_;
  const std::string name_;
  const NodePtr node_;
};

class Directory final : public rocksdb::FSDirectory {
 public:
  Directory(SimDisk& disk, std::string name) : disk_(disk), name_(std::move(name)) {}
  IOStatus Fsync(const IOOptions&, IODebugContext*) override { return disk_.SyncNames(name_); }

 private:
  SimDisk& disk_;
  const std::string name_;
};

// What RocksDB says to people is not part of the simulation.
class SilentLogger final : public rocksdb::Logger {
 public:
  using Logger::Logv;
  void Logv(const char*, va_list) override {}
};

IOStatus Absent(const std::string& name) {
  return IOStatus::PathNotFound(name);
}

}  // namespace

IOStatus SimDisk::BeforeWrite(const std::string& name) {
  const bool may_fail = !gate_ || gate_();
  if (stop_in_ > 0 && --stop_in_ == 0) {
    Stop();
  }
  if (is_stopped_) {
    return IOStatus::OK();
  }
  ++num_operations_;
  history_ = Mix64(history_ ^ Hash64(std::string_view(name).substr(name.rfind('/') + 1)));
  return fault_ == Fault::kWrites && may_fail ? IOStatus::IOError("injected write error")
                                              : IOStatus::OK();
}

// Names share their files: so do those of the copy.
SimDisk::State SimDisk::Copy(const State& state) {
  std::map<const Node*, std::shared_ptr<Node>> copies;
  const auto copy = [&copies](const std::shared_ptr<Node>& node) {
    auto& mine = copies[node.get()];
    mine = mine != nullptr || node == nullptr ? mine : std::make_shared<Node>(*node);
    return mine;
  };
  State result;
  for (const auto& [name, node] : state.names) {
    result.names[name] = copy(node);
  }
  for (const auto& [name, node] : state.durable_names) {
    result.durable_names[name] = copy(node);
  }
  for (const Change& change : state.changes) {
    result.changes.push_back({change.from, change.to, copy(change.node)});
  }
  return result;
}

void SimDisk::Stop() {
  const std::lock_guard lock(mutex_);
  if (!is_stopped_.exchange(true)) {
    frozen_ = Copy(state_);
  }
}

std::shared_ptr<SimDisk::Node> SimDisk::Find(const std::string& name) {
  const std::lock_guard lock(mutex_);
  const auto found = state_.names.find(name);
  return found == state_.names.end() ? nullptr : found->second;
}

void SimDisk::Apply(const Change& change, Names& names) {
  if (change.from.empty()) {
    names[change.to] = change.node;
  } else if (auto node = names.extract(change.from); !node.empty() && !change.to.empty()) {
    names[change.to] = node.mapped();
  }
}

IOStatus SimDisk::ApplyChange(Change change) {
  const std::lock_guard lock(mutex_);
  Apply(change, state_.names);
  state_.changes.push_back(std::move(change));
  return IOStatus::OK();
}

void SimDisk::Restart() {
  const std::lock_guard lock(mutex_);
  if (is_stopped_.exchange(false)) {
    state_ = std::exchange(frozen_, {});
  }
  stop_in_ = 0;
  fault_ = Fault::kNone;
}

void SimDisk::RestartAfterPowerCut(Rng& rng) {
  Restart();
  const std::lock_guard lock(mutex_);
  const size_t kept = rng.Below(state_.changes.size() + 1);
  for (size_t i = 0; i < kept; ++i) {
    Apply(state_.changes[i], state_.durable_names);
  }
  state_.changes.clear();
  for (auto& [name, node] : state_.durable_names) {
    const size_t unsynced = node->bytes.size() - node->synced;
    node->bytes.resize(node->synced + rng.Below(unsynced + 1));
    node->synced = node->bytes.size();
  }
  state_.names = state_.durable_names;
}

IOStatus SimDisk::Append(const std::string& name, Node& node, const Slice& bytes) {
  IOStatus status = BeforeWrite(name);
  if (status.ok()) {
    const std::lock_guard lock(mutex_);
    node.bytes.append(bytes.data(), bytes.size());
  }
  return status;
}

IOStatus SimDisk::Truncate(const std::string& name, Node& node, uint64_t size) {
  IOStatus status = BeforeWrite(name);
  if (status.ok()) {
    const std::lock_guard lock(mutex_);
    node.bytes.resize(size);
    node.synced = std::min<size_t>(node.synced, size);
  }
  return status;
}

IOStatus SimDisk::Sync(const std::string& name, Node& node) {
  IOStatus status = BeforeWrite(name);
  if (status.ok() && !lies_) {
    const std::lock_guard lock(mutex_);
    node.synced = node.bytes.size();
  }
  return status;
}

IOStatus SimDisk::SyncNames(const std::string& directory) {
  IOStatus status = BeforeWrite(directory);
  if (status.ok()) {
    const std::lock_guard lock(mutex_);
    synced_directories_.insert(directory);
    state_.durable_names = state_.names;
    state_.changes.clear();
  }
  return status;
}

IOStatus SimDisk::Read(const Node& node, uint64_t at, size_t n, Slice* result, char* to) {
  if (fault_ == Fault::kReads) {
    return IOStatus::IOError("injected read error");
  }
  const std::lock_guard lock(mutex_);
  const uint64_t end = std::min<uint64_t>(node.bytes.size(), at + n);
  const size_t size = at < end ? end - at : 0;
  if (size > 0) {
    std::memcpy(to, node.bytes.data() + at, size);
  }
  *result = Slice(to, size);
  return IOStatus::OK();
}

uint64_t SimDisk::SizeOf(const Node& node) {
  const std::lock_guard lock(mutex_);
  return node.bytes.size();
}

IOStatus SimDisk::NewSequentialFile(const std::string& name,
                                    const FileOptions&,
                                    std::unique_ptr<rocksdb::FSSequentialFile>* result,
                                    IODebugContext*) {
  NodePtr node = Find(name);
  if (node == nullptr) {
    return Absent(name);
  }
  *result = std::make_unique<SequentialFile>(*this, std::move(node));
  return IOStatus::OK();
}

IOStatus SimDisk::NewRandomAccessFile(const std::string& name,
                                      const FileOptions&,
                                      std::unique_ptr<rocksdb::FSRandomAccessFile>* result,
                                      IODebugContext*) {
  NodePtr node = Find(name);
  if (node == nullptr) {
    return Absent(name);
  }
  *result = std::make_unique<RandomAccessFile>(*this, std::move(node));
  return IOStatus::OK();
}

IOStatus SimDisk::NewWritableFile(const std::string& name,
                                  const FileOptions&,
                                  std::unique_ptr<rocksdb::FSWritableFile>* result,
                                  IODebugContext*) {
  IOStatus status = BeforeWrite(name);
  if (!status.ok()) {
    return status;
  }
  auto node = std::make_shared<Node>();
  *result = std::make_unique<WritableFile>(*this, name, node);
  return ApplyChange({"", name, std::move(node)});
}

IOStatus SimDisk::NewDirectory(const std::string& name,
                               const IOOptions&,
                               std::unique_ptr<rocksdb::FSDirectory>* result,
                               IODebugContext*) {
  *result = std::make_unique<Directory>(*this, name);
  return IOStatus::OK();
}

IOStatus SimDisk::FileExists(const std::string& name, const IOOptions&, IODebugContext*) {
  return Find(name) != nullptr ? IOStatus::OK() : IOStatus::NotFound(name);
}

IOStatus SimDisk::GetChildren(const std::string& directory,
                              const IOOptions&,
                              std::vector<std::string>* result,
                              IODebugContext*) {
  const std::string prefix = directory.ends_with('/') ? directory : directory + "/";
  const std::lock_guard lock(mutex_);
  for (auto at = state_.names.lower_bound(prefix);
       at != state_.names.end() && at->first.starts_with(prefix);
       ++at) {
    result->push_back(at->first.substr(prefix.size()));
  }
  return IOStatus::OK();
}

IOStatus SimDisk::DeleteFile(const std::string& name, const IOOptions&, IODebugContext*) {
  IOStatus status = BeforeWrite(name);
  if (status.ok() && Find(name) == nullptr) {
    return Absent(name);
  }
  return status.ok() ? ApplyChange({name, "", nullptr}) : status;
}

// One directory holds all; it is there.
IOStatus SimDisk::CreateDir(const std::string&, const IOOptions&, IODebugContext*) {
  return IOStatus::OK();
}
IOStatus SimDisk::CreateDirIfMissing(const std::string&, const IOOptions&, IODebugContext*) {
  return IOStatus::OK();
}
IOStatus SimDisk::DeleteDir(const std::string&, const IOOptions&, IODebugContext*) {
  return IOStatus::OK();
}
IOStatus SimDisk::IsDirectory(const std::string& path,
                              const IOOptions&,
                              bool* is_directory,
                              IODebugContext*) {
  *is_directory = Find(path) == nullptr;
  return IOStatus::OK();
}

IOStatus SimDisk::GetFileSize(const std::string& name,
                              const IOOptions&,
                              uint64_t* size,
                              IODebugContext*) {
  const NodePtr node = Find(name);
  *size = node == nullptr ? 0 : SizeOf(*node);
  return node == nullptr ? Absent(name) : IOStatus::OK();
}

IOStatus SimDisk::GetFileModificationTime(const std::string&,
                                          const IOOptions&,
                                          uint64_t* time,
                                          IODebugContext*) {
  *time = 0;
  return IOStatus::OK();
}

IOStatus SimDisk::RenameFile(const std::string& from,
                             const std::string& to,
                             const IOOptions&,
                             IODebugContext*) {
  IOStatus status = BeforeWrite(to);
  return status.ok() ? ApplyChange({from, to, nullptr}) : status;
}

// The directory's own LOCK is the operating system's.
IOStatus SimDisk::LockFile(const std::string&,
                           const IOOptions&,
                           rocksdb::FileLock** lock,
                           IODebugContext*) {
  *lock = new rocksdb::FileLock();
  return IOStatus::OK();
}
IOStatus SimDisk::UnlockFile(rocksdb::FileLock* lock, const IOOptions&, IODebugContext*) {
  delete lock;
  return IOStatus::OK();
}

IOStatus SimDisk::GetTestDirectory(const IOOptions&, std::string* path, IODebugContext*) {
  *path = "/sim";
  return IOStatus::OK();
}
IOStatus SimDisk::NewLogger(const std::string&,
                            const IOOptions&,
                            std::shared_ptr<rocksdb::Logger>* result,
                            IODebugContext*) {
  *result = std::make_shared<SilentLogger>();
  return IOStatus::OK();
}
IOStatus SimDisk::GetAbsolutePath(const std::string& path,
                                  const IOOptions&,
                                  std::string* absolute,
                                  IODebugContext*) {
  *absolute = path;
  return IOStatus::OK();
}

}  // namespace varve
