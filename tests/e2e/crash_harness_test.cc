// Goal: whenever the real server is killed, nothing that it reported durable is lost, nothing is
// half there, nothing is left over, and contexts answer as if it had never died.
// Method: lives of `varve serve` over one data directory, each ended by SIGKILL: at a named point
// of the way to disk, at the n-th file operation, or at a random time. Between lives the directory
// is read whole; the next life is compared with a server that was never killed. The budgets hold
// only a part of the contexts, so that pages spill, are read back and go down their ladders
// meanwhile.
//
// The points are file operations, taken from outside by a library that the loader puts before libc
// (io_shim.h): they need nothing in the product, which is tested as it is shipped, and come at the
// same operation on every machine. Points between them, inside the process, are those of
// kvstore_crash_test, which also cuts the power.
//
// VARVE_CRASH_ROUNDS sets the number of rounds, of both tests together; VARVE_CRASH_SEED is added
// to their seeds. A failure prints both of its round. A round goes on from what those before it
// left, so it is repeated with them.
#include <chrono>
#include <condition_variable>
#include <csignal>
#include <cstdlib>
#include <mutex>
#include <optional>
#include <thread>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "tests/e2e/crash_audit.h"
#include "tests/e2e/crash_client.h"
#include "tests/e2e/io_control.h"
#include "tests/support/result_matchers.h"

namespace varve {
namespace {

constexpr int kOperationsPerLife = 30;

struct CrashPoint {
  const char* name;
  IoSet set;
  IoMoment moment;
};

// Sealed pages go to blob files, their index to tables, both become part of the database by the
// manifest; a commit is a record of the log. CURRENT, options and the other files are written when
// the directory is opened, old ones deleted after flushes and when it is opened.
constexpr CrashPoint kPoints[] = {
    {"a blob file is created", SetOf(IoFile::kBlob, IoOp::kCreate), IoMoment::kAfter},
    {"pages are half written", SetOf(IoFile::kBlob, IoOp::kWrite), IoMoment::kHalfDone},
    {"pages are written", SetOf(IoFile::kBlob, IoOp::kWrite), IoMoment::kAfter},
    {"pages are to be synced", SetOf(IoFile::kBlob, IoOp::kSync), IoMoment::kBefore},
    {"pages are synced", SetOf(IoFile::kBlob, IoOp::kSync), IoMoment::kAfter},
    {"a table is half written", SetOf(IoFile::kTable, IoOp::kWrite), IoMoment::kHalfDone},
    {"a table is synced", SetOf(IoFile::kTable, IoOp::kSync), IoMoment::kAfter},
    {"the files of a flush are half named",
     SetOf(IoFile::kManifest, IoOp::kWrite),
     IoMoment::kHalfDone},
    {"the files of a flush are named", SetOf(IoFile::kManifest, IoOp::kWrite), IoMoment::kAfter},
    {"a flush is synced", SetOf(IoFile::kManifest, IoOp::kSync), IoMoment::kAfter},
    {"a log is begun", SetOf(IoFile::kLog, IoOp::kCreate), IoMoment::kAfter},
    {"a commit is half written", SetOf(IoFile::kLog, IoOp::kWrite), IoMoment::kHalfDone},
    {"a commit is written", SetOf(IoFile::kLog, IoOp::kWrite), IoMoment::kAfter},
    {"a commit is synced", SetOf(IoFile::kLog, IoOp::kSync), IoMoment::kAfter},
    {"CURRENT is to be replaced", SetOf(IoFile::kCurrent, IoOp::kRename), IoMoment::kBefore},
    {"CURRENT is replaced", SetOf(IoFile::kCurrent, IoOp::kRename), IoMoment::kAfter},
    {"an old file is to be deleted", SetOf(IoOp::kUnlink), IoMoment::kBefore},
    {"an old file is deleted", SetOf(IoOp::kUnlink), IoMoment::kAfter},
};

int64_t NumberFrom(const char* variable, int64_t otherwise) {
  const char* text = std::getenv(variable);
  return text == nullptr ? otherwise : std::atoll(text);
}

// Of one of the two tests.
int64_t NumRounds() {
  return std::max<int64_t>(1, NumberFrom("VARVE_CRASH_ROUNDS", 20) / 2);
}
// So few rounds repeat a failure: how much they did says nothing.
constexpr int64_t kFewRounds = 10;

// Kills a process after some time, unless it is told that the process is dead already.
class KillerInTime {
 public:
  KillerInTime(pid_t process, int64_t ms)
      : thread_([this, process, ms] {
          std::unique_lock lock(mutex_);
          if (!wake_.wait_for(lock, std::chrono::milliseconds(ms), [this] { return over_; })) {
            ::kill(process, SIGKILL);
          }
        }) {}
  ~KillerInTime() {
    {
      const std::lock_guard lock(mutex_);
      over_ = true;
    }
    wake_.notify_one();
    thread_.join();
  }

