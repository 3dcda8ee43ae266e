#include "ops/cli/doctor_checks.h"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <optional>

#include <fmt/format.h>
#include <sys/resource.h>
#include <unistd.h>

#include "coordinator/text_model.h"
#include "proto/base/clock.h"
#include "proto/base/file.h"
#include "proto/base/units.h"
#include "worker/model_config.h"

#include "ops/cli/local_server.h"

namespace varve::cli {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kLittleMemory = 2 * kGiB;
constexpr uint64_t kLittleDisk = 10 * kGiB;
constexpr uint64_t kFewOpenFiles =
    1024;  // RocksDB keeps its table files open, and each client takes one

std::string SimdLevel() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") != 0 && __builtin_cpu_supports("avx512bw") != 0) {
    return __builtin_cpu_supports("avx512bf16") != 0 ? "AVX-512 with bf16" : "AVX-512";
  }
  if (__builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0) {
    return "AVX2";
  }
  return "SSE2";
#elif defined(__aarch64__)
  return "NEON";
#else
  return "none known";
#endif
}

// The number behind `key` in a file such as /proc/meminfo, times 1024.
std::optional<uint64_t> ReadKib(const std::string& text, std::string_view key) {
  const size_t at = text.find(key);
  if (at == std::string::npos) {
    return std::nullopt;
  }
  const size_t digit = text.find_first_of("0123456789", at + key.size());
  uint64_t kib = 0;
  if (digit == std::string::npos ||
      std::from_chars(text.data() + digit, text.data() + text.size(), kib).ec != std::errc()) {
    return std::nullopt;
  }
  return kib * kKiB;
}

// The memory limit of the control group, if there is one.
std::optional<uint64_t> ControlGroupLimit() {
  const auto text = ReadFile("/sys/fs/cgroup/memory.max");
  uint64_t bytes = 0;
  if (!text ||
      std::from_chars(text->data(), text->data() + text->size(), bytes).ec != std::errc()) {
    return std::nullopt;
  }
  return bytes;
}

Check Failed(std::string name, const Error& error) {
  return {std::move(name), CheckLevel::kFail, error.message};
}

bool HasSuffix(const std::string& name, std::string_view suffix) {
  return name.size() >= suffix.size() &&
         name.compare(name.size() - suffix.size(), suffix.size(), suffix) == 0;
}

// Tokenizer and chat template.
std::vector<Check> CheckText(const std::string& model_dir) {
  const auto text_model = LoadTextModel(model_dir, &SystemClock());
  if (!text_model) {
    return {Failed("model tokenizer", text_model.error())};
  }
  std::vector<Check> checks = {
      {"model tokenizer", CheckLevel::kOk, fmt::format("{} entries", (*text_model)->vocab_size())}};
  const auto chat = (*text_model)->RenderChat({{.role = "user", .content = "?"}}, false);
  checks.push_back(
      chat
          ? Check{"chat template", CheckLevel::kOk, "renders a conversation"}
          : Check{"chat template", CheckLevel::kWarn, chat.error().message + " Completions work."});
  return checks;
}

Check CheckWeights(const std::string& model_dir) {
  uint64_t bytes = 0;
  int files = 0;
  std::error_code failure;
  for (const auto& entry : fs::directory_iterator(model_dir, failure)) {
    if (HasSuffix(entry.path().filename().string(), ".safetensors")) {
      std::error_code ignored;
      bytes += fs::file_size(entry.path(), ignored);
      ++files;
    }
  }
  if (files == 0) {
    return {"model weights",
            CheckLevel::kFail,
            fmt::format("there is no .safetensors file in {}", model_dir)};
  }
  return {"model weights",
          CheckLevel::kOk,
          fmt::format("{} in {} file{}, mapped from disk when served",
                      FormatBytes(bytes),
                      files,
                      files == 1 ? "" : "s")};
}

}  // namespace

Check CheckCpu() {
  const std::string simd = SimdLevel();
  const bool slow = simd == "SSE2" || simd == "none known";
  return {"cpu",
          slow ? CheckLevel::kWarn : CheckLevel::kOk,
          fmt::format("{} cores, SIMD: {}{}",
                      NumUsableCores(),
                      simd,
                      slow ? " (AVX2 is several times faster)" : "")};
}

