#include "tests/e2e/small_filesystem.h"

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include <sched.h>
#include <sys/mount.h>

#include "tests/e2e/subprocess.h"

namespace varve {
namespace {

// Once for the process. Empty, or why not.
std::string OwnNamespace() {
  static const std::string why_not = []() -> std::string {
    if (::unshare(CLONE_NEWNS) != 0) {
      return std::string("no mount namespace of its own: ") + std::strerror(errno);
    }
    if (::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) {
      return std::string("mounts cannot be made private: ") + std::strerror(errno);
    }
    return "";
  }();
  return why_not;
}

bool Tool(const std::vector<std::string>& arguments) {
  return std::filesystem::exists(arguments[0]) && Run(arguments).exit_code == 0;
}

}  // namespace

void SmallFilesystem::EnterOwnNamespace() {
  OwnNamespace();
}

SmallFilesystem::SmallFilesystem(Kind kind, int mib) {
  std::filesystem::create_directory(path());
  why_not_ = OwnNamespace();
  if (why_not_.empty()) {
    Mount(kind, mib);
  }
}

SmallFilesystem::~SmallFilesystem() {
  if (is_mounted()) {
    ::umount2(path().c_str(), MNT_DETACH);
  }
}

void SmallFilesystem::Mount(Kind kind, int mib) {
  if (kind == Kind::kTmpfs) {
    const std::string size = "size=" + std::to_string(mib) + "m";
    if (::mount("none", path().c_str(), "tmpfs", 0, size.c_str()) != 0) {
      why_not_ = std::string("a tmpfs cannot be mounted: ") + std::strerror(errno);
    }
    return;
  }
  if (!Tool({"/usr/bin/truncate", "-s", std::to_string(mib) + "M", files_.File("image")}) ||
      !Tool({"/usr/sbin/mkfs.ext4", "-q", "-F", files_.File("image")})) {
    why_not_ = "no ext4 image can be made here";
  } else if (!MountExt4()) {
    why_not_ = "no ext4 image can be mounted here";
  }
}

bool SmallFilesystem::MountExt4() {
  return Tool({"/usr/bin/mount", "-o", "loop", files_.File("image"), path()});
}

bool SmallFilesystem::Resize(int mib) {
  const std::string size = "size=" + std::to_string(mib) + "m";
  return ::mount("none", path().c_str(), "tmpfs", MS_REMOUNT, size.c_str()) == 0;
}

bool SmallFilesystem::TurnReadOnly() {
  return Tool({"/usr/bin/mount", "-o", "remount,abort", path()});
}

bool SmallFilesystem::Remount() {
  return ::umount2(path().c_str(), 0) == 0 && MountExt4();
}

}  // namespace varve
