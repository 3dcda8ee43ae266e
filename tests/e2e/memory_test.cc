// The memory of the process stays within what was promised while a document ten times the host
// budget is ingested.
#include <algorithm>
#include <charconv>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <thread>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "proto/base/file.h"
#include "proto/base/units.h"
#include "tests/e2e/server_process.h"
#include "tests/support/result_matchers.h"

#include "ops/cli/exit_code.h"

namespace varve {
namespace {

constexpr uint64_t kHostBudget = 8 * kMiB;
constexpr uint64_t kAllowance = 256 * kMiB;

// Anonymous memory of a process, in bytes: what it holds itself, mapped files such as the weights
// not counted.
uint64_t RssAnon(pid_t pid) {
  const auto status = ReadFile(fmt::format("/proc/{}/status", pid));
  const size_t at = status ? status->find("RssAnon:") : std::string::npos;
  if (at == std::string::npos) {
    return 0;
  }
  const size_t digit = status->find_first_of("0123456789", at);
  uint64_t kib = 0;
  std::from_chars(status->data() + digit, status->data() + status->size(), kib);
  return kib * kKiB;
}

uint64_t WeightBytes(const std::string& model_dir) {
  uint64_t bytes = 0;
  for (const auto& entry : std::filesystem::directory_iterator(model_dir)) {
    bytes += entry.path().extension() == ".safetensors" ? entry.file_size() : 0;
  }
  return bytes;
}

TEST(Memory, StaysWithinItsBudgetsWhileALongDocumentIsIngested) {
  const TempDir data;
  const TempDir files;
  // f32 pages make the most bytes for each token of work.
  ServerProcess server(data.path(),
                       {"--workers", "2", "--host-budget", fmt::format("{}", kHostBudget)});
  const uint64_t at_start = RssAnon(server.process().pid());
  ASSERT_GT(at_start, 0U);
  const FactDocument document = MakeFactDocument(21, 2600);  // about 43,000 tokens
  ASSERT_OK(WriteFileAtomically(files.File("doc"), document.text));
  ChildProcess ingest({VarveBinary(),
                       "ingest",
                       "--name",
                       "doc",
                       "--kv-codec",
                       "f32",
                       "--server",
                       server.url(),
                       files.File("doc")});
  uint64_t most = at_start;
  while (ingest.Running()) {
    most = std::max(most, RssAnon(server.process().pid()));
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  ASSERT_EQ(ingest.Wait(1), cli::kExitOk) << ingest.Err();
  const auto context = server.api().GetContext("doc");
  ASSERT_OK(context);
  EXPECT_GE(context->disk_bytes, 10 * kHostBudget) << "the document is too short for this test";
  EXPECT_LE(context->host_bytes, kHostBudget);

  const uint64_t promised = kHostBudget + WeightBytes(TestModelDir()) + kAllowance;
  fmt::print("RssAnon: {} at start, {} at most; promised {}; {} of pages\n",
             FormatBytes(at_start),
             FormatBytes(most),
             FormatBytes(promised),
             FormatBytes(context->disk_bytes));
  EXPECT_LE(most, promised);
  // The allowance must not hide a tier that grows with the document: most of it has to be left.
  EXPECT_LE(most - at_start, kHostBudget + kAllowance / 2);

  // And the answer comes out of pages that did not fit.
  const RunResult asked =
      RunVarve({"ask", "--context", "doc", "--server", server.url(), document.question});
  EXPECT_NE(asked.out.find(document.answer), std::string::npos) << asked.out << asked.err;
}

}  // namespace
}  // namespace varve
