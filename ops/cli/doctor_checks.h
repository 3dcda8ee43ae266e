// What `varve doctor` looks at: each check says what it found and whether that is good enough to
// serve.
#pragma once

#include <string>
#include <vector>

namespace varve::cli {

enum class CheckLevel { kOk, kWarn, kFail };

struct Check {
  std::string name;
  CheckLevel level = CheckLevel::kOk;
  std::string detail;
};

Check CheckCpu();
Check CheckMemory();
Check CheckGpu();
Check CheckOpenFiles();
// Writable, with room, and not in use by another process. Nothing is left behind in it; it is not
// created.
Check CheckDataDir(const std::string& path);
// Configuration, tokenizer and weights are there and are understood: one check each.
std::vector<Check> CheckModel(const std::string& model_dir);

}  // namespace varve::cli
