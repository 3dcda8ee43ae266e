#include "coordinator/coordinator.h"

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <utility>

#include <fmt/core.h>

#include "coordinator/completions_api.h"
#include "coordinator/context_expiry.h"
#include "coordinator/context_transfer_api.h"
#include "coordinator/contexts_api.h"
#include "coordinator/ingest_tokenizer.h"
#include "coordinator/metrics.h"
#include "coordinator/models_api.h"
#include "coordinator/openai_error.h"
#include "coordinator/router.h"
#include "proto/base/log.h"

#include <boost/asio/post.hpp>
#include <boost/asio/thread_pool.hpp>

namespace varve {
namespace {

// Long prompts are tokenised here; two threads, so that one of them does not hold up a short one.
constexpr int kNumApiThreads = 2;
// Exports and imports wait for disks and clients: they have threads of their own.
constexpr int kNumTransferThreads = 2;

// The one body that is not JSON.
constexpr std::string_view kImportPattern = "/v1/contexts/{name}/import";

using TextModelLoader = std::function<Result<std::unique_ptr<TextModel>>()>;

class LiveCoordinator final : public Coordinator {
 public:
  LiveCoordinator(CoordinatorOptions options, WorkerGroup* workers)
      : options_(std::move(options)), workers_(workers), metrics_(workers) {}
  ~LiveCoordinator() override { Stop(); }

  Result<void> Open(const TextModelLoader& load_text_model) {
    HttpServerOptions http = options_.http;
    http.on_response = [this](std::string_view route, int status) {
      metrics_.CountHttpRequest(route, status);
    };
    VARVE_TRY(server_,
              HttpServer::Start(std::move(http), [this](HttpRequest request, auto response) {
                Handle(std::move(request), std::move(response));
              }));
    if (options_.on_listening) {
      options_.on_listening(server_->port());
    }
    VARVE_TRY(text_model_, load_text_model());
    if (text_model_->vocab_size() > workers_->model().vocab_size) {
      return Error{ErrorCode::kBadModel,
                   fmt::format("The tokenizer has {} tokens, the model only {}.",
                               text_model_->vocab_size(),
                               workers_->model().vocab_size)};
    }
    catalog_.emplace(options_.catalog, workers_, text_model_.get(), options_.clock);
    VARVE_RETURN_IF_ERROR(catalog_->Load());
    engine_.emplace(
        options_.engine, workers_, text_model_.get(), &*catalog_, &metrics_, options_.clock);
    catalog_->SetListener([this] { engine_->OnCatalogChange(); });
    ingest_tokenizer_.emplace(&*catalog_, text_model_.get());
    completions_.emplace(&*engine_, &*catalog_, workers_, text_model_.get(), options_.clock);
    contexts_.emplace(&*engine_, &*catalog_, workers_, options_.default_policy);
    transfers_.emplace(&*catalog_, workers_, options_.clock);
    models_.emplace(workers_, options_.clock->UnixTimeS());
    AddRoutes();
    engine_->Start();
    expiry_.emplace(options_.expiry_interval_ms, [this] {
      engine_->ExpireContexts();
      transfers_->DropIdle();
    });
    loaded_.store(true, std::memory_order_release);
    SPDLOG_INFO("serving {} on {}:{}", workers_->model().name, options_.http.host, server_->port());
    return {};
  }

  uint16_t port() const override { return server_->port(); }

  void Drain(int64_t grace_us) override {
    if (engine_) {
      engine_->Drain(grace_us);
    }
  }

  void Stop() override {
    const std::lock_guard stop_lock(stop_mutex_);
    if (server_) {
      server_->Stop();
    }
    api_threads_.join();
    transfer_threads_.join();
    expiry_.reset();
    ingest_tokenizer_.reset();
    if (engine_) {
      engine_->Stop();
    }
    const std::lock_guard lock(stopped_mutex_);
    stopped_ = true;
    stopped_changed_.notify_all();
  }

