// A real, small filesystem for a test, in a mount namespace of the test's own: it is gone when the
// test's process ends, however that ends. Where mounting is not permitted, or its tools are
// missing, it says why, for the test to skip itself.
#pragma once

#include <memory>
#include <string>

#include "tests/support/temp_dir.h"

namespace varve {

class SmallFilesystem {
 public:
  enum class Kind { kTmpfs, kExt4 };

  // Gives the process mounts of its own. REQUIRES: it has no threads yet: they would keep the old
  // ones.
  static void EnterOwnNamespace();

  SmallFilesystem(Kind kind, int mib);
  ~SmallFilesystem();
  SmallFilesystem(const SmallFilesystem&) = delete;
  SmallFilesystem& operator=(const SmallFilesystem&) = delete;

  bool is_mounted() const { return why_not_.empty(); }
  const std::string& why_not() const { return why_not_; }
  std::string path() const { return files_.File("mounted"); }

  bool Resize(int mib);  // tmpfs
  // As after an error of the device: with files open for writing, and for good (ext4).
  bool TurnReadOnly();
  // Unmounts it and mounts it anew. REQUIRES: nothing in it is open.
  bool Remount();

 private:
  void Mount(Kind kind, int mib);
  bool MountExt4();

  TempDir files_;
  std::string why_not_;
};

}  // namespace varve
