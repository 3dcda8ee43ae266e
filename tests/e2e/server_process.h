// A real `varve serve` in a process of its own, for the end-to-end tests, and the model that it
// serves.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "tests/e2e/subprocess.h"

#include "ops/cli/api_client.h"
#include "ops/cli/http_client.h"

namespace varve {

// The bundled model; VARVE_E2E_MODEL names another.
std::string TestModelDir();

class ServerProcess {
 public:
  // Starts it on a free port and waits until it serves. `flags` are added to the command line.
  // Aborts if it does not start.
  explicit ServerProcess(const std::string& data_dir,
                         const std::vector<std::string>& flags = {},
                         const std::string& model_dir = TestModelDir());
  // The same with `environment` added to its own. Null if it ended before it served.
  static std::unique_ptr<ServerProcess> TryStart(
      const std::string& data_dir,
      const std::vector<std::string>& flags,
      const std::map<std::string, std::string>& environment);

  const std::string& url() const { return url_; }
  const cli::ApiClient& api() const { return *api_; }
  ChildProcess& process() const { return *process_; }
  // What a client may send besides. Errors: kUnavailable.
  Result<cli::HttpResponse> Send(const std::string& method,
                                 const std::string& target,
                                 const std::string& body = "") const;
  // SIGKILL, and waits until it is gone.
  void Kill();
  // SIGTERM, and waits. Returns the exit code.
  int Terminate();

  // varve_prefill_tokens_total{kind="document"}: tokens of contexts that were computed since this
  // process began.
  double DocumentTokensPrefilled() const;

 private:
  ServerProcess() = default;
  // Whether it serves.
  bool Start(const std::string& data_dir,
             const std::vector<std::string>& flags,
             const std::string& model_dir,
             const std::map<std::string, std::string>& environment);

  std::unique_ptr<ChildProcess> process_;
  std::string url_;
  std::unique_ptr<cli::ApiClient> api_;
};

// A text of prose with facts in it, the same for the same seed.
struct FactDocument {
  std::string text;
  std::string question;
  std::string answer;  // a substring of a right answer
};
FactDocument MakeFactDocument(uint64_t seed, int num_sentences);

}  // namespace varve
