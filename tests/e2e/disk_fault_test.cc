// A disk that fails under the real server: full, read-only, with errors, slow. Whatever it does,
// the user is told by name, nothing that was committed is lost, what is there is served on, and
// when the fault is over the server goes on, or says that it needs a restart.
//
// Faults come from a library that the loader puts before libc (io_shim.h), and from real
// filesystems where this process may mount them; where it may not, those tests are skipped.
#include <cerrno>
#include <chrono>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/e2e/crash_audit.h"
#include "tests/e2e/crash_client.h"
#include "tests/e2e/io_control.h"
#include "tests/e2e/small_filesystem.h"
#include "tests/support/result_matchers.h"

#include <nlohmann/json.hpp>

namespace varve {
namespace {

using Json = nlohmann::json;
using testing::HasSubstr;

constexpr int kTimeoutMs = 60'000;

// A server with one context, and its user.
class DiskUser {
 public:
  DiskUser(std::string data_dir,
           std::map<std::string, std::string> environment,
           std::string host_budget = "64MiB")
      : data_dir_(std::move(data_dir)),
        environment_(std::move(environment)),
        flags_{"--max-step-tokens", "128", "--log-level", "warn", "--host-budget", host_budget} {
    Restart();
  }

  const ServerProcess& server() const { return *server_; }
  void Restart() {
    server_.reset();
    server_ = ServerProcess::TryStart(data_dir_, flags_, environment_);
    VARVE_CHECK(server_ != nullptr);
  }
  void Stop() { server_.reset(); }

  // Sends the next piece of the document. Returns what became of it: "ready", or "failed" with the
  // reason. After a failure the same piece is sent again.
  cli::ContextInfo Grow() {
    const auto before = server_->api().FindContext(document_.name);
    EXPECT_OK(before);
    const bool exists = before && before->has_value();
    const uint64_t committed = exists ? (*before)->text_bytes : 0;
    size_t piece = 0;
    for (uint64_t sum = 0; sum < committed; ++piece) {
      sum += document_.pieces[piece].size();
    }
    Json body = {{"text", document_.pieces.at(piece)}};
    if (exists) {
      body["offset"] = committed;
      body["hash"] = (*before)->text_hash;
    } else {
      body["name"] = document_.name;
      body["kv"] = {{"codec", "int8"}, {"page_tokens", 64}};
    }
    const auto sent =
        server_->Send("POST",
                      exists ? "/v1/contexts/" + document_.name + "/append" : "/v1/contexts",
                      body.dump());
    EXPECT_OK(sent);
    EXPECT_EQ(sent->status, 202) << sent->body;
    return Settle();
  }
  // Until nothing is being ingested.
  cli::ContextInfo Settle() {
    for (int waited_ms = 0; waited_ms < kTimeoutMs; waited_ms += 5) {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
      const auto info = server_->api().GetContext(document_.name);
      EXPECT_OK(info);
      if (info && info->status != "ingesting") {
        return *info;
      }
    }
    ADD_FAILURE() << "still ingesting";
    return {};
  }
  // Until one is committed.
  cli::ContextInfo GrowWhenPossible() {
    cli::ContextInfo info = Grow();
    for (int waited_ms = 0; info.status == "failed" && waited_ms < kTimeoutMs; waited_ms += 100) {
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
      info = Grow();
    }
    EXPECT_EQ(info.status, "ready") << info.error;
    return info;
  }
  Result<Fingerprint> Ask() { return AskFingerprint(*server_, document_.name, document_.question); }
  void ExpectAnswer(const Fingerprint& before) {
    const auto now = Ask();
    ASSERT_OK(now);
    EXPECT_EQ(now->all, before.all);
  }
  // Another context, that stays as it is.
  void KeepAnother() {
    const Json body = {{"name", "kept"}, {"text", document_.pieces[1]}};
    const auto sent = server_->Send("POST", "/v1/contexts", body.dump());
    ASSERT_OK(sent);
    ASSERT_EQ(sent->status, 202) << sent->body;
    Result<Fingerprint> asked = AskFingerprint(*server_, "kept", document_.question);
    for (int waited_ms = 0; !asked && waited_ms < kTimeoutMs; waited_ms += 5) {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
      asked = AskFingerprint(*server_, "kept", document_.question);
    }
    ASSERT_OK(asked);
    kept_ = *asked;
  }
  void ExpectTheOtherServed() {
    const auto now = AskFingerprint(*server_, "kept", document_.question);
    ASSERT_OK(now);
    EXPECT_EQ(now->all, kept_.all);
  }
  double DiskErrors(const std::string& reason) {
    const auto count =
        server_->api().ReadMetric("varve_disk_errors_total", "reason=\"" + reason + "\"");
    EXPECT_OK(count);
    return count ? *count : -1;
  }

