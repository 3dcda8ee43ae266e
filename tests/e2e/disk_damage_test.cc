// Damage to the real files of a server that was stopped: flipped bits, torn ends, sectors that were
// lost, sectors that belong elsewhere, at random places. Each time the server either refuses to
// start and names the directory, or answers every context as before the damage, or refuses that
// context by name and counts it: a wrong answer never comes, and what is not damaged is served on.
//
// VARVE_DAMAGE_ROUNDS sets the number of rounds; a failure prints its seed.
#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "proto/base/file.h"
#include "tests/e2e/crash_client.h"
#include "tests/support/result_matchers.h"

#include "ops/cli/exit_code.h"
#include <nlohmann/json.hpp>

namespace varve {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr size_t kSectorBytes = 4096;
constexpr const char* kNames[] = {"first", "second"};

enum class Damage { kFlip, kTear, kLoseSector, kMisplaceSector };
constexpr const char* kDamageNames[] = {"a flipped bit",
                                        "a torn end",
                                        "a lost sector",
                                        "a misplaced sector"};

// Damages a file at a random place. Returns whether its bytes changed.
bool Spoil(const fs::path& file, Damage damage, Rng& rng) {
  const std::string whole = ReadFile(file).value();
  if (whole.empty()) {
    return false;
  }
  std::string bytes = whole;
  const size_t at = rng.Below(bytes.size());
  const size_t sector = at / kSectorBytes * kSectorBytes;
  const size_t size = std::min(kSectorBytes, bytes.size() - sector);
  switch (damage) {
    case Damage::kFlip:
      bytes[at] = static_cast<char>(bytes[at] ^ (1 << rng.Below(8)));
      break;
    case Damage::kTear:
      bytes.resize(at);
      break;
    case Damage::kLoseSector:
      std::fill_n(bytes.begin() + static_cast<ptrdiff_t>(sector), size, '\0');
      break;
    case Damage::kMisplaceSector: {
      const size_t from = rng.Below(bytes.size() - size + 1) / kSectorBytes * kSectorBytes;
      bytes.replace(sector, size, whole, from, size);
      break;
    }
  }
  std::ofstream(file, std::ios::binary | std::ios::trunc) << bytes;
  return bytes != whole;
}

class DiskDamageTest : public testing::Test {
 protected:
  void SetUp() override {
    const ServerProcess server(whole_.path(), flags_);
    for (size_t i = 0; i < std::size(kNames); ++i) {
      Ingest(server, i);
      const auto answer = AskFingerprint(server, kNames[i], documents_[i].question);
      ASSERT_OK(answer);
      answers_.push_back(answer->all);
    }
  }
  void Ingest(const ServerProcess& server, size_t i) {
    const TempDir files;
    std::string text;
    for (const std::string& piece : documents_[i].pieces) {
      text += piece;
    }
    ASSERT_OK(WriteFileAtomically(files.File("text"), text));
    const RunResult ingest =
        RunVarve({"ingest", "--name", kNames[i], "--server", server.url(), files.File("text")});
    ASSERT_EQ(ingest.exit_code, cli::kExitOk) << ingest.err;
  }

  // Asks a server on a damaged directory about everything. Returns how many contexts it refused.
  // may_be_lost: a damaged log and a torn manifest look like a crash in the middle of a commit that
  // never counted: RocksDB goes back to before it, and a context that it began is not there.
  int AskAll(const ServerProcess& server, bool may_be_lost = false) {
    int refused = 0;
    for (size_t i = 0; i < std::size(kNames); ++i) {
      const auto answer = AskFingerprint(server, kNames[i], documents_[i].question);
      if (answer) {
        EXPECT_EQ(answer->all, answers_[i]) << "a wrong answer from " << kNames[i];
        continue;
      }
      if (may_be_lost && answer.error().message.find("context_not_found") != std::string::npos) {
        continue;
      }
      ++refused;
      EXPECT_EQ(answer.error().code, ErrorCode::kInternal) << "the server died";
      EXPECT_THAT(answer.error().message,
                  testing::AnyOf(testing::HasSubstr("page_corrupt"),
                                 testing::HasSubstr("page_missing"),
                                 testing::HasSubstr("version_skew"),
                                 testing::HasSubstr("io_error")));
    }
    if (refused > 0) {
      const auto failures = server.api().ReadMetric("varve_request_failure_total", "");
      const auto checksums = server.api().ReadMetric("varve_checksum_failures_total", "");
      const auto errors = server.api().ReadMetric("varve_disk_errors_total", "");
      EXPECT_GT(*failures + *checksums + *errors, 0) << "refused, and nothing counted";
    }
    return refused;
  }