 private:
  std::mutex mutex_;
  std::condition_variable wake_;
  bool over_ = false;  // guarded by mutex_
  std::thread thread_;
};

class CrashHarness : public testing::Test {
 protected:
  // The same sizes of steps everywhere: what a step computes depends on where it begins.
  CrashHarness(const char* workers, const char* device, const char* host, CrashAnswers answers)
      : flags_{"--max-step-tokens",
               "128",
               "--threads",
               "2",
               "--log-level",
               "warn",
               "--workers",
               workers,
               "--device-budget",
               device,
               "--host-budget",
               host},
        client_(&documents_, answers) {
    const TempDir data;
    FillStates(ServerProcess(data.path(),
                             {"--max-step-tokens",
                              "128",
                              "--threads",
                              "2",
                              "--workers",
                              workers,
                              "--host-budget",
                              "128MiB"}),
               documents_);
  }

  void Run(uint64_t seed);

  // One life. Returns whether it ended where the round wanted.
  bool Live(Rng& rng, int64_t round) {
    const int64_t kind = round % 3;
    const auto& point = kPoints[static_cast<size_t>(round / 3) % std::size(kPoints)];
    if (kind == 0) {
      io_.KillAt(point.set, point.moment, 1 + static_cast<int64_t>(rng.Below(6)));
    } else if (kind == 1) {
      io_.KillAt(
          kIoWrites, static_cast<IoMoment>(rng.Below(3)), 1 + static_cast<int64_t>(rng.Below(900)));
    }
    const int64_t time_ms = 20 + static_cast<int64_t>(rng.Below(2500));
    SCOPED_TRACE(kind == 0 ? point.name : kind == 1 ? "some file operation" : "some time");
    const auto server = ServerProcess::TryStart(data_.path(), flags_, io_.Environment());
    if (server == nullptr) {
      EXPECT_TRUE(io_.killed()) << "the server ended by itself while starting";
      return io_.killed();
    }
    bool by_time = false;
    {
      std::optional<KillerInTime> killer;
      if (kind == 2) {
        killer.emplace(server->process().pid(), time_ms);
      }
      Result<void> alive = client_.Check(*server);
      EXPECT_TRUE(alive.has_value() || alive.error().code == ErrorCode::kUnavailable);
      double demotions = 0;
      for (int i = 0; alive && i < kOperationsPerLife && !HasFailure(); ++i) {
        alive = client_.Act(*server, rng);
        const auto seen = server->api().ReadMetric("varve_demotions_total", "");
        demotions = seen ? *seen : demotions;
      }
      demotions_ += demotions;
      by_time = kind == 2 && !alive;
    }
    io_.Disarm();
    if (server->process().Running()) {
      server->Kill();
    }
    EXPECT_EQ(server->process().Wait(0), 128 + SIGKILL) << server->process().Err();
    return io_.killed() || by_time;
  }

  const std::vector<std::string> flags_;
  std::vector<CrashDocument> documents_ = MakeCrashDocuments();
  const TempDir data_;
  IoControl io_{data_.path()};
  CrashClient client_;
  double demotions_ = 0;  // that were seen
};

void CrashHarness::Run(uint64_t seed) {
  ASSERT_FALSE(HasFailure());
  const int64_t rounds = NumRounds();
  seed += static_cast<uint64_t>(NumberFrom("VARVE_CRASH_SEED", 0));
  int64_t as_wanted = 0;
  for (int64_t round = 0; round < rounds; ++round) {
    SCOPED_TRACE("round " + std::to_string(round) + " of seed " + std::to_string(seed));
    Rng rng(seed, static_cast<uint64_t>(round));
    as_wanted += Live(rng, round + static_cast<int64_t>(seed)) ? 1 : 0;
    if (round == rounds - 1 || rng.Below(2) == 0) {
      AuditDirectory(data_.path(), static_cast<int>(1 + rng.Below(3)));
    }
    if (HasFailure()) {
      return;
    }
  }
  const ServerProcess server(data_.path(), flags_);
  ASSERT_OK(client_.Check(server));
  EXPECT_EQ(server.DocumentTokensPrefilled(), 0);
  EXPECT_EQ(*server.api().ReadMetric("varve_checksum_failures_total", ""), 0);
  const CrashClient::Counts& counts = client_.counts();
  fmt::print(
      "{} rounds, {} killed where wanted; {} commits, {} deletions, {} answers, {} demotions\n",
      rounds,
      as_wanted,
      counts.commits,
      counts.deletions,
      counts.answers,
      demotions_);
  if (rounds >= kFewRounds) {
    EXPECT_GT(as_wanted, rounds / 3);
    EXPECT_GT(counts.commits, rounds);
    EXPECT_GT(counts.answers, rounds);
  }
}

class RoomyCrashHarness : public CrashHarness {
 protected:
  RoomyCrashHarness() : CrashHarness("1", "0", "128MiB", CrashAnswers::kIdentical) {}
};

TEST_F(RoomyCrashHarness, AnswersAreIdenticalToThoseOfAServerThatNeverDied) {
  Run(1);
}

// Both workers spill, read back and demote pages all the time.
class TightCrashHarness : public CrashHarness {
 protected:
  TightCrashHarness() : CrashHarness("2", "2560KiB", "1MiB", CrashAnswers::kRounded) {}
};

TEST_F(TightCrashHarness, NothingReportedDurableIsLostWhilePagesSpillAndGoDown) {
  Run(1001);
  EXPECT_TRUE(demotions_ > 0 || NumRounds() < kFewRounds);
}

}  // namespace
}  // namespace varve
