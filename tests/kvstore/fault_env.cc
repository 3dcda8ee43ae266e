#include "tests/kvstore/fault_env.h"

#include <csignal>
#include <filesystem>
#include <string_view>

#include <pthread.h>

namespace varve {
namespace {

FaultFileSystem::FileKind KindOf(const std::string& name) {
  if (name.ends_with(".blob")) {
    return FaultFileSystem::FileKind::kBlob;
  }
  if (name.ends_with(".sst")) {
    return FaultFileSystem::FileKind::kTable;
  }
  return name.ends_with(".log") ? FaultFileSystem::FileKind::kLog
                                : FaultFileSystem::FileKind::kOther;
}

class WritableFile final : public rocksdb::FSWritableFileOwnerWrapper {
 public:
  WritableFile(std::unique_ptr<rocksdb::FSWritableFile> file,
               std::string name,
               FaultFileSystem& files)
      : FSWritableFileOwnerWrapper(std::move(file)), name_(std::move(name)), files_(files) {}

  rocksdb::IOStatus Append(const rocksdb::Slice& data,
                           const rocksdb::IOOptions& options,
                           rocksdb::IODebugContext* debug) override {
    if (files_.Pretends()) {
      return rocksdb::IOStatus::OK();
    }
    rocksdb::IOStatus status = files_.BeforeWrite(true);
    if (status.ok()) {
      status = FSWritableFileOwnerWrapper::Append(data, options, debug);
    }
    if (status.ok()) {
      files_.NoteAppend(name_, data.size());
    }
    return status;
  }
  rocksdb::IOStatus Append(const rocksdb::Slice& data,
                           const rocksdb::IOOptions& options,
                           const rocksdb::DataVerificationInfo&,
                           rocksdb::IODebugContext* debug) override {
    return Append(data, options, debug);
  }
  rocksdb::IOStatus Sync(const rocksdb::IOOptions& options,
                         rocksdb::IODebugContext* debug) override {
    if (files_.Pretends()) {
      return rocksdb::IOStatus::OK();
    }
    rocksdb::IOStatus status = files_.BeforeWrite();
    if (status.ok()) {
      status = FSWritableFileOwnerWrapper::Sync(options, debug);
    }
    if (status.ok()) {
      files_.NoteSync(name_);
    }
    return status;
  }
  rocksdb::IOStatus Fsync(const rocksdb::IOOptions& options,
                          rocksdb::IODebugContext* debug) override {
    return Sync(options, debug);
  }

 private:
  const std::string name_;
  FaultFileSystem& files_;
};

class RandomAccessFile final : public rocksdb::FSRandomAccessFileOwnerWrapper {
 public:
  RandomAccessFile(std::unique_ptr<rocksdb::FSRandomAccessFile> file, const FaultFileSystem& files)
      : FSRandomAccessFileOwnerWrapper(std::move(file)), files_(files) {}

  rocksdb::IOStatus Read(uint64_t offset,
                         size_t n,
                         const rocksdb::IOOptions& options,
                         rocksdb::Slice* result,
                         char* scratch,
                         rocksdb::IODebugContext* debug) const override {
    rocksdb::IOStatus status = files_.BeforeRead();
    return status.ok()
               ? FSRandomAccessFileOwnerWrapper::Read(offset, n, options, result, scratch, debug)
               : status;
  }
  rocksdb::IOStatus MultiRead(rocksdb::FSReadRequest* requests,
                              size_t count,
                              const rocksdb::IOOptions& options,
                              rocksdb::IODebugContext* debug) override {
    rocksdb::IOStatus status = files_.BeforeRead();
    return status.ok() ? FSRandomAccessFileOwnerWrapper::MultiRead(requests, count, options, debug)
                       : status;
  }

