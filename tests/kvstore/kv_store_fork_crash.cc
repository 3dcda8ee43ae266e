// Forks and deletions across a process's death. A process forks, appends to and deletes contexts
// until it is killed at a named point, at a random disk operation, or its power is cut. Then every
// context that was reported is there whole, no deleted one is, and nothing is left over.
#include <array>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <map>
#include <sstream>

#include <sys/wait.h>
#include <unistd.h>

#include "proto/base/rng.h"
#include "tests/kvstore/store_rig.h"

namespace varve {
namespace {

constexpr SequenceId kIngest{501};
constexpr SequenceId kReader{502};
constexpr uint64_t kGrowthMax = 180;  // tokens of a commit
constexpr uint64_t kSalt = 3;         // every context has the same numbers at the same positions
constexpr std::array<const char*, 6> kPoints =
    {"forked", "registered", "committed", "finished", "deleting", "deleted"};

KvGeometry CrashGeometry() {
  return MakeGeometry(2, 8, {0, 40, 0});
}

// Appends "try WORD ID TOKENS" before an operation and "ok ..." when it is reported done.
class Journal {
 public:
  explicit Journal(const std::string& dir) : path_(dir + "/journal") {}

  void Write(const std::string& line) const {
    std::ofstream out(path_, std::ios::app);
    out << line << std::endl;
  }
  // Lengths by context: as reported, and as they would be if the last operation came through.
  struct Expected {
    std::map<uint64_t, int64_t> reported;
    std::map<uint64_t, int64_t> tried;
  };
  Expected Read() const {
    Expected expected;
    std::ifstream in(path_);
    std::string word;
    uint64_t id = 0;
    int64_t tokens = 0;
    while (in >> word >> id >> tokens) {
      expected.tried = expected.reported;
      if (tokens < 0) {
        expected.tried.erase(id);
      } else {
        expected.tried[id] = tokens;
      }
      if (word == "ok") {
        expected.reported = expected.tried;
      }
    }
    return expected;
  }
  // The last operation, which nobody reported, came through: the next process goes on from there.
  void Settle(const Expected& expected) const {
    for (const auto& [id, tokens] : expected.reported) {
      if (!expected.tried.contains(id)) {
        Write("ok " + std::to_string(id) + " -1");
      }
    }
    for (const auto& [id, tokens] : expected.tried) {
      Write("ok " + std::to_string(id) + " " + std::to_string(tokens));
    }
  }

 private:
  std::string path_;
};

class Life {
 public:
  Life(const std::string& dir, uint64_t seed, std::shared_ptr<FaultFileSystem> files)
      : rng_(seed), journal_(dir), files_(std::move(files)) {
    options_.directory = dir + "/data";
    options_.memory_bytes = 8 * kMiB;
  }
  void DieAt(std::string point, int64_t times) {
    point_ = std::move(point);
    times_ = times;
  }

  // Ends with the first error (the power is gone) or after num_operations.
  Result<void> Run(int num_operations) {
    VARVE_TRY(disk_, OpenDiskTier(options_, MakeEnv(files_)));
    group_ = std::make_unique<StoreGroup>(
        CrashGeometry(), static_cast<int>(1 + rng_.Below(3)), 64 * kKiB, disk_.get());
    VARVE_TRY(const auto manifests, disk_->ListManifests());
    for (const ContextManifest& manifest : manifests) {
      VARVE_RETURN_IF_ERROR(group_->RecoverContext(manifest));
      contexts_[manifest.id.value] = manifest;
      last_id_ = std::max(last_id_, manifest.id.value);
    }
    VARVE_RETURN_IF_ERROR(group_->FinishRecovery());
    for (int i = 0; i < num_operations; ++i) {
      VARVE_RETURN_IF_ERROR(Operate());
    }
    return {};
  }

 private:
  Result<void> Operate() {
    if (contexts_.empty()) {
      last_id_ += 1 + rng_.Below(1000);
      contexts_[last_id_] = Version(last_id_, 0, 0);
      VARVE_RETURN_IF_ERROR(group_->CreateContext(contexts_[last_id_]));
      return Grow(contexts_[last_id_]);
    }
    auto context = contexts_.begin();
    std::advance(context, rng_.Below(contexts_.size()));
    const uint64_t kind = rng_.Below(4);
    if (kind == 0 && contexts_.size() < 6) {
      return Fork(context->second);
    }
    if (kind == 1 && contexts_.size() > 1) {
      return Delete(context->first);
    }
    return Grow(context->second);
  }

