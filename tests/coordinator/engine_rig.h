// An engine on fake workers, with everything around it, and requests whose events can be waited
// for.
#pragma once

#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "coordinator/context_catalog.h"
#include "coordinator/engine.h"
#include "coordinator/ingest_tokenizer.h"
#include "coordinator/metrics.h"
#include "proto/base/clock.h"
#include "tests/coordinator/eventually.h"
#include "tests/coordinator/fake_text_model.h"
#include "tests/coordinator/fake_worker_group.h"

namespace varve {

// The events of one request. Shared with the engine's callback.
class EventLog {
 public:
  void Add(GenerationEvent event) {
    const std::lock_guard lock(mutex_);
    events_.push_back(std::move(event));
    changed_.notify_all();
  }
  // The last event, after the request ended. Fails the test after a minute.
  GenerationEvent WaitForEnd() {
    std::unique_lock lock(mutex_);
    const bool ended = changed_.wait_for(lock, std::chrono::seconds(60), [&] {
      return !events_.empty() && (events_.back().finish || events_.back().error);
    });
    EXPECT_TRUE(ended) << "the request does not end";
    return ended ? events_.back() : GenerationEvent{};
  }
  bool WaitForEvents(size_t num_events) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(
        lock, std::chrono::seconds(60), [&] { return events_.size() >= num_events; });
  }
  std::string text() const {
    const std::lock_guard lock(mutex_);
    std::string text;
    for (const GenerationEvent& event : events_) {
      text += event.text;
    }
    return text;
  }
  size_t size() const {
    const std::lock_guard lock(mutex_);
    return events_.size();
  }

 private:
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<GenerationEvent> events_;
};

struct EngineRig {
  explicit EngineRig(EngineLimits engine_limits = {}, CatalogLimits catalog_limits = {})
      : catalog(catalog_limits, &workers, &text_model, &SystemClock()),
        metrics(&workers),
        engine(engine_limits, &workers, &text_model, &catalog, &metrics, &SystemClock()) {
    EXPECT_TRUE(catalog.Load().has_value());
    catalog.SetListener([this] { engine.OnCatalogChange(); });
    tokenizer.emplace(&catalog, &text_model);
    engine.Start();
  }
  ~EngineRig() {
    workers.HoldSteps(false);
    tokenizer.reset();
    engine.Stop();
  }

  static std::unique_ptr<GenerationRequest> Request(const std::string& prompt,
                                                    int64_t max_tokens = 1000) {
    auto request = std::make_unique<GenerationRequest>();
    for (const char c : prompt) {
      request->prompt.push_back(static_cast<unsigned char>(c));
    }
    request->max_tokens = max_tokens;
    return request;
  }

  struct Submitted {
    Result<RequestId> id;
    std::shared_ptr<EventLog> log;
  };
  Submitted Submit(std::unique_ptr<GenerationRequest> request) {
    auto log = std::make_shared<EventLog>();
    request->on_event = [log](GenerationEvent event) { log->Add(std::move(event)); };
    return {engine.Submit(std::move(request)), log};
  }
  Submitted Submit(const std::string& prompt, int64_t max_tokens = 1000) {
    return Submit(Request(prompt, max_tokens));
  }

  bool WaitForStatus(const std::string& name, ContextStatus status) {
    return Eventually([&] {
      const auto view = catalog.Show(name);
      return view && view->status == status;
    });
  }

  FakeWorkerGroup workers;
  FakeTextModel text_model;
  ContextCatalog catalog;
  Metrics metrics;
  Engine engine;
  std::optional<IngestTokenizer> tokenizer;
};

}  // namespace varve
