// Goal: whatever moment a process dies at, the last version that it reported committed is there,
// whole and readable, or the one that it was committing; no page is missing, none is left over.
// Method: this binary runs itself as a child that ingests, commits and deletes over a directory,
// and dies by SIGKILL at a named point, at a chosen file operation, or at a random time; the parent
// reopens the directory with another number of workers and looks at everything. A second test cuts
// the power instead: what was never synced is lost too.
//
// VARVE_CRASH_ROUNDS sets the number of rounds; a failure prints the seed of its round.
#include <array>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <sstream>
#include <thread>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kvstore/page_grid.h"
#include "proto/base/file.h"
#include "proto/base/rng.h"
#include "tests/kvstore/store_rig.h"

namespace varve {
namespace {

constexpr SequenceId kIngest{501};
constexpr SequenceId kReader{502};
constexpr int64_t kTokensMax = 1500;
constexpr std::array<const char*, 10> kPoints = {"stepped",
                                                 "maintained",
                                                 "half-prepared",
                                                 "prepared",
                                                 "committed",
                                                 "half-finished",
                                                 "finished",
                                                 "closed",
                                                 "deleting",
                                                 "deleted"};

KvGeometry CrashGeometry() {
  return MakeGeometry(2, 32, {0, 40, 0});
}

// What a process reports to whoever looks after it has died: lines "try V N" and "ok V N", N
// tokens, -1: deleted.
class Journal {
 public:
  explicit Journal(std::string path) : path_(std::move(path)) {}

  void Write(const char* word, uint64_t id, uint64_t version, int64_t tokens) const {
    const std::string line = std::string(word) + " " + std::to_string(id) + " " +
                             std::to_string(version) + " " + std::to_string(tokens) + "\n";
    const int fd = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    VARVE_CHECK(fd >= 0 &&
                ::write(fd, line.data(), line.size()) == static_cast<ssize_t>(line.size()));
    ::close(fd);
  }
  struct Entry {
    std::string word;
    uint64_t id = 0;
    uint64_t version = 0;
    int64_t tokens = 0;
  };
  std::vector<Entry> Read() const {
    std::vector<Entry> entries;
    std::istringstream lines(ReadFile(path_).value());
    for (Entry entry; lines >> entry.word >> entry.id >> entry.version >> entry.tokens;) {
      entries.push_back(entry);
    }
    return entries;
  }

 private:
  std::string path_;
};

// Every other context has a ladder that pages go down as soon as there are some dozens.
KvPolicy PolicyOf(uint64_t id) {
  KvPolicy policy = SmallPolicy();
  policy.cold_codec = id % 2 == 0 ? "int4" : "";
  return policy;
}

// One process life: ingests, commits and deletes until its time comes.
class Life {
 public:
  Life(const std::string& dir, uint64_t seed, std::shared_ptr<FaultFileSystem> files)
      : rng_(seed), journal_(dir + "/journal"), files_(std::move(files)) {
    options_.directory = dir + "/data";
    options_.memory_bytes = 8 * kMiB;
  }
  void DieAt(std::string point, int64_t times) {
    point_ = std::move(point);
    times_ = times;
  }