 private:
  const FaultFileSystem& files_;
};

}  // namespace

FaultFileSystem::FaultFileSystem() : FileSystemWrapper(rocksdb::FileSystem::Default()) {}

uint64_t FaultFileSystem::BytesAppended() const {
  uint64_t sum = 0;
  for (const auto& bytes : appended_) {
    sum += bytes;
  }
  return sum;
}

bool FaultFileSystem::Pretends() const {
  char thread[16] = {};  // as many as Linux has for a name
  ::pthread_getname_np(::pthread_self(), thread, sizeof(thread));
  return power_cut_ && std::string_view(thread) == "rocksdb:low";
}

rocksdb::IOStatus FaultFileSystem::BeforeWrite(bool takes_space) {
  const int64_t operation = ++operations_;
  if (kill_in_ > 0 && --kill_in_ == 0) {
    ::raise(SIGKILL);
  }
  if (power_in_ > 0 && --power_in_ == 0) {
    power_cut_ = true;
  }
  if (power_cut_ && !Pretends()) {
    return rocksdb::IOStatus::IOError("the power is gone at operation " +
                                      std::to_string(operation));
  }
  if (fault_ == Fault::kNoSpace && takes_space) {
    return rocksdb::IOStatus::NoSpace("no space left on device");
  }
  return fault_ == Fault::kWriteError ? rocksdb::IOStatus::IOError("injected write error")
                                      : rocksdb::IOStatus::OK();
}

rocksdb::IOStatus FaultFileSystem::BeforeRead() const {
  return fault_ == Fault::kReadError ? rocksdb::IOStatus::IOError("injected read error")
                                     : rocksdb::IOStatus::OK();
}

void FaultFileSystem::NoteAppend(const std::string& name, uint64_t bytes) {
  appended_[static_cast<size_t>(KindOf(name))] += bytes;
  const std::lock_guard lock(mutex_);
  files_[name].written += bytes;
}

void FaultFileSystem::NoteSync(const std::string& name) {
  const std::lock_guard lock(mutex_);
  files_[name].synced = files_[name].written;
}

void FaultFileSystem::LoseUnsynced() {
  const std::lock_guard lock(mutex_);
  for (const auto& [name, sizes] : files_) {
    std::error_code ignored;
    if (std::filesystem::exists(name, ignored) && sizes.synced < sizes.written) {
      std::filesystem::resize_file(name, sizes.synced, ignored);
    }
  }
}

rocksdb::IOStatus FaultFileSystem::NewWritableFile(const std::string& name,
                                                   const rocksdb::FileOptions& options,
                                                   std::unique_ptr<rocksdb::FSWritableFile>* result,
                                                   rocksdb::IODebugContext* debug) {
  rocksdb::IOStatus status = BeforeWrite();
  if (status.ok()) {
    status = FileSystemWrapper::NewWritableFile(name, options, result, debug);
  }
  if (status.ok()) {
    const std::lock_guard lock(mutex_);
    files_[name] = Sizes{};
    *result = std::make_unique<WritableFile>(std::move(*result), name, *this);
  }
  return status;
}

rocksdb::IOStatus FaultFileSystem::ReuseWritableFile(
    const std::string& name,
    const std::string&,
    const rocksdb::FileOptions& options,
    std::unique_ptr<rocksdb::FSWritableFile>* result,
    rocksdb::IODebugContext* debug) {
  return NewWritableFile(name, options, result, debug);
}

rocksdb::IOStatus FaultFileSystem::NewRandomAccessFile(
    const std::string& name,
    const rocksdb::FileOptions& options,
    std::unique_ptr<rocksdb::FSRandomAccessFile>* result,
    rocksdb::IODebugContext* debug) {
  rocksdb::IOStatus status = FileSystemWrapper::NewRandomAccessFile(name, options, result, debug);
  if (status.ok()) {
    *result = std::make_unique<RandomAccessFile>(std::move(*result), *this);
  }
  return status;
}

rocksdb::IOStatus FaultFileSystem::RenameFile(const std::string& from,
                                              const std::string& to,
                                              const rocksdb::IOOptions& options,
                                              rocksdb::IODebugContext* debug) {
  if (Pretends()) {
    return rocksdb::IOStatus::OK();
  }
  rocksdb::IOStatus status = BeforeWrite();
  if (status.ok()) {
    status = FileSystemWrapper::RenameFile(from, to, options, debug);
  }
  if (status.ok()) {
    const std::lock_guard lock(mutex_);
    if (auto node = files_.extract(from); !node.empty()) {
      files_[to] = node.mapped();
    }
  }
  return status;
}

rocksdb::IOStatus FaultFileSystem::DeleteFile(const std::string& name,
                                              const rocksdb::IOOptions& options,
                                              rocksdb::IODebugContext* debug) {
  if (Pretends()) {
    return rocksdb::IOStatus::OK();
  }
  rocksdb::IOStatus status = BeforeWrite();
  if (status.ok()) {
    status = FileSystemWrapper::DeleteFile(name, options, debug);
  }
  return status;
}

std::shared_ptr<rocksdb::Env> MakeEnv(const std::shared_ptr<FaultFileSystem>& files) {
  return rocksdb::NewCompositeEnv(files);
}

}  // namespace varve