  Result<void> Fork(const ContextManifest& source) {
    const uint64_t id = ++last_id_;
    VARVE_TRY(
        ContextManifest fork,
        ForkOf(
            source,
            {.source = source.id, .id = ContextId{id}, .name = "context-" + std::to_string(id)}));
    Try(id, fork.num_tokens);
    for (int rank = 0; rank < group_->num_workers(); ++rank) {
      VARVE_RETURN_IF_ERROR(group_->store(rank).ForkContext(source.id, fork));
    }
    Point("registered");
    VARVE_RETURN_IF_ERROR(disk_->WriteManifest(fork));
    Point("forked");
    Done(id, fork.num_tokens);
    contexts_[id] = std::move(fork);
    return {};
  }

  Result<void> Grow(ContextManifest& context) {
    VARVE_RETURN_IF_ERROR(group_->OpenSequence(kIngest, IngestOf(context.id.value)));
    for (int step = 0; step < 3; ++step) {
      const auto tokens = static_cast<int32_t>(1 + rng_.Below(60));
      VARVE_RETURN_IF_ERROR(group_->Step(kIngest, kSalt, tokens));
    }
    ContextManifest next = context;
    ++next.version;
    next.tail = {};
    next.num_tokens = group_->Length(kIngest);
    next.text_bytes = static_cast<uint64_t>(next.num_tokens);
    Try(next.id.value, next.num_tokens);
    VARVE_RETURN_IF_ERROR(group_->Prepare(kIngest, next));
    VARVE_RETURN_IF_ERROR(
        disk_->CommitManifest(next, MakeAppend(context.num_tokens, next.num_tokens)));
    Point("committed");
    Done(next.id.value, next.num_tokens);
    VARVE_RETURN_IF_ERROR(group_->Finish(next));
    Point("finished");
    context = std::move(next);
    return group_->CloseSequence(kIngest);
  }

  Result<void> Delete(uint64_t id) {
    Try(id, -1);
    Point("deleting");
    VARVE_RETURN_IF_ERROR(group_->DeleteContext(ContextId{id}));
    Point("deleted");
    Done(id, -1);
    contexts_.erase(id);
    return {};
  }

  void Try(uint64_t id, int64_t tokens) { Report("try", id, tokens); }
  void Done(uint64_t id, int64_t tokens) { Report("ok", id, tokens); }
  void Report(const char* word, uint64_t id, int64_t tokens) {
    journal_.Write(std::string(word) + " " + std::to_string(id) + " " + std::to_string(tokens));
  }
  void Point(const char* name) {
    if (name == point_ && --times_ == 0) {
      ::raise(SIGKILL);
    }
  }

  Rng rng_;
  Journal journal_;
  std::shared_ptr<FaultFileSystem> files_;
  DiskTierOptions options_;
  std::unique_ptr<DiskTier> disk_;
  std::unique_ptr<StoreGroup> group_;
  std::map<uint64_t, ContextManifest> contexts_;
  uint64_t last_id_ = 0;
  std::string point_;
  int64_t times_ = 0;
};

void ReadEverything(StoreGroup& group, const ContextManifest& manifest) {
  SCOPED_TRACE("context " + std::to_string(manifest.id.value));
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
        ASSERT_NEAR(token.k[5], KeyAt(kSalt, layer, token.position, 5), 2.0F / 127);
      }
    }
  }));
  ASSERT_OK(group.CloseSequence(kReader));
}

// Of each owner, the newest version whose text some context names.
std::map<uint64_t, uint64_t> NamedTexts(const std::vector<ContextManifest>& manifests) {
  std::map<uint64_t, uint64_t> versions;
  for (const ContextManifest& manifest : manifests) {
    versions[manifest.id.value] = std::max(versions[manifest.id.value], manifest.version);
    for (const LineagePart& part : manifest.lineage) {
      versions[part.owner.value] = std::max(versions[part.owner.value], part.version);
    }
  }
  return versions;
}