  void Wait() override {
    std::unique_lock lock(stopped_mutex_);
    stopped_changed_.wait(lock, [this] { return stopped_; });
  }

 private:
  void AddRoutes() {
    const auto completions = [this](CompletionKind kind) {
      return [this, kind](RoutedRequest r) { completions_->Handle(kind, std::move(r)); };
    };
    const auto contexts = [this](void (ContextsApi::*call)(RoutedRequest)) {
      return [this, call](RoutedRequest r) { ((*contexts_).*call)(std::move(r)); };
    };
    router_.Add("POST", "/v1/completions", false, completions(CompletionKind::kText));
    router_.Add("POST", "/v1/chat/completions", false, completions(CompletionKind::kChat));
    router_.Add(
        "GET", "/v1/models", true, [this](RoutedRequest r) { models_->List(std::move(r)); });
    router_.Add(
        "GET", "/v1/models/{id}", true, [this](RoutedRequest r) { models_->Show(std::move(r)); });
    router_.Add("POST", "/v1/contexts", false, contexts(&ContextsApi::Create));
    router_.Add("GET", "/v1/contexts", false, contexts(&ContextsApi::List));
    router_.Add("POST", "/v1/contexts/{name}/append", false, contexts(&ContextsApi::Append));
    router_.Add("POST", "/v1/contexts/{name}/fork", false, contexts(&ContextsApi::Fork));
    const auto transfers = [this](void (ContextTransferApi::*call)(RoutedRequest)) {
      return [this, call](RoutedRequest r) {
        boost::asio::post(transfer_threads_, [this, call, r = std::move(r)]() mutable {
          ((*transfers_).*call)(std::move(r));
        });
      };
    };
    router_.Add("GET", "/v1/contexts/{name}/export", true, transfers(&ContextTransferApi::Export));
    router_.Add("POST", kImportPattern, true, transfers(&ContextTransferApi::Import));
    router_.Add("GET", "/v1/contexts/{name}", false, contexts(&ContextsApi::Show));
    router_.Add("PATCH", "/v1/contexts/{name}", false, contexts(&ContextsApi::Change));
    router_.Add("DELETE", "/v1/contexts/{name}", false, contexts(&ContextsApi::Delete));
    router_.Add("GET", "/metrics", false, [this](RoutedRequest r) {
      r.response->Send(HttpResponse{.content_type = "text/plain; version=0.0.4; charset=utf-8",
                                    .body = metrics_.Serialize()});
    });
  }

  // On the I/O thread.
  void Handle(HttpRequest request, std::shared_ptr<ResponseStream> response) {
    if (request.path == "/healthz" || request.path == "/readyz") {
      AnswerProbe(request, *response);
      return;
    }
    if (!loaded_.load(std::memory_order_acquire)) {
      Refuse(*response, ErrorCode::kUnavailable, "The server is loading.");
      return;
    }
    const Router::Match match = router_.Find(request.method, request.path);
    if (!match.pattern.empty()) {
      response->SetRoute(match.pattern);
    }
    if (match.handler == nullptr) {
      RefuseRoute(match, request, *response);
      return;
    }
    const bool takes_json =
        request.method == "PATCH" || (request.method == "POST" && match.pattern != kImportPattern);
    if (takes_json && !IsJson(request.content_type)) {
      Refuse(*response,
             ErrorCode::kUnsupportedMediaType,
             "The body must be JSON: send \"Content-Type: application/json\".");
      return;
    }
    RoutedRequest routed{std::move(request), match.name, std::move(response)};
    if (match.quick) {
      (*match.handler)(std::move(routed));
      return;
    }
    boost::asio::post(api_threads_,
                      [handler = match.handler, routed = std::move(routed)]() mutable {
                        (*handler)(std::move(routed));
                      });
  }