  // Ends with the first error (the power is gone) or after `num_steps`.
  Result<void> Run(int num_steps) {
    VARVE_TRY(disk_, OpenDiskTier(options_, MakeEnv(files_)));
    group_ = std::make_unique<StoreGroup>(
        CrashGeometry(), static_cast<int>(1 + rng_.Below(3)), 256 * kKiB, disk_.get());
    VARVE_TRY(const auto manifests, disk_->ListManifests());
    for (const ContextManifest& manifest : manifests) {
      VARVE_RETURN_IF_ERROR(group_->RecoverContext(manifest));
      committed_ = manifest;
    }
    VARVE_RETURN_IF_ERROR(group_->FinishRecovery());
    if (manifests.empty()) {
      VARVE_RETURN_IF_ERROR(Create());
    }
    VARVE_RETURN_IF_ERROR(group_->OpenSequence(kIngest, IngestOf(committed_.id.value)));
    for (int step = 0; step < num_steps; ++step) {
      const uint64_t salt = committed_.id.value;
      VARVE_RETURN_IF_ERROR(group_->Step(kIngest, salt, static_cast<int32_t>(1 + rng_.Below(60))));
      Point("stepped");
      for (int rank = 0; rank < group_->num_workers(); ++rank) {
        group_->store(rank).Maintain();
        Point("maintained");
      }
      if (rng_.Below(4) == 0) {
        VARVE_RETURN_IF_ERROR(Commit());
      }
      if (committed_.num_tokens > kTokensMax) {
        VARVE_RETURN_IF_ERROR(Replace());
      }
    }
    return {};
  }

 private:
  void Point(const char* name) {
    if (name == point_ && --times_ == 0) {
      ::raise(SIGKILL);
    }
  }

  Result<void> Create() {
    const uint64_t id = committed_.id.value + 1 + rng_.Below(1000);
    committed_ = Version(id, 0, 0, PolicyOf(id));
    return group_->CreateContext(committed_);
  }

  Result<void> Commit() {
    ContextManifest manifest = Version(committed_.id.value,
                                       committed_.version + 1,
                                       group_->Length(kIngest),
                                       PolicyOf(committed_.id.value));
    journal_.Write("try", manifest.id.value, manifest.version, manifest.num_tokens);
    for (int rank = 0; rank < group_->num_workers(); ++rank) {
      VARVE_RETURN_IF_ERROR(group_->store(rank).PrepareCommit(kIngest, manifest));
      Point("half-prepared");
    }
    Point("prepared");
    VARVE_RETURN_IF_ERROR(
        disk_->CommitManifest(manifest, MakeAppend(committed_.num_tokens, manifest.num_tokens)));
    Point("committed");
    journal_.Write("ok", manifest.id.value, manifest.version, manifest.num_tokens);
    for (int rank = 0; rank < group_->num_workers(); ++rank) {
      VARVE_RETURN_IF_ERROR(group_->store(rank).FinishCommit(manifest));
      Point("half-finished");
    }
    Point("finished");
    committed_ = manifest;
    return {};
  }

  // Deletes the context and begins another.
  Result<void> Replace() {
    VARVE_RETURN_IF_ERROR(group_->CloseSequence(kIngest));
    Point("closed");
    journal_.Write("try", committed_.id.value, committed_.version, -1);
    Point("deleting");
    VARVE_RETURN_IF_ERROR(group_->DeleteContext(committed_.id));
    Point("deleted");
    journal_.Write("ok", committed_.id.value, committed_.version, -1);
    VARVE_RETURN_IF_ERROR(Create());
    return group_->OpenSequence(kIngest, IngestOf(committed_.id.value));
  }

