#include "tests/e2e/server_process.h"

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <thread>

#include <fmt/format.h>

#include "proto/base/check.h"
#include "proto/base/rng.h"

namespace varve {
namespace {

constexpr int kStartTimeoutMs = 60'000;

const char* const kSentences[] = {
    "The morning was grey, and nobody in the street had anything to say about it.",
    "She put the letters back into the drawer and went down to the river.",
    "There had been a time when the mill worked through the night.",
    "He answered that he would think of it, which meant that he would not.",
    "Two carts came slowly up the hill, and the dogs ran out to meet them.",
    "It was said in the village that the winter would be long.",
    "They sat for an hour without speaking, and the fire went down.",
};

const char* const kAdjectives[] =
    {"silent", "golden", "northern", "broken", "hidden", "scarlet", "gentle", "frozen"};
const char* const kNouns[] =
    {"harbor", "lantern", "orchard", "violin", "bridge", "compass", "saddle", "window"};

constexpr int kSentencesPerFact = 16;
constexpr int kNumFacts =
    static_cast<int>(std::size(kAdjectives) * std::size(kNouns));  // all keys distinct

std::string UrlIn(const std::string& start_line) {
  const size_t begin = start_line.find("http://");
  return begin == std::string::npos || start_line.back() != '\n'
             ? ""
             : start_line.substr(begin, start_line.find(' ', begin) - begin);
}

}  // namespace

std::string TestModelDir() {
  const char* other = std::getenv("VARVE_E2E_MODEL");
  return other != nullptr ? other : VARVE_SOURCE_DIR "/ops/models/mini";
}

ServerProcess::ServerProcess(const std::string& data_dir,
                             const std::vector<std::string>& flags,
                             const std::string& model_dir) {
  if (!Start(data_dir, flags, model_dir, {})) {
    fmt::print(stderr, "varve serve did not start:\n{}", process_->Err());
    VARVE_CHECK(false);
  }
}

std::unique_ptr<ServerProcess> ServerProcess::TryStart(
    const std::string& data_dir,
    const std::vector<std::string>& flags,
    const std::map<std::string, std::string>& environment) {
  std::unique_ptr<ServerProcess> server(new ServerProcess());
  return server->Start(data_dir, flags, TestModelDir(), environment) ? std::move(server) : nullptr;
}

bool ServerProcess::Start(const std::string& data_dir,
                          const std::vector<std::string>& flags,
                          const std::string& model_dir,
                          const std::map<std::string, std::string>& environment) {
  std::vector<std::string> arguments = {
      VarveBinary(), "serve", "--model", model_dir, "--data", data_dir, "--port", "0"};
  arguments.insert(arguments.end(), flags.begin(), flags.end());
  process_ = std::make_unique<ChildProcess>(arguments, RunOptions{.environment = environment});
  for (int waited_ms = 0; url_.empty(); waited_ms += 10) {
    if (!process_->Running() || waited_ms > kStartTimeoutMs) {
      return false;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    const std::string out = process_->Out();
    url_ = out.empty() ? "" : UrlIn(out);
  }
  auto api = cli::ApiClient::Create(url_);
  VARVE_CHECK(api.has_value());
  api_ = std::make_unique<cli::ApiClient>(std::move(*api));
  return true;
}

Result<cli::HttpResponse> ServerProcess::Send(const std::string& method,
                                              const std::string& target,
                                              const std::string& body) const {
  VARVE_TRY(const auto http, cli::HttpClient::Create(url_));
  return http.Send({.method = method, .target = target, .body = body});
}

void ServerProcess::Kill() {
  process_->Signal(SIGKILL);
  process_->Wait(60);
}

int ServerProcess::Terminate() {
  process_->Signal(SIGTERM);
  return process_->Wait(60);
}

double ServerProcess::DocumentTokensPrefilled() const {
  const auto tokens = api_->ReadMetric("varve_prefill_tokens_total", "kind=\"document\"");
  VARVE_CHECK(tokens.has_value());
  return *tokens;
}

FactDocument MakeFactDocument(uint64_t seed, int num_sentences) {
  Rng rng(seed);
  FactDocument document;
  const int asked_at = std::min(num_sentences / 3, kNumFacts * kSentencesPerFact / 2);
  for (int i = 0; i < num_sentences; ++i) {
    document.text += kSentences[rng.Below(std::size(kSentences))];
    if (i % kSentencesPerFact == asked_at % kSentencesPerFact &&
        i < kNumFacts * kSentencesPerFact) {
      const std::string key = fmt::format(
          "the passcode of the {} {}",
          kAdjectives[(i / kSentencesPerFact) % std::size(kAdjectives)],
          kNouns[(i / kSentencesPerFact / std::size(kAdjectives) + seed) % std::size(kNouns)]);
      const uint64_t value = 1000 + rng.Below(9000);
      document.text += fmt::format(" Note that {} is {}.", key, value);
      if (i / kSentencesPerFact == asked_at / kSentencesPerFact) {
        document.question = fmt::format("What is {}?", key);
        document.answer = std::to_string(value);
      }
    }
    document.text += i % 8 == 7 ? "\n" : " ";
  }
  return document;
}

}  // namespace varve