  const std::vector<std::string> flags_ = {"--max-step-tokens", "128", "--log-level", "error"};
  const std::vector<CrashDocument> documents_ = MakeCrashDocuments();
  const TempDir whole_;
  std::vector<std::string> answers_;  // [contexts]
};

bool LooksLikeACrash(const fs::path& file, Damage damage) {
  return file.extension() == ".log" ||
         (damage == Damage::kTear && file.filename().string().starts_with("MANIFEST"));
}

std::vector<fs::path> FilesOf(const fs::path& db, std::string_view extension) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(db)) {
    const std::string name = entry.path().filename();
    if (entry.file_size() > 0 &&
        (name.ends_with(extension) || (extension == "MANIFEST" && name.starts_with(extension)))) {
      files.push_back(entry.path());
    }
  }
  std::sort(files.begin(), files.end());
  return files;
}

TEST_F(DiskDamageTest, DamageIsRefusedByNameOrChangesNothing) {
  const char* wanted = std::getenv("VARVE_DAMAGE_ROUNDS");
  const int rounds = wanted == nullptr ? 32 : std::atoi(wanted);
  constexpr const char* kKinds[] = {".blob", ".blob", ".blob", ".sst", ".log", "MANIFEST"};
  int not_started = 0;
  int refused = 0;
  int served = 0;
  for (int round = 0; round < rounds && !HasFailure(); ++round) {
    Rng rng(7, static_cast<uint64_t>(round));
    const TempDir copy;
    const fs::path data = copy.path() + "/data";
    fs::copy(whole_.path(), data, fs::copy_options::recursive);
    const auto files = FilesOf(data / "db", kKinds[rng.Below(std::size(kKinds))]);
    const auto damage = static_cast<Damage>(rng.Below(4));
    if (files.empty()) {
      continue;
    }
    const fs::path file = files[rng.Below(files.size())];
    SCOPED_TRACE(fmt::format("round {}: {} in {}",
                             round,
                             kDamageNames[static_cast<size_t>(damage)],
                             file.filename().string()));
    if (!Spoil(file, damage, rng)) {
      continue;
    }
    const auto server = ServerProcess::TryStart(data, flags_, {});
    if (server == nullptr) {
      ++not_started;
      const RunResult again = RunVarve({"serve", "--model", TestModelDir(), "--data", data});
      EXPECT_EQ(again.exit_code, cli::kExitFailure);
      EXPECT_THAT(again.err, testing::HasSubstr(data.string()));
      continue;
    }
    const int contexts_refused = AskAll(*server, LooksLikeACrash(file, damage));
    refused += contexts_refused > 0 ? 1 : 0;
    served += contexts_refused == 0 ? 1 : 0;
  }
  fmt::print("{} rounds: {} not started, {} refused, {} as before\n",
             rounds,
             not_started,
             refused,
             served);
  if (rounds >= 32) {
    EXPECT_GT(refused, 0);
    EXPECT_GT(not_started, 0);
  }
}

// The pages of one context are damaged: the other is served, and the damaged one can be made anew.
TEST_F(DiskDamageTest, ADamagedContextIsQuarantinedAndCanBeMadeAnew) {
  const TempDir copy;
  const fs::path data = copy.path() + "/data";
  fs::copy(whole_.path(), data, fs::copy_options::recursive);
  const auto blobs = FilesOf(data / "db", ".blob");
  const auto pages = std::max_element(blobs.begin(), blobs.end(), [](const auto& a, const auto& b) {
    return fs::file_size(a) < fs::file_size(b);
  });
  std::string bytes = ReadFile(*pages).value();
  for (size_t at = bytes.size() / 8; at < bytes.size(); at += bytes.size() / 8) {
    bytes[at] = static_cast<char>(bytes[at] ^ 1);
  }
  std::ofstream(*pages, std::ios::binary | std::ios::trunc) << bytes;
  const auto server = ServerProcess::TryStart(data, flags_, {});
  ASSERT_NE(server, nullptr);
  ASSERT_EQ(AskAll(*server), 1);
  const auto first = AskFingerprint(*server, kNames[0], documents_[0].question);
  const size_t damaged = first.has_value() ? 1 : 0;
  EXPECT_GT(*server->api().ReadMetric("varve_checksum_failures_total", ""), 0);
  ASSERT_OK(server->api().DeleteContext(kNames[damaged]));
  Ingest(*server, damaged);
  EXPECT_EQ(AskAll(*server), 0);
}

}  // namespace
}  // namespace varve
