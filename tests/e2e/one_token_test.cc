// Follows one token through the system and compares with the table "One token, from HTTP to HTTP"
// of ARCHITECTURE.md: the parts must begin their work in the order of its rows, so that the map
// cannot go stale.
#include <algorithm>
#include <sstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "proto/base/file.h"
#include "proto/base/trace.h"
#include "tests/e2e/server_process.h"
#include "tests/support/result_matchers.h"
#include "tests/support/temp_dir.h"

#include "ops/cli/api_client.h"
#include "ops/cli/local_server.h"

namespace varve {
namespace {

// The first column of the table, without the file's ending: "coordinator/http_server", ...
std::vector<std::string> PathOfArchitecture() {
  const auto text = ReadFile(VARVE_SOURCE_DIR "/ARCHITECTURE.md");
  EXPECT_OK(text);
  std::istringstream lines(*text);
  std::vector<std::string> path;
  bool inside = false;
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("## ")) {
      inside = line == "## One token, from HTTP to HTTP";
    } else if (inside && line.starts_with("| `")) {
      const std::string file = line.substr(3, line.find('`', 3) - 3);
      path.push_back(file.substr(0, file.rfind('.')));
    }
  }
  return path;
}

// The names of the spans in the order in which each first began.
std::vector<std::string> FirstBegins(const std::vector<TraceEvent>& events) {
  std::vector<std::string> names;
  for (const TraceEvent& event : events) {
    if (std::find(names.begin(), names.end(), event.name) == names.end()) {
      names.emplace_back(event.name);
    }
  }
  return names;
}

TEST(OneToken, TakesThePathOfTheArchitecture) {
  const TempDir data;
  const auto server = cli::LocalServer::Start({.model_dir = TestModelDir(),
                                               .num_workers = 2,
                                               .num_threads = 2,
                                               .port = 0,
                                               .data_dir = data.path()});
  ASSERT_OK(server);
  const auto client = cli::ApiClient::Create((*server)->url());
  ASSERT_OK(client);
  ASSERT_OK(client->ModelName());

  // Long enough that every worker has pages: the first one, whose work is traced, too.
  const std::string question = MakeFactDocument(1, 60).text;
  StartTrace();
  const auto answer = client->Ask({.question = question, .max_tokens = 1}, [](std::string_view) {});
  const std::vector<TraceEvent> events = StopTrace();
  ASSERT_OK(answer);
  EXPECT_EQ(answer->completion_tokens, 1);

  const std::vector<std::string> path = PathOfArchitecture();
  ASSERT_GE(path.size(), 10U);
  EXPECT_EQ(FirstBegins(events), path);
}

TEST(OneToken, EachLayerAttendsAndMergesWithinTheStep) {
  const TempDir data;
  const auto server = cli::LocalServer::Start({.model_dir = TestModelDir(),
                                               .num_workers = 2,
                                               .num_threads = 2,
                                               .port = 0,
                                               .data_dir = data.path()});
  ASSERT_OK(server);
  const auto client = cli::ApiClient::Create((*server)->url());
  ASSERT_OK(client);
  StartTrace();
  ASSERT_OK(client->Ask({.question = "Who?", .max_tokens = 2}, [](std::string_view) {}));
  const std::vector<TraceEvent> events = StopTrace();

  const auto count = [&](std::string_view name) {
    return std::count_if(
        events.begin(), events.end(), [&](const TraceEvent& event) { return event.name == name; });
  };
  EXPECT_EQ(count("worker/step"), 2)
      << "the prompt, then one decode: the last token drawn is not computed";
  EXPECT_EQ(count("worker/forward"), count("worker/attention"));
  EXPECT_EQ(count("worker/forward") % count("worker/step"), 0) << "every step has every layer";
  EXPECT_EQ(count("worker/sampler"), 2);
}

}  // namespace
}  // namespace varve
