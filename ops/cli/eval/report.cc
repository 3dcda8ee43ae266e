#include "ops/cli/eval/report.h"

#include <cstdlib>
#include <filesystem>

#include <fmt/format.h>
#include <sys/wait.h>

#include "proto/base/file.h"

#include "ops/cli/eval/embedded.h"
#include "ops/cli/eval/notes.h"
#include "ops/cli/temporary_directory.h"

namespace varve::cli {
namespace {

constexpr int kNoMatplotlib = 3;  // exit code of ops/eval/plot.py
constexpr int kNoSuchProgram = 127;

// For a shell: in single quotes, and each of these as '\''.
std::string Quote(const std::string& text) {
  std::string quoted = "'";
  for (const char c : text) {
    quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
  }
  return quoted + "'";
}

// Runs the script with this Python. Returns its exit code.
int Draw(const std::string& python, const std::string& script, const std::string& directory) {
  const std::string command =
      fmt::format("{} {} {} >/dev/null 2>&1", python, Quote(script), Quote(directory));
  const int status = std::system(command.c_str());
  return WIFEXITED(status) ? WEXITSTATUS(status) : kNoSuchProgram;
}

}  // namespace

Result<void> CheckWritable(const std::string& file) {
  std::error_code failure;
  if (std::filesystem::is_directory(file, failure)) {
    return Error{ErrorCode::kIoError, fmt::format("'{}' is a directory", file)};
  }
  const std::string probe = file + ".probe";
  VARVE_RETURN_IF_ERROR(WriteFileAtomically(probe, ""));
  std::filesystem::remove(probe, failure);
  return {};
}

Result<void> PrepareReport(const std::string& directory) {
  VARVE_RETURN_IF_ERROR(MakeDirectories(directory));
  return CheckWritable(directory + "/results.json");
}

Result<std::string> WriteReport(const std::string& directory, const std::vector<EvalRow>& rows) {
  VARVE_RETURN_IF_ERROR(WriteFileAtomically(directory + "/results.json", FormatJson(rows)));
  std::string table = FormatMarkdown(rows);
  for (const std::string& note : NotesOn(rows)) {
    table += fmt::format("\n{}\n", note);
  }
  VARVE_RETURN_IF_ERROR(WriteFileAtomically(directory + "/table.md", table));
  VARVE_TRY(const TemporaryDirectory scratch, TemporaryDirectory::Make());
  const std::string script = scratch.path() + "/plot.py";
  VARVE_RETURN_IF_ERROR(WriteFileAtomically(script, EmbeddedPlotScript()));
  int status = kNoSuchProgram;
  // Debian's matplotlib belongs to Debian's Python, which need not be the first one.
  for (const char* python : {"python3", "/usr/bin/python3"}) {
    status = Draw(python, script, directory);
    if (status != kNoMatplotlib && status != kNoSuchProgram) {
      break;
    }
  }
  const std::string written = fmt::format("wrote results.json and table.md to {}", directory);
  if (status == 0) {
    return written + ", and plots (PNG, SVG)";
  }
  if (status == kNoMatplotlib || status == kNoSuchProgram) {
    return written + "; no plots: install python3-matplotlib (`ops/packages eval`)";
  }
  return fmt::format("{}; no plots: the plot script failed with exit code {}", written, status);
}

}  // namespace varve::cli
