// A whole coordinator on a real port, with fake workers behind it.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include <gtest/gtest.h>

#include "coordinator/coordinator.h"
#include "tests/coordinator/eventually.h"
#include "tests/coordinator/fake_text_model.h"
#include "tests/coordinator/fake_worker_group.h"
#include "tests/coordinator/http_client.h"

#include <nlohmann/json.hpp>

namespace varve {

struct CoordinatorRig {
  using Json = nlohmann::json;

  explicit CoordinatorRig(CoordinatorOptions options = {}) : options_(std::move(options)) {}
  ~CoordinatorRig() {
    workers.HoldSteps(false);
    coordinator_.reset();
  }

  // Started on first use, so that a test can prepare the workers.
  Coordinator& coordinator() {
    if (coordinator_ == nullptr) {
      auto started = Coordinator::Start(std::move(options_), &workers, std::move(text_model));
      VARVE_CHECK(started.has_value());
      coordinator_ = *std::move(started);
    }
    return *coordinator_;
  }
  HttpClient Client() { return HttpClient(coordinator().port()); }
  ClientResponse Get(const std::string& path) { return Client().Get(path); }
  ClientResponse Post(const std::string& path, const Json& body) {
    return Client().Post(path, body);
  }
  ClientResponse Complete(Json fields) {
    fields.emplace("model", "fake");
    fields.emplace("temperature", 0);
    return Post("/v1/completions", fields);
  }
  ClientResponse Chat(Json fields) {
    fields.emplace("model", "fake");
    fields.emplace("temperature", 0);
    fields.emplace("messages", Json::array({{{"role", "user"}, {"content", "hi"}}}));
    return Post("/v1/chat/completions", fields);
  }
  // Creates a context and waits until it is ready.
  void MakeContext(const std::string& name, const std::string& text) {
    EXPECT_EQ(Post("/v1/contexts", {{"name", name}, {"text", text}}).status, 202);
    EXPECT_TRUE(WaitForStatus(name, "ready"));
  }
  bool WaitForStatus(const std::string& name, const std::string& status) {
    return Eventually([&] { return Get("/v1/contexts/" + name).json()["status"] == status; });
  }
  // The value of one line of /metrics: "varve_pages{...}" is found by its name and the label text
  // given.
  double Metric(const std::string& name, const std::string& label = "") {
    const std::string text = Get("/metrics").body;
    for (size_t at = 0; at < text.size();) {
      const size_t end = text.find('\n', at);
      const std::string line = text.substr(at, end - at);
      if (line.rfind(name + "{", 0) == 0 && line.find(label) != std::string::npos) {
        return std::stod(line.substr(line.rfind(' ') + 1));
      }
      at = end + 1;
    }
    return -1;
  }

  FakeWorkerGroup workers;
  std::unique_ptr<FakeTextModel> text_model = std::make_unique<FakeTextModel>();

 private:
  CoordinatorOptions options_;
  std::unique_ptr<Coordinator> coordinator_;
};

}  // namespace varve