 private:
  const std::string data_dir_;
  const std::map<std::string, std::string> environment_;
  const std::vector<std::string> flags_;
  const CrashDocument document_ = MakeCrashDocuments()[0];
  Fingerprint kept_;
  std::unique_ptr<ServerProcess> server_;
};

class DiskFaultTest : public testing::Test {
 protected:
  const TempDir data_;
  IoControl io_{data_.path()};
};

TEST_F(DiskFaultTest, AFullDiskRefusesByNameAndTheServerGoesOnWhenThereIsSpace) {
  DiskUser user(data_.path(), io_.Environment());
  user.KeepAnother();
  const cli::ContextInfo committed = user.Grow();
  ASSERT_EQ(committed.status, "ready") << committed.error;
  const auto before = user.Ask();
  ASSERT_OK(before);

  io_.Fail(SetOf(IoOp::kWrite), ENOSPC);
  const cli::ContextInfo refused = user.Grow();
  EXPECT_EQ(refused.status, "failed");
  user.ExpectTheOtherServed();
  EXPECT_THAT(refused.error, HasSubstr("No space left"));
  EXPECT_THAT(refused.error, HasSubstr("writes go on some seconds after 256 MiB are free"));
  EXPECT_EQ(refused.text_bytes, committed.text_bytes);
  EXPECT_GT(user.DiskErrors("no_space"), 0);

  io_.Heal();
  const cli::ContextInfo grown = user.GrowWhenPossible();
  EXPECT_GT(grown.text_bytes, committed.text_bytes);
  user.Restart();
  const auto after = user.Ask();
  ASSERT_OK(after);
  EXPECT_NE(after->all, before->all);
  user.Stop();
  AuditDirectory(data_.path(), 2);
}

// Not even a file can be made: RocksDB, which begins a log with every flush, gives up.
TEST_F(DiskFaultTest, ADiskWithoutRoomForAFileAsksForSpaceAndARestart) {
  DiskUser user(data_.path(), io_.Environment());
  user.KeepAnother();
  const cli::ContextInfo committed = user.Grow();
  ASSERT_EQ(committed.status, "ready") << committed.error;
  const auto before = user.Ask();
  ASSERT_OK(before);
  io_.Fail(SetOf(IoOp::kWrite) | SetOf(IoOp::kCreate), ENOSPC);
  const cli::ContextInfo refused = user.Grow();
  EXPECT_EQ(refused.status, "failed");
  user.ExpectTheOtherServed();
  EXPECT_THAT(refused.error, HasSubstr("free space on its filesystem, then restart"));
  io_.Heal();
  user.Restart();
  user.ExpectAnswer(*before);
  EXPECT_EQ(user.GrowWhenPossible().status, "ready");
  user.Stop();
  AuditDirectory(data_.path(), 1);
}

TEST_F(DiskFaultTest, AnErrorOfTheLogIsNamedAndARestartIsAskedFor) {
  DiskUser user(data_.path(), io_.Environment());
  user.KeepAnother();
  const cli::ContextInfo committed = user.Grow();
  ASSERT_EQ(committed.status, "ready") << committed.error;
  io_.Fail(SetOf(IoFile::kLog, IoOp::kWrite) | SetOf(IoFile::kLog, IoOp::kSync), EIO);
  const cli::ContextInfo refused = user.Grow();
  EXPECT_EQ(refused.status, "failed");
  user.ExpectTheOtherServed();
  EXPECT_THAT(refused.error, HasSubstr("Input/output error"));
  EXPECT_EQ(refused.text_bytes, committed.text_bytes);
  EXPECT_GT(user.DiskErrors("write"), 0);
  io_.Heal();
  const cli::ContextInfo still = user.Grow();
  EXPECT_EQ(still.status, "failed");
  EXPECT_THAT(still.error, HasSubstr("restart"));
  user.Restart();
  EXPECT_EQ(user.GrowWhenPossible().status, "ready");
  user.Stop();
  AuditDirectory(data_.path(), 1);
}

TEST_F(DiskFaultTest, AReadErrorIsAnsweredByNameAndPassesWithItsCause) {
  DiskUser user(data_.path(), io_.Environment());
  ASSERT_EQ(user.Grow().status, "ready");
  const auto before = user.Ask();
  ASSERT_OK(before);
  user.Restart();  // nothing is in memory
  io_.Fail(SetOf(IoFile::kBlob, IoOp::kRead) | SetOf(IoFile::kTable, IoOp::kRead), EIO);
  const auto refused = user.Ask();
  ASSERT_FALSE(refused.has_value());
  EXPECT_THAT(refused.error().message, HasSubstr("io_error"));
  EXPECT_THAT(refused.error().message, HasSubstr("Input/output error"));
  EXPECT_GT(user.DiskErrors("read"), 0);
  EXPECT_GT(*user.server().api().ReadMetric("varve_request_failure_total", "reason=\"IoError\""),
            0);
  io_.Heal();
  user.ExpectAnswer(*before);
}

TEST_F(DiskFaultTest, ASlowDiskDelaysCommitsAndChangesNothing) {
  DiskUser user(data_.path(), io_.Environment());
  io_.Delay(SetOf(IoOp::kSync) | SetOf(IoOp::kWrite), 30'000);
  ASSERT_EQ(user.Grow().status, "ready");
  EXPECT_GT(io_.num_delayed(), 0);
  const auto before = user.Ask();
  ASSERT_OK(before);
  user.Restart();
  io_.Delay(SetOf(IoOp::kRead), 30'000);
  user.ExpectAnswer(*before);
  io_.Heal();
  user.ExpectAnswer(*before);
}

TEST_F(DiskFaultTest, AFilesystemThatTurnsReadOnlyServesWhatIsCommitted) {
  DiskUser user(data_.path(), io_.Environment());
  user.KeepAnother();
  const cli::ContextInfo committed = user.Grow();
  ASSERT_EQ(committed.status, "ready") << committed.error;
  io_.Fail(kIoWrites, EROFS);
  const cli::ContextInfo refused = user.Grow();
  EXPECT_EQ(refused.status, "failed");
  user.ExpectTheOtherServed();
  EXPECT_THAT(refused.error, HasSubstr("Read-only file system"));
  EXPECT_THAT(refused.error, HasSubstr("restart"));
  EXPECT_GT(user.DiskErrors("read_only"), 0);
  io_.Heal();
  user.Restart();
  ASSERT_EQ(user.GrowWhenPossible().status, "ready");
  user.Stop();
  AuditDirectory(data_.path(), 1);
}

class OwnMounts : public testing::Environment {
 public:
  void SetUp() override { SmallFilesystem::EnterOwnNamespace(); }
};
const testing::Environment* const own_mounts = testing::AddGlobalTestEnvironment(new OwnMounts);

// A tmpfs that is too small for the document.
TEST(SmallFilesystemTest, ARealFullFilesystemRefusesAndServesOnAndGrows) {
  SmallFilesystem small(SmallFilesystem::Kind::kTmpfs, 2);
  if (!small.is_mounted()) {
    GTEST_SKIP() << small.why_not();
  }
  DiskUser user(small.path() + "/data", {});
  user.KeepAnother();
  cli::ContextInfo info;
  cli::ContextInfo committed;
  Result<Fingerprint> before = Error{ErrorCode::kNotFound, "nothing was committed"};
  for (int piece = 0; piece < 5; ++piece) {
    info = user.Grow();
    if (info.status == "failed") {
      break;
    }
    committed = info;
    before = user.Ask();
  }
  ASSERT_EQ(info.status, "failed") << "the filesystem was large enough";
  ASSERT_OK(before);
  EXPECT_THAT(info.error, HasSubstr("No space left"));
  EXPECT_EQ(info.text_bytes, committed.text_bytes);
  EXPECT_GT(user.DiskErrors("no_space"), 0);
  user.ExpectTheOtherServed();
  ASSERT_TRUE(small.Resize(512));  // of which little is used
  EXPECT_GT(user.GrowWhenPossible().text_bytes, committed.text_bytes);
  user.Stop();
  AuditDirectory(small.path() + "/data", 1);
}

// ext4 that ext4 itself has made read-only, as after an error of its device.
TEST(SmallFilesystemTest, ARealFilesystemThatTurnsReadOnlyServesWhatIsCommitted) {
  SmallFilesystem small(SmallFilesystem::Kind::kExt4, 64);
  if (!small.is_mounted()) {
    GTEST_SKIP() << small.why_not();
  }
  DiskUser user(small.path() + "/data", {});
  user.KeepAnother();
  const cli::ContextInfo committed = user.Grow();
  ASSERT_EQ(committed.status, "ready") << committed.error;
  ASSERT_TRUE(small.TurnReadOnly());
  const cli::ContextInfo refused = user.Grow();
  EXPECT_EQ(refused.status, "failed");
  user.ExpectTheOtherServed();
  EXPECT_THAT(refused.error, HasSubstr("Read-only file system"));
  EXPECT_EQ(refused.text_bytes, committed.text_bytes);
  EXPECT_GT(user.DiskErrors("read_only"), 0);
  user.Stop();
  ASSERT_TRUE(small.Remount());
  user.Restart();
  EXPECT_EQ(user.Settle().text_bytes, committed.text_bytes);
  EXPECT_EQ(user.GrowWhenPossible().status, "ready");
  user.Stop();
  AuditDirectory(small.path() + "/data", 1);
}

}  // namespace
}  // namespace varve
