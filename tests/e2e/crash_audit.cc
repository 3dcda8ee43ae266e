#include "tests/e2e/crash_audit.h"

#include <algorithm>

#include <gtest/gtest.h>

#include "kvstore/disk_tier.h"
#include "kvstore/record_keys.h"
#include "proto/base/file.h"
#include "proto/base/hash.h"
#include "tests/e2e/server_process.h"
#include "tests/kvstore/kv_support.h"
#include "tests/support/result_matchers.h"
#include "worker/model_config.h"

namespace varve {
namespace {

constexpr SequenceId kReader{1};
constexpr uint64_t kEmptyTextRecordBytes = 18;

// Whatever a request behind the whole context would read.
void ReadEverything(StoreGroup& group, const ContextManifest& manifest) {
  OpenSequenceOptions options;
  options.base = manifest.id;
  options.base_tokens = manifest.num_tokens;
  ASSERT_OK(group.OpenSequence(kReader, options));
  const int64_t last = manifest.num_tokens;
  ASSERT_OK(group.Step(kReader, 1, 1, [&] {
    for (int32_t layer = 0; layer < group.geometry().num_layers(); ++layer) {
      const auto seen = group.Read(kReader, layer, last, last);
      ASSERT_OK(seen) << "layer " << layer;
      const int64_t window = group.geometry().layer_windows[static_cast<size_t>(layer)];
      const int64_t reach = window == 0 ? last : std::min(last, window - 1);
      ASSERT_GT(static_cast<int64_t>(seen->size()), reach) << "layer " << layer;
      int64_t next = seen->front().position;
      for (const SeenToken& token : *seen) {
        ASSERT_EQ(token.position, next++) << "layer " << layer;
      }
      ASSERT_EQ(next, last + 1) << "layer " << layer;
    }
  }));
  ASSERT_OK(group.CloseSequence(kReader));
}

}  // namespace

void AuditDirectory(const std::string& data_dir, int num_workers) {
  const auto config_text = ReadFile(TestModelDir() + "/config.json");
  ASSERT_OK(config_text);
  const auto config = ParseModelConfig(*config_text);
  ASSERT_OK(config);
  DiskTierOptions options;
  options.directory = data_dir;
  auto disk = DiskTier::Open(options);
  ASSERT_OK(disk);
  const auto manifests = (*disk)->ListManifests();
  ASSERT_OK(manifests);
  StoreGroup group(config->Geometry(), num_workers, 0, disk->get());
  uint64_t expected_bytes = 0;
  for (const ContextManifest& manifest : *manifests) {
    ASSERT_OK(group.RecoverContext(manifest));
  }
  ASSERT_OK(group.FinishRecovery());
  for (const ContextManifest& manifest : *manifests) {
    SCOPED_TRACE(manifest.name);
    ReadEverything(group, manifest);
    const auto text = (*disk)->ReadText(manifest.id);
    ASSERT_OK(text);
    EXPECT_EQ(Hash64(*text), manifest.text_hash);
    const auto tokens = (*disk)->ReadTokens(manifest.id);
    ASSERT_OK(tokens);
    EXPECT_EQ(static_cast<int64_t>(tokens->size()), manifest.num_tokens);
    for (int rank = 0; rank < num_workers; ++rank) {
      expected_bytes += group.store(rank).GetContextUsage(manifest.id)->disk_bytes;
    }
    expected_bytes += text->size() + tokens->size() * sizeof(int32_t) +
                      manifest.version * 2 * (kEmptyTextRecordBytes + kRecordRowBytes);
  }
  EXPECT_EQ((*disk)->GetStats().bytes.used, expected_bytes) << "something is left over";
}

}  // namespace varve
