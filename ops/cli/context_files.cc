#include "ops/cli/context_files.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <optional>

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kvstore/context_file.h"
#include "proto/base/clock.h"
#include "proto/base/units.h"

#include "ops/cli/interrupt.h"
#include "ops/cli/progress.h"

namespace varve::cli {
namespace {

constexpr size_t kPartBytes = size_t{8} << 20;

struct CloseFile {
  void operator()(std::FILE* file) const { std::fclose(file); }
};
using File = std::unique_ptr<std::FILE, CloseFile>;

Error FileError(const std::string& path, std::string_view what) {
  return Error{ErrorCode::kIoError,
               fmt::format("cannot {} {}: {}", what, path, std::strerror(errno))};
}

// Redraws one line on a terminal; writes nothing elsewhere.
class ByteLine {
 public:
  // total_bytes 0: not known.
  ByteLine(std::string name, uint64_t total_bytes, bool quiet)
      : name_(std::move(name)),
        total_bytes_(total_bytes),
        shown_(!quiet && ::isatty(STDERR_FILENO) != 0),
        start_us_(SystemClock().NowUs()) {}
  ~ByteLine() {
    if (shown_) {
      fmt::print(stderr, "\n");
    }
  }

  void Update(uint64_t bytes) {
    const int64_t now_us = SystemClock().NowUs();
    if (!shown_ || now_us < next_us_) {
      return;
    }
    next_us_ = now_us + 200'000;
    const double seconds = static_cast<double>(now_us - start_us_) * 1e-6;
    const double rate = seconds > 0 ? static_cast<double>(bytes) / seconds : 0;
    std::string line = fmt::format(
        "{} {}  {}/s", name_, FormatBytes(bytes), FormatBytes(static_cast<uint64_t>(rate)));
    if (total_bytes_ > 0) {
      const double share = static_cast<double>(bytes) / static_cast<double>(total_bytes_);
      const auto filled = static_cast<size_t>(share * 24);
      line = fmt::format("{} [{:-<24}] {:3.0f} %  {}/s",
                         name_,
                         std::string(filled, '#'),
                         100 * share,
                         FormatBytes(static_cast<uint64_t>(rate)));
    }
    fmt::print(stderr, "\r{}\x1b[K", line);
  }

 private:
  const std::string name_;
  const uint64_t total_bytes_;
  const bool shown_;
  const int64_t start_us_;
  int64_t next_us_ = 0;
};

// The name in the file's manifest, which its first bytes hold.
Result<std::string> NameInFile(std::string_view begin) {
  std::optional<std::string> name;
  ContextFileReader reader([&](FileBlock kind, std::string_view payload) -> Result<void> {
    if (kind == FileBlock::kManifest && !name) {
      VARVE_TRY(const ContextManifest manifest, ParseManifestPayload(payload));
      name = manifest.name;
    }
    return {};
  });
  if (const Result<void> read = reader.Read(begin); !read && !name) {
    return read.error();
  }
  return name ? Result<std::string>(*name)
              : Result<std::string>(
                    Error{ErrorCode::kInvalidArgument, "the file is too short for a context"});
}

}  // namespace

Result<uint64_t> ExportToFile(const ApiClient& client,
                              const std::string& name,
                              const std::string& path,
                              bool quiet) {
  const bool to_stdout = path == "-";
  const std::string partial = path + ".partial";
  File opened(to_stdout ? nullptr : std::fopen(partial.c_str(), "wb"));
  if (!to_stdout && opened == nullptr) {
    return FileError(partial, "write");
  }
  std::FILE* const out = to_stdout ? stdout : opened.get();
  // The whole file is checked on its way: what is kept can be imported.
  ContextFileReader check([](FileBlock, std::string_view) { return Result<void>(); });
  std::optional<Error> failure;
  uint64_t bytes = 0;
  ByteLine line(name, 0, quiet);
  const Result<void> exported = client.ExportContext(name, [&](std::string_view piece) {
    if (std::fwrite(piece.data(), 1, piece.size(), out) != piece.size()) {
      failure = FileError(path, "write");
    } else if (const Result<void> good = check.Read(piece); !good) {
      failure = good.error();
    }
    bytes += piece.size();
    line.Update(bytes);
    return !failure;
  });
  if (exported && !failure && !check.at_end()) {
    failure = Error{ErrorCode::kUnavailable, "the file ended early: did the server stop?"};
  }
  if (exported && !failure &&
      (std::fflush(out) != 0 ||
       (!to_stdout &&
        (::fsync(::fileno(out)) != 0 || std::rename(partial.c_str(), path.c_str()) != 0)))) {
    failure = FileError(path, "write");
  }
  if (!exported || failure) {
    if (!to_stdout) {
      std::remove(partial.c_str());
    }
    return exported ? *failure : exported.error();
  }
  return bytes;
}

Result<ContextInfo> ImportFromFile(const ApiClient& client,
                                   const std::string& path,
                                   const std::string& name,
                                   bool quiet) {
  const bool from_stdin = path == "-";
  const File opened(from_stdin ? nullptr : std::fopen(path.c_str(), "rb"));
  if (!from_stdin && opened == nullptr) {
    return FileError(path, "read");
  }
  std::FILE* const in = from_stdin ? stdin : opened.get();
  struct stat status {};
  const bool sized = ::fstat(::fileno(in), &status) == 0 && S_ISREG(status.st_mode);
  const auto read_part = [&](std::string& part) -> Result<void> {
    part.resize(kPartBytes);
    part.resize(std::fread(part.data(), 1, part.size(), in));
    return std::ferror(in) != 0 ? Result<void>(FileError(path, "read")) : Result<void>();
  };
  std::string part;
  VARVE_RETURN_IF_ERROR(read_part(part));
  std::string as = name;
  if (as.empty()) {
    VARVE_TRY(as, NameInFile(part));
  }
  ByteLine line(as, sized ? static_cast<uint64_t>(status.st_size) : 0, quiet);
  for (uint64_t offset = 0;;) {
    std::string next;
    VARVE_RETURN_IF_ERROR(read_part(next));
    if (Interrupted()) {
      return Error{ErrorCode::kCancelled, "interrupted"};
    }
    VARVE_TRY(const std::optional<ContextInfo> context,
              client.ImportPart(as, offset, next.empty(), part));
    if (context) {
      return *context;
    }
    offset += part.size();
    line.Update(offset);
    part = std::move(next);
  }
}

}  // namespace varve::cli