  // /healthz: the process is alive. /readyz: it takes requests.
  void AnswerProbe(const HttpRequest& request, ResponseStream& response) {
    const bool is_ready_probe = request.path == "/readyz";
    response.SetRoute(is_ready_probe ? "/readyz" : "/healthz");
    if (request.method != "GET" && request.method != "HEAD") {
      RefuseRoute(
          Router::Match{.pattern = "/healthz", .allowed_methods = "GET, HEAD"}, request, response);
      return;
    }
    if (is_ready_probe && !loaded_.load(std::memory_order_acquire)) {
      Refuse(response, ErrorCode::kUnavailable, "The server is loading.");
      return;
    }
    if (is_ready_probe) {
      if (const std::optional<Error> refusal = engine_->Refusal()) {
        Refuse(response, refusal->code, refusal->message);
        return;
      }
    }
    response.Send(HttpResponse{.body = R"({"status":"ok"})"});
  }

  static bool IsJson(const std::string& content_type) {
    const std::string type = content_type.substr(0, content_type.find_first_of("; "));
    return type.empty() || type == "application/json";
  }

  static void Refuse(ResponseStream& response, ErrorCode code, std::string message) {
    response.Send(ErrorResponse(ApiError{.error = {code, std::move(message)}}));
  }

  static void RefuseRoute(const Router::Match& match,
                          const HttpRequest& request,
                          ResponseStream& response) {
    const std::string path = request.path.substr(0, 256);
    if (match.pattern.empty()) {
      Refuse(response, ErrorCode::kNotFound, fmt::format("There is nothing at {}.", path));
      return;
    }
    HttpResponse refusal =
        ErrorResponse(ApiError{.error = {ErrorCode::kMethodNotAllowed,
                                         fmt::format("{} takes {}, not {}.",
                                                     path,
                                                     match.allowed_methods,
                                                     request.method.substr(0, 32))}});
    refusal.headers.emplace_back("Allow", match.allowed_methods);
    response.Send(std::move(refusal));
  }

  const CoordinatorOptions options_;
  WorkerGroup* const workers_;
  // In the order in which they depend on each other; destroyed in the reverse. The server stands
  // before what posts to it.
  std::unique_ptr<HttpServer> server_;
  Metrics metrics_;
  std::unique_ptr<TextModel> text_model_;
  std::optional<ContextCatalog> catalog_;
  std::optional<Engine> engine_;
  std::optional<ContextExpiry> expiry_;
  std::optional<IngestTokenizer> ingest_tokenizer_;
  std::optional<CompletionsApi> completions_;
  std::optional<ContextsApi> contexts_;
  std::optional<ContextTransferApi> transfers_;
  std::optional<ModelsApi> models_;
  Router router_;
  boost::asio::thread_pool api_threads_{kNumApiThreads};
  boost::asio::thread_pool transfer_threads_{kNumTransferThreads};
  std::atomic<bool> loaded_{false};

  std::mutex stop_mutex_;  // one Stop at a time
  std::mutex stopped_mutex_;
  std::condition_variable stopped_changed_;
  bool stopped_ = false;  // guarded by stopped_mutex_
};

Result<std::unique_ptr<Coordinator>> StartWith(CoordinatorOptions options,
                                               WorkerGroup* workers,
                                               const TextModelLoader& load_text_model) {
  auto coordinator = std::make_unique<LiveCoordinator>(std::move(options), workers);
  VARVE_RETURN_IF_ERROR(coordinator->Open(load_text_model));
  return std::unique_ptr<Coordinator>(std::move(coordinator));
}

}  // namespace

Result<std::unique_ptr<Coordinator>> Coordinator::Start(CoordinatorOptions options,
                                                        WorkerGroup* workers) {
  const std::string model_dir = options.model_dir;
  const Clock* const clock = options.clock;
  return StartWith(std::move(options), workers, [&] { return LoadTextModel(model_dir, clock); });
}

Result<std::unique_ptr<Coordinator>> Coordinator::Start(CoordinatorOptions options,
                                                        WorkerGroup* workers,
                                                        std::unique_ptr<TextModel> text_model) {
  return StartWith(std::move(options), workers, [&]() -> Result<std::unique_ptr<TextModel>> {
    return std::move(text_model);
  });
}

}  // namespace varve
