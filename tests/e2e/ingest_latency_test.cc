// Streams beside an ingest: their p99 inter-token time stays within three times of their own
// without it.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <mutex>
#include <thread>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "proto/base/clock.h"
#include "proto/base/file.h"
#include "tests/e2e/server_process.h"
#include "tests/support/result_matchers.h"

#include "ops/cli/exit_code.h"
#include "ops/cli/http_client.h"
#include <nlohmann/json.hpp>

namespace varve {
namespace {

constexpr int kNumStreams = 8;
constexpr int kTokens = 250;  // of each stream
constexpr double kMostSlowdown = 3.0;

class IngestLatency : public testing::Test {
 protected:
  // Runs the streams to their ends; the milliseconds between the tokens of each, of all of them
  // together.
  std::vector<double> Stream() {
    std::mutex mutex;
    std::vector<double> gaps_ms;
    std::vector<std::thread> threads;
    for (int i = 0; i < kNumStreams; ++i) {
      threads.emplace_back([&, i] {
        std::vector<double> own = StreamOnce(i);
        const std::lock_guard lock(mutex);
        gaps_ms.insert(gaps_ms.end(), own.begin(), own.end());
      });
    }
    for (std::thread& thread : threads) {
      thread.join();
    }
    return gaps_ms;
  }

  std::vector<double> StreamOnce(int seed) {
    const auto http = cli::HttpClient::Create(server_.url());
    const nlohmann::json body = {{"model", model_},
                                 {"prompt", "Once upon a time"},
                                 {"max_tokens", kTokens},
                                 {"ignore_eos", true},
                                 {"seed", seed},
                                 {"stream", true}};
    std::vector<double> gaps_ms;
    int64_t last_us = 0;
    const auto response =
        http->SendStreaming({.method = "POST", .target = "/v1/completions", .body = body.dump()},
                            [&](std::string_view) {
                              const int64_t now_us = SystemClock().NowUs();
                              if (last_us > 0) {
                                gaps_ms.push_back(static_cast<double>(now_us - last_us) / 1000);
                              }
                              last_us = now_us;
                              return true;
                            });
    EXPECT_OK(response);
    return gaps_ms;
  }

  static double Percentile99(std::vector<double> values) {
    std::sort(values.begin(), values.end());
    return values.at(values.size() * 99 / 100);
  }

  TempDir data_;
  ServerProcess server_{data_.path(), {"--workers", "2"}};
  std::string model_ = server_.api().ModelName().value();
};

TEST_F(IngestLatency, StreamsAreSlowedDownByAtMostThreeTimes) {
  Stream();  // warm-up
  const std::vector<double> alone = Stream();

  const TempDir files;
  ASSERT_OK(WriteFileAtomically(files.File("doc"), MakeFactDocument(31, 20000).text));
  ChildProcess ingest(
      {VarveBinary(), "ingest", "--name", "doc", "--server", server_.url(), files.File("doc")});
  while (server_.DocumentTokensPrefilled() == 0) {
    ASSERT_TRUE(ingest.Running()) << ingest.Err();
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  const double tokens_before = server_.DocumentTokensPrefilled();
  const std::vector<double> beside = Stream();
  const double tokens_after = server_.DocumentTokensPrefilled();
  EXPECT_TRUE(ingest.Running()) << "the ingest ended before the streams: its document is too short";

  ASSERT_GT(alone.size(), 1000U);
  ASSERT_GT(beside.size(), 1000U);
  EXPECT_GT(tokens_after, tokens_before) << "the ingest must go on beside the streams";
  fmt::print("p99 inter-token: {:.1f} ms alone, {:.1f} ms beside an ingest of {:.0f} tokens\n",
             Percentile99(alone),
             Percentile99(beside),
             tokens_after - tokens_before);
  EXPECT_LE(Percentile99(beside), kMostSlowdown * Percentile99(alone));
}

}  // namespace
}  // namespace varve
