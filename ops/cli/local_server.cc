#include "ops/cli/local_server.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <thread>

#include <fmt/format.h>
#include <sched.h>

#include "coordinator/coordinator.h"
#include "proto/base/file.h"
#include "worker/local_worker_group.h"

namespace varve::cli {
namespace {

constexpr int64_t kDrainGraceUs =
    30'000'000;  // Kubernetes kills 30 s after SIGTERM, if not told otherwise

class LocalServerImpl final : public LocalServer {
 public:
  LocalServerImpl(std::unique_ptr<LocalWorkerGroup> workers,
                  std::unique_ptr<Coordinator> coordinator,
                  std::string url,
                  int64_t num_contexts)
      : workers_(std::move(workers)),
        coordinator_(std::move(coordinator)),
        url_(std::move(url)),
        num_contexts_(num_contexts) {}
  ~LocalServerImpl() override { coordinator_->Stop(); }

  const std::string& url() const override { return url_; }
  const std::string& model_name() const override { return workers_->model().name; }
  int64_t num_contexts_recovered() const override { return num_contexts_; }
  void Drain() override { coordinator_->Drain(kDrainGraceUs); }

 private:
  std::unique_ptr<LocalWorkerGroup> workers_;
  std::unique_ptr<Coordinator> coordinator_;  // declared after, so destroyed before, what it steps
  std::string url_;
  int64_t num_contexts_;
};

// The address to connect to: a wildcard is reached through the loopback address.
std::string UrlOf(const std::string& host, uint16_t port) {
  const std::string reachable = host == "0.0.0.0" ? "127.0.0.1" : (host == "::" ? "::1" : host);
  const bool is_v6 = reachable.find(':') != std::string::npos;
  return fmt::format("http://{}{}{}:{}", is_v6 ? "[" : "", reachable, is_v6 ? "]" : "", port);
}

CoordinatorOptions CoordinatorOptionsOf(const LocalServerOptions& options) {
  CoordinatorOptions result;
  result.model_dir = options.model_dir;
  result.http.host = options.host;
  result.http.port = static_cast<uint16_t>(options.port);
  result.engine.scheduler.max_running = static_cast<int>(options.max_running);
  result.engine.scheduler.max_chunk_tokens = options.max_step_tokens;
  result.engine.max_queue = static_cast<size_t>(options.max_queue);
  result.engine.commit_tokens = options.commit_tokens;
  return result;
}

}  // namespace

Result<std::unique_ptr<LocalServer>> LocalServer::Start(const LocalServerOptions& options) {
  if (!FileExists(options.model_dir)) {
    return Error{
        ErrorCode::kBadModel,
        fmt::format(
            "there is no model directory {}; it holds config.json, safetensors and a tokenizer",
            options.model_dir)};
  }
  VARVE_RETURN_IF_ERROR(MakeDirectories(options.data_dir));
  CoordinatorOptions limits = CoordinatorOptionsOf(options);
  LocalWorkerGroupOptions group;
  group.model_dir = options.model_dir;
  group.weights = options.weights;
  group.tables_file = options.tables_file;
  group.num_workers = options.num_workers;
  group.num_threads = options.num_threads > 0 ? options.num_threads : NumUsableCores();
  group.data_dir = options.data_dir;
  group.host_budget_bytes = options.host_budget_bytes;
  group.device_budget_bytes = options.device_budget_bytes;
  group.disk_budget_bytes = options.disk_budget_bytes;
  group.max_step_tokens = options.max_step_tokens;
  group.quality_share = options.quality_share;
  group.max_step_sequences = options.max_running + static_cast<int64_t>(limits.engine.max_ingests);
  VARVE_TRY(std::unique_ptr<LocalWorkerGroup> workers, LocalWorkerGroup::Open(group));
  VARVE_TRY(const std::vector<ContextManifest> contexts, workers->ListContexts());
  VARVE_TRY(std::unique_ptr<Coordinator> coordinator,
            Coordinator::Start(std::move(limits), workers.get()));
  std::string url = UrlOf(options.host, coordinator->port());
  return std::unique_ptr<LocalServer>(
      std::make_unique<LocalServerImpl>(std::move(workers),
                                        std::move(coordinator),
                                        std::move(url),
                                        static_cast<int64_t>(contexts.size())));
}

int NumUsableCores() {
  cpu_set_t cores;
  CPU_ZERO(&cores);
  if (::sched_getaffinity(0, sizeof(cores), &cores) == 0) {
    return std::max(1, CPU_COUNT(&cores));
  }
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

std::string DefaultDataDir() {
  if (const char* data_home = std::getenv("XDG_DATA_HOME");
      data_home != nullptr && *data_home != '\0') {
    return (std::filesystem::path(data_home) / "varve").string();
  }
  if (const char* home = std::getenv("HOME"); home != nullptr && *home != '\0') {
    return (std::filesystem::path(home) / ".local/share/varve").string();
  }
  return "varve-data";
}

}  // namespace varve::cli