Check CheckMemory() {
  const auto text = ReadFile("/proc/meminfo");
  const auto total = text ? ReadKib(*text, "MemTotal:") : std::nullopt;
  auto available = text ? ReadKib(*text, "MemAvailable:") : std::nullopt;
  if (!total || !available) {
    return {"memory", CheckLevel::kWarn, "/proc/meminfo cannot be read"};
  }
  std::string detail =
      fmt::format("{} available of {}", FormatBytes(*available), FormatBytes(*total));
  if (const auto limit = ControlGroupLimit(); limit && *limit < *total) {
    detail += fmt::format(", limited to {} by the control group", FormatBytes(*limit));
    available = std::min(*available, *limit);
  }
  const bool little = *available < kLittleMemory;
  return {"memory",
          little ? CheckLevel::kWarn : CheckLevel::kOk,
          little ? detail + "; give `varve serve` a small --host-budget" : detail};
}

Check CheckGpu() {
  if (!FileExists("/proc/driver/nvidia/version") && !FileExists("/dev/nvidiactl")) {
    return {"gpu", CheckLevel::kOk, "none found; the CPU backend is complete"};
  }
  return {"gpu", CheckLevel::kOk, "an NVIDIA driver is here; this build computes on the CPU"};
}

Check CheckOpenFiles() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) {
    return {"open files", CheckLevel::kWarn, "the limit cannot be read"};
  }
  const bool few = limit.rlim_cur < kFewOpenFiles;
  return {"open files",
          few ? CheckLevel::kWarn : CheckLevel::kOk,
          fmt::format("at most {}{}",
                      limit.rlim_cur,
                      few ? fmt::format("; raise it with `ulimit -n {}`", kFewOpenFiles) : "")};
}

Check CheckDataDir(const std::string& path) {
  // The nearest directory that exists is where the rest would be made.
  fs::path existing = fs::absolute(path);
  std::error_code failure;
  while (!fs::exists(existing, failure) && existing.has_relative_path()) {
    existing = existing.parent_path();
  }
  if (!fs::is_directory(existing, failure)) {
    return {"data", CheckLevel::kFail, fmt::format("{} is not a directory", existing.string())};
  }
  if (::access(existing.c_str(), W_OK | X_OK) != 0) {
    return {"data",
            CheckLevel::kFail,
            fmt::format("{} is not writable for this user", existing.string())};
  }
  const std::string lock_file = (fs::path(path) / "LOCK").string();
  if (FileExists(lock_file)) {
    if (const auto lock = FileLock::Acquire(lock_file); !lock) {
      return {"data", CheckLevel::kWarn, lock.error().message};
    }
  }
  const fs::space_info space = fs::space(existing, failure);
  const bool little = !failure && space.available < kLittleDisk;
  return {"data",
          little ? CheckLevel::kWarn : CheckLevel::kOk,
          fmt::format("{}: writable, {} free{}",
                      path,
                      FormatBytes(failure ? 0 : space.available),
                      existing == fs::absolute(path) ? "" : ", made when first served")};
}

std::vector<Check> CheckModel(const std::string& model_dir) {
  std::error_code failure;
  if (!fs::is_directory(model_dir, failure)) {
    return {{"model", CheckLevel::kFail, fmt::format("{} is not a directory", model_dir)}};
  }
  std::vector<Check> checks;
  const auto text = ReadFile((fs::path(model_dir) / "config.json").string());
  if (!text) {
    checks.push_back(Failed("model config", text.error()));
  } else if (const auto config = ParseModelConfig(*text); !config) {
    checks.push_back(Failed("model config", config.error()));
  } else {
    checks.push_back({"model config",
                      CheckLevel::kOk,
                      fmt::format("{}, {} layers, {} kv heads of {}, up to {} tokens",
                                  config->architecture,
                                  config->num_layers,
                                  config->num_kv_heads,
                                  config->head_dim,
                                  config->max_positions)});
  }
  const std::vector<Check> of_text = CheckText(model_dir);
  checks.insert(checks.end(), of_text.begin(), of_text.end());
  checks.push_back(CheckWeights(model_dir));
  return checks;
}

}  // namespace varve::cli