  Rng rng_;
  Journal journal_;
  std::shared_ptr<FaultFileSystem> files_;
  DiskTierOptions options_;
  std::unique_ptr<DiskTier> disk_;
  std::unique_ptr<StoreGroup> group_;
  ContextManifest committed_;
  std::string point_;
  int64_t times_ = 0;
};

// Reads the context whole, as a request would.
void ReadEverything(StoreGroup& group, const ContextManifest& manifest) {
  ASSERT_OK(group.OpenSequence(kReader, Behind(manifest.id.value, manifest.num_tokens)));
  ASSERT_OK(group.Step(kReader, 99, 1, [&] {
    for (int32_t layer = 0; layer < 3; ++layer) {
      const auto seen = group.Read(kReader, layer, manifest.num_tokens, manifest.num_tokens);
      ASSERT_OK(seen);
      const int64_t window = CrashGeometry().layer_windows[static_cast<size_t>(layer)];
      const int64_t low =
          window == 0 ? 0 : std::max<int64_t>(0, manifest.num_tokens - window + 1) / 16 * 16;
      ASSERT_EQ(static_cast<int64_t>(seen->size()), manifest.num_tokens + 1 - low);
      for (size_t i = 0; i + 1 < seen->size(); ++i) {
        const SeenToken& token = (*seen)[i];
        ASSERT_EQ(token.position, low + static_cast<int64_t>(i));
        ASSERT_NEAR(token.k[5],
                    KeyAt(manifest.id.value, layer, token.position, 5),
                    CodecSlack(token.codec));
      }
    }
  }));
  ASSERT_OK(group.CloseSequence(kReader));
}

// The directory holds exactly what was last reported, or what was being done.
void CheckDirectory(const std::string& dir, int num_workers) {
  DiskTierOptions options;
  options.directory = dir + "/data";
  options.memory_bytes = 8 * kMiB;
  auto disk = DiskTier::Open(options);
  ASSERT_OK(disk);
  const auto manifests = (*disk)->ListManifests();
  ASSERT_OK(manifests);
  ASSERT_LE(manifests->size(), 1U);
  Journal::Entry last;
  Journal::Entry before;
  for (const Journal::Entry& entry : Journal(dir + "/journal").Read()) {
    (entry.word == "ok" ? before : last) = entry;
    last = entry;
  }
  const Journal::Entry now =
      manifests->empty()
          ? Journal::Entry{"", 0, 0, -1}
          : Journal::Entry{
                "", (*manifests)[0].id.value, (*manifests)[0].version, (*manifests)[0].num_tokens};
  const auto is = [&](const Journal::Entry& entry) {
    const bool nothing = entry.tokens <= 0;
    return nothing
               ? manifests->empty()
               : now.id == entry.id && now.version == entry.version && now.tokens == entry.tokens;
  };
  ASSERT_TRUE(is(last) || is(before))
      << "found version " << now.version << " of " << now.tokens << " tokens; " << last.word << " "
      << last.version << " " << last.tokens << " was reported last, " << before.version << " "
      << before.tokens << " done";
  StoreGroup group(CrashGeometry(), num_workers, 256 * kKiB, disk->get());
  uint64_t expected_bytes = 0;
  for (const ContextManifest& manifest : *manifests) {
    ASSERT_OK(group.RecoverContext(manifest));
    ASSERT_OK(group.FinishRecovery());
    ReadEverything(group, manifest);
    EXPECT_EQ((*disk)->ReadTokens(manifest.id).value(), MakeAppend(0, manifest.num_tokens).tokens);
    EXPECT_EQ((*disk)->ReadText(manifest.id).value(), MakeAppend(0, manifest.num_tokens).text);
    for (int rank = 0; rank < num_workers; ++rank) {
      expected_bytes += group.store(rank).GetContextUsage(manifest.id)->disk_bytes;
    }
    expected_bytes +=
        static_cast<uint64_t>(5 * manifest.num_tokens) + manifest.version * 2 * (18 + 45);
  }
  EXPECT_EQ((*disk)->GetStats().bytes.used, expected_bytes) << "something is left over";
}

int NumRounds() {
  const char* rounds = std::getenv("VARVE_CRASH_ROUNDS");
  return rounds == nullptr ? 30 : std::atoi(rounds);
}

// The child of the test below: "DIR SEED POINT TIMES OPERATION".
TEST(CrashChild, Lives) {
  const char* order = std::getenv("VARVE_CRASH_CHILD");
  if (order == nullptr) {
    return;
  }
  std::istringstream words(order);
  std::string dir;
  uint64_t seed = 0;
  std::string point;
  int64_t times = 0;
  int64_t operation = 0;
  words >> dir >> seed >> point >> times >> operation;
  auto files = std::make_shared<FaultFileSystem>();
  files->KillAt(operation);
  Life life(dir, seed, files);
  life.DieAt(point, times);
  ASSERT_OK(life.Run(400));
}

pid_t StartChild(const std::string& order) {
  const pid_t child = ::fork();
  if (child == 0) {
    ::setenv("VARVE_CRASH_CHILD", order.c_str(), 1);
    ::execl("/proc/self/exe", "kvstore_crash_test", "--gtest_filter=CrashChild.Lives", nullptr);
    ::_exit(127);
  }
  return child;
}

TEST(KvStoreCrash, TheLastCommitSurvivesAKillAtAnyMoment) {
  TempDir dir;
  Journal(dir.path() + "/journal").Write("ok", 0, 0, -1);
  int killed = 0;
  for (int round = 0; round < NumRounds() && !HasFailure(); ++round) {
    const auto seed = static_cast<uint64_t>(1000 + round);
    SCOPED_TRACE("round " + std::to_string(round));
    Rng rng(seed);
    const int kind = round % 3;
    const std::string point =
        kind == 0 ? kPoints[static_cast<size_t>(round / 3) % kPoints.size()] : "-";
    const uint64_t operation = kind == 1 ? 1 + rng.Below(600) : 0;
    const pid_t child =
        StartChild(dir.path() + " " + std::to_string(seed) + " " + point + " " +
                   std::to_string(1 + rng.Below(2)) + " " + std::to_string(operation));
    ASSERT_GT(child, 0);
    if (kind == 2) {
      std::this_thread::sleep_for(std::chrono::milliseconds(20 + rng.Below(600)));
      ::kill(child, SIGKILL);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    killed += WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL ? 1 : 0;
    ASSERT_TRUE(WIFSIGNALED(status) || WEXITSTATUS(status) == 0) << "the child failed";
    static constexpr int kWorkers[] = {1, 2, 3, 8};
    CheckDirectory(dir.path(), kWorkers[rng.Below(4)]);
  }
  EXPECT_GT(killed, NumRounds() / 2);
}

TEST(KvStoreCrash, TheLastCommitSurvivesAPowerCut) {
  const int rounds = std::max(4, NumRounds() / 4);
  int cut = 0;
  for (int round = 0; round < rounds && !HasFailure(); ++round) {
    TempDir dir;
    SCOPED_TRACE("round " + std::to_string(round));
    Rng rng(static_cast<uint64_t>(77 + round));
    Journal(dir.path() + "/journal").Write("ok", 0, 0, -1);
    auto files = std::make_shared<FaultFileSystem>();
    files->CutPowerAt(static_cast<int64_t>(1 + rng.Below(1200)));
    { const Result<void> ended = Life(dir.path(), rng.Next(), files).Run(150); }
    cut += files->power_is_cut() ? 1 : 0;
    files->LoseUnsynced();
    CheckDirectory(dir.path(), static_cast<int>(1 + rng.Below(3)));
  }
  EXPECT_GT(cut, rounds / 2);
}

TEST(KvStoreCrash, ASecondProcessIsRefusedTheDirectory) {
  TempDir dir;
  Journal(dir.path() + "/journal").Write("ok", 0, 0, -1);
  const pid_t child = StartChild(dir.path() + " 1 - 0 0");
  ASSERT_GT(child, 0);
  DiskTierOptions options;
  options.directory = dir.path() + "/data";
  options.memory_bytes = 8 * kMiB;
  // The child has the lock as soon as its lock file is there with a process id in it.
  while (!FileExists(options.directory + "/db/CURRENT")) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  const auto refused = DiskTier::Open(options);
  EXPECT_ERROR(refused, ErrorCode::kDataDirLocked);
  EXPECT_NE(refused.error().message.find(std::to_string(child)), std::string::npos)
      << refused.error().message;
  ::kill(child, SIGKILL);
  ASSERT_EQ(::waitpid(child, nullptr, 0), child);
  EXPECT_OK(DiskTier::Open(options));
}

}  // namespace
}  // namespace varve