void CheckDirectory(const std::string& dir, int num_workers) {
  DiskTierOptions options;
  options.directory = dir + "/data";
  options.memory_bytes = 8 * kMiB;
  const auto disk = DiskTier::Open(options);
  ASSERT_OK(disk);
  const auto manifests = (*disk)->ListManifests();
  ASSERT_OK(manifests);
  std::map<uint64_t, int64_t> found;
  for (const ContextManifest& manifest : *manifests) {
    found[manifest.id.value] = manifest.num_tokens;
  }
  const Journal::Expected expected = Journal(dir).Read();
  ASSERT_TRUE(found == expected.reported || found == expected.tried);
  if (found != expected.reported) {
    Journal(dir).Settle(expected);
  }
  {
    StoreGroup group(CrashGeometry(), num_workers, 64 * kKiB, disk->get());
    for (const ContextManifest& manifest : *manifests) {
      ASSERT_OK(group.RecoverContext(manifest));
    }
    ASSERT_OK(group.FinishRecovery());
    const uint64_t used = (*disk)->GetStats().bytes.used;
    uint64_t own_bytes = 0;
    for (const ContextManifest& manifest : *manifests) {
      ReadEverything(group, manifest);
      EXPECT_EQ((*disk)->ReadTokens(manifest.id).value(),
                MakeAppend(0, manifest.num_tokens).tokens);
      EXPECT_EQ((*disk)->ReadText(manifest.id).value(), MakeAppend(0, manifest.num_tokens).text);
      for (int rank = 0; rank < num_workers; ++rank) {
        const auto usage = group.store(rank).GetContextUsage(manifest.id);
        ASSERT_OK(usage);
        own_bytes += usage->disk_bytes - usage->shared_disk_bytes;
      }
    }
    // Beside pages and tails there is nothing but text records: at most as many as all commits
    // made.
    EXPECT_LE(own_bytes, used);
    uint64_t text_bytes = 0;
    for (const auto& [owner, version] : NamedTexts(*manifests)) {
      text_bytes += version * 2 * 63 + 5 * kGrowthMax * version;
    }
    EXPECT_LE(used, own_bytes + text_bytes) << "something is left over";
  }
}

int NumRounds() {
  const char* rounds = std::getenv("VARVE_CRASH_ROUNDS");
  return rounds == nullptr ? 24 : std::atoi(rounds);
}

// The child of the test below: "DIR SEED POINT TIMES OPERATION".
TEST(ForkCrashChild, Lives) {
  const char* order = std::getenv("VARVE_FORK_CRASH_CHILD");
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
  ASSERT_OK(life.Run(60));
}

pid_t StartChild(const std::string& order) {
  const pid_t child = ::fork();
  if (child == 0) {
    ::setenv("VARVE_FORK_CRASH_CHILD", order.c_str(), 1);
    ::execl("/proc/self/exe", "kvstore_crash_test", "--gtest_filter=ForkCrashChild.Lives", nullptr);
    ::_exit(127);
  }
  return child;
}

TEST(KvStoreForkCrash, ForksAndDeletionsSurviveAKillAtAnyMoment) {
  TempDir dir;
  int killed = 0;
  for (int round = 0; round < NumRounds() && !HasFailure(); ++round) {
    SCOPED_TRACE("round " + std::to_string(round));
    const auto seed = static_cast<uint64_t>(2000 + round);
    Rng rng(seed);
    const bool at_point = round % 2 == 0;
    const std::string point =
        at_point ? kPoints[static_cast<size_t>(round / 2) % kPoints.size()] : "-";
    const uint64_t operation = at_point ? 0 : 1 + rng.Below(400);
    const pid_t child =
        StartChild(dir.path() + " " + std::to_string(seed) + " " + point + " " +
                   std::to_string(1 + rng.Below(3)) + " " + std::to_string(operation));
    ASSERT_GT(child, 0);
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    killed += WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL ? 1 : 0;
    ASSERT_TRUE(WIFSIGNALED(status) || WEXITSTATUS(status) == 0) << "the child failed";
    CheckDirectory(dir.path(), static_cast<int>(1 + rng.Below(3)));
  }
  EXPECT_GT(killed, NumRounds() / 2);
}

TEST(KvStoreForkCrash, ForksAndDeletionsSurviveAPowerCut) {
  int cut = 0;
  const int rounds = std::max(4, NumRounds() / 4);
  for (int round = 0; round < rounds && !HasFailure(); ++round) {
    TempDir dir;
    SCOPED_TRACE("round " + std::to_string(round));
    Rng rng(static_cast<uint64_t>(177 + round));
    auto files = std::make_shared<FaultFileSystem>();
    files->CutPowerAt(static_cast<int64_t>(1 + rng.Below(1200)));
    { const Result<void> ended = Life(dir.path(), rng.Next(), files).Run(60); }
    cut += files->power_is_cut() ? 1 : 0;
    files->LoseUnsynced();
    CheckDirectory(dir.path(), static_cast<int>(1 + rng.Below(3)));
  }
  EXPECT_GT(cut, rounds / 2);
}

}  // namespace
}  // namespace varve
