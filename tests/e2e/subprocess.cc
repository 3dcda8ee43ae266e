#include "tests/e2e/subprocess.h"

#include <chrono>
#include <csignal>
#include <cstring>
#include <thread>

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "proto/base/check.h"
#include "proto/base/file.h"

extern char** environ;

namespace varve {
namespace {

std::vector<std::string> EnvironmentFor(const RunOptions& options) {
  std::vector<std::string> entries;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    if (std::strncmp(*entry, "VARVE_", 6) != 0) {
      entries.emplace_back(*entry);
    }
  }
  for (const auto& [name, value] : options.environment) {
    entries.push_back(name + "=" + value);
  }
  return entries;
}

std::vector<char*> Pointers(std::vector<std::string>& strings) {
  std::vector<char*> pointers;
  for (std::string& text : strings) {
    pointers.push_back(text.data());
  }
  pointers.push_back(nullptr);
  return pointers;
}

void Redirect(const std::string& file, int flags, int target) {
  const int fd = ::open(file.c_str(), flags, 0600);
  if (fd < 0 || ::dup2(fd, target) < 0) {
    ::_exit(126);
  }
}

std::string ReadAll(const std::string& file) {
  const auto text = ReadFile(file);
  return text ? *text : "";
}

}  // namespace

std::string VarveBinary() {
  return VARVE_BINARY_DIR "/ops/cli/varve";
}

ChildProcess::ChildProcess(const std::vector<std::string>& arguments, const RunOptions& options) {
  VARVE_CHECK(WriteFileAtomically(files_.File("in"), options.input).has_value());
  std::vector<std::string> argument_copy = arguments;
  std::vector<std::string> environment = EnvironmentFor(options);
  const std::vector<char*> argv = Pointers(argument_copy);
  const std::vector<char*> envp = Pointers(environment);
  const std::string in = files_.File("in");
  const std::string out = files_.File("out");
  const std::string err = files_.File("err");
  pid_ = ::fork();
  VARVE_CHECK(pid_ >= 0);
  if (pid_ == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    Redirect(in, O_RDONLY, STDIN_FILENO);
    Redirect(out, O_WRONLY | O_CREAT | O_TRUNC, STDOUT_FILENO);
    Redirect(err, O_WRONLY | O_CREAT | O_TRUNC, STDERR_FILENO);
    ::execve(argv[0], argv.data(), envp.data());
    ::_exit(127);
  }
}

ChildProcess::~ChildProcess() {
  if (Running()) {
    Signal(SIGKILL);
    Wait(60);
  }
}

void ChildProcess::Signal(int signal) const {
  VARVE_CHECK(::kill(pid_, signal) == 0);
}

int ChildProcess::Wait(int timeout_s) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(timeout_s);
  while (exit_code_ < 0) {
    int status = 0;
    if (::waitpid(pid_, &status, WNOHANG) == pid_) {
      exit_code_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    } else if (std::chrono::steady_clock::now() >= deadline) {
      return -1;
    } else {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
  }
  return exit_code_;
}

std::string ChildProcess::Out() const {
  return ReadAll(files_.File("out"));
}
std::string ChildProcess::Err() const {
  return ReadAll(files_.File("err"));
}

RunResult Run(const std::vector<std::string>& arguments, const RunOptions& options) {
  ChildProcess child(arguments, options);
  const int code = child.Wait(options.timeout_s);
  return {code, child.Out(), child.Err()};
}

RunResult RunVarve(std::vector<std::string> arguments, const RunOptions& options) {
  arguments.insert(arguments.begin(), VarveBinary());
  return Run(arguments, options);
}

}  // namespace varve
