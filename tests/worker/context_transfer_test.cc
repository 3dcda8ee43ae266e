// Forks, exports and imports as the whole worker group does them: the same logits, whatever the
// number of workers, and nothing left of what was refused.
#include "worker/context_transfer.h"

#include <functional>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "proto/base/hash.h"
#include "proto/base/rng.h"
#include "tests/support/temp_dir.h"
#include "tests/worker/group_rig.h"

namespace varve {
namespace {

using testing::HasSubstr;

constexpr uint64_t kTokenizer = 77;

std::vector<int32_t> Tokens(uint64_t seed, size_t count) {
  Rng rng(seed);
  std::vector<int32_t> tokens(count);
  for (int32_t& token : tokens) {
    token = static_cast<int32_t>(rng.Below(96));
  }
  return tokens;
}

LocalWorkerGroupOptions Options(int num_workers, const std::string& data_dir) {
  return {.model_dir = GoldenDir("smollm3"),  // sliding and global layers
          .num_workers = num_workers,
          .num_threads = 2,
          .data_dir = data_dir,
          .host_budget_bytes = uint64_t{256} << 20};
}

class ContextTransfer : public testing::Test {
 protected:
  // A context of two commits, 150 tokens.
  ContextManifest Make(GroupRig& rig, uint64_t id) {
    ContextManifest manifest{.id = {id},
                             .name = "doc" + std::to_string(id),
                             .text_hash = Hash64(std::string_view()),
                             .model_hash = rig.group().model().model_hash,
                             .tokenizer_hash = kTokenizer,
                             .policy = PolicyOf("int8", "bf16")};
    EXPECT_OK(rig.group().CreateContext(manifest));
    const SequenceId ingest = rig.OpenOn({.context = manifest.id});
    Grow(rig, ingest, manifest, 1, 100);
    Grow(rig, ingest, manifest, 2, 50);
    EXPECT_OK(rig.group().CloseSequence(ingest));
    return manifest;
  }
  void Grow(GroupRig& rig,
            SequenceId ingest,
            ContextManifest& manifest,
            uint64_t seed,
            size_t num_tokens) {
    const std::vector<int32_t> tokens = Tokens(seed, num_tokens);
    rig.Feed(ingest, tokens, 50, manifest.num_tokens);
    const std::string text = "text of version " + std::to_string(manifest.version + 1) + ". ";
    text_ += text;
    ++manifest.version;
    manifest.tail = {};
    manifest.num_tokens += static_cast<int64_t>(num_tokens);
    manifest.text_bytes += text.size();
    manifest.text_hash = Hash64(text_);
    ASSERT_OK(rig.group().CommitContext(ingest, manifest, {.tokens = tokens, .text = text}));
  }
  static std::vector<float> Ask(GroupRig& rig, const ContextManifest& manifest) {
    const SequenceId request = rig.OpenOn(
        {.base = manifest.id, .base_tokens = manifest.num_tokens, .policy = manifest.policy});
    std::vector<float> logits = rig.Feed(request, Tokens(9, 12), 5, manifest.num_tokens);
    EXPECT_OK(rig.group().CloseSequence(request));
    return logits;
  }
  static std::string Export(GroupRig& rig, ContextId id) {
    auto source = rig.group().ExportContext(id);
    EXPECT_OK(source);
    std::string file;
    while (true) {
      const Result<std::string> piece = (*source)->Next();
      EXPECT_OK(piece);
      if (!piece || piece->empty()) {
        return file;
      }
      file += *piece;
    }
  }
  // In pieces of an odd size.
  static Result<ContextManifest> Import(GroupRig& rig,
                                        std::string_view file,
                                        uint64_t id,
                                        uint64_t tokenizer = kTokenizer) {
    VARVE_TRY(const auto sink,
              rig.group().ImportContext({.id = {id},
                                         .name = "copy" + std::to_string(id),
                                         .tokenizer_hash = tokenizer,
                                         .now_unix_s = 1000}));
    for (; !file.empty(); file.remove_prefix(std::min<size_t>(file.size(), 7777))) {
      VARVE_RETURN_IF_ERROR(sink->Write(file.substr(0, 7777)));
    }
    return sink->Finish();
  }
  static uint64_t DiskBytes(GroupRig& rig) { return rig.group().Stats()[0].disk.used; }

  TempDir directory_;
  std::string text_;
};

TEST_F(ContextTransfer, AForkAnswersLikeItsParent) {
  for (const bool with_disk : {false, true}) {
    text_.clear();
    GroupRig rig(Options(3, with_disk ? directory_.File("data") : ""));
    const ContextManifest parent = Make(rig, 7);
    const std::vector<float> before = Ask(rig, parent);
    Result<ContextManifest> fork =
        rig.group().ForkContext({.source = {7}, .id = {8}, .name = "fork"});
    ASSERT_OK(fork);
    EXPECT_EQ(Ask(rig, *fork), before);
    const SequenceId ingest = rig.OpenOn({.context = ContextId{8}});
    Grow(rig, ingest, *fork, 5, 40);
    ASSERT_OK(rig.group().CloseSequence(ingest));
    const std::vector<float> grown = Ask(rig, *fork);
    EXPECT_EQ(Ask(rig, parent), before);
    ASSERT_OK(rig.group().DeleteContext({7}));
    EXPECT_EQ(Ask(rig, *fork), grown);
    EXPECT_EQ(*rig.group().ReadContextText({8}), text_);
    EXPECT_EQ(rig.group().ReadContextTokens({8})->size(), 190U);
    EXPECT_ERROR(rig.group().ForkContext({.source = {7}, .id = {9}, .name = "x"}),
                 ErrorCode::kNotFound);
    EXPECT_ERROR(rig.group().ForkContext({.source = {8}, .id = {9}, .name = "fork"}),
                 ErrorCode::kAlreadyExists);
    if (with_disk) {
      rig.Reopen();
      EXPECT_EQ(Ask(rig, *fork), grown);
    }
  }
}

TEST_F(ContextTransfer, AttributesAreDurable) {
  GroupRig rig(Options(2, directory_.File("data")));
  ContextManifest manifest = Make(rig, 7);
  manifest.attributes = {.pinned = true, .ttl_s = 60, .last_used_unix_s = 5};
  ASSERT_OK(rig.group().UpdateContext(manifest));
  EXPECT_EQ(rig.group().ListContexts()->at(0).attributes, manifest.attributes);
  rig.Reopen();
  EXPECT_EQ(rig.group().ListContexts()->at(0).attributes, manifest.attributes);
  manifest.id = {8};
  EXPECT_ERROR(rig.group().UpdateContext(manifest), ErrorCode::kNotFound);
}

TEST_F(ContextTransfer, AnImportedContextAnswersIdenticallyWithAnyNumberOfWorkers) {
  GroupRig rig(Options(3, directory_.File("data")));
  const ContextManifest parent = Make(rig, 7);
  Result<ContextManifest> fork =
      rig.group().ForkContext({.source = {7}, .id = {8}, .name = "fork"});
  ASSERT_OK(fork);
  const SequenceId ingest = rig.OpenOn({.context = ContextId{8}});
  Grow(rig, ingest, *fork, 5, 40);
  ASSERT_OK(rig.group().CloseSequence(ingest));
  const std::string file = Export(rig, {8});  // all of its lineage in one file
  for (const int workers : {1, 3}) {
    // As many workers: the same sums. Others add in another order, and the request's own tail is
    // rounded to bf16.
    const double slack = workers == 3 ? 0 : 1e-4;
    GroupRig other(Options(workers, directory_.File("other" + std::to_string(workers))));
    const Result<ContextManifest> imported = Import(other, file, 50);
    ASSERT_OK(imported);
    EXPECT_TRUE(imported->lineage.empty());
    EXPECT_EQ(imported->num_tokens, fork->num_tokens);
    EXPECT_LE(RelativeDifference(Ask(other, *imported), Ask(rig, *fork)), slack);
    EXPECT_EQ(*other.group().ReadContextText({50}), text_);
    EXPECT_EQ(*other.group().ReadContextTokens({50}), *rig.group().ReadContextTokens({8}));
    other.Reopen();
    EXPECT_LE(RelativeDifference(Ask(other, *imported), Ask(rig, *fork)), slack);
    // It grows and is exported like any other.
    ContextManifest grown = *imported;
    const SequenceId more = other.OpenOn({.context = ContextId{50}});
    Grow(other, more, grown, 6, 30);
    ASSERT_OK(other.group().CloseSequence(more));
    ASSERT_OK(Import(other, Export(other, {50}), 51));
    ASSERT_OK(other.group().DeleteContext({50}));
    ASSERT_OK(other.group().DeleteContext({51}));
    EXPECT_EQ(DiskBytes(other), 0U);
    text_.resize(fork->text_bytes);
  }
}

TEST_F(ContextTransfer, WhatIsRefusedLeavesNothing) {
  GroupRig rig(Options(2, directory_.File("data")));
  Make(rig, 7);
  const std::string file = Export(rig, {7});
  const uint64_t used = DiskBytes(rig);
  const auto refused = [&](const std::string& bytes, ErrorCode code, const std::string& says) {
    const Result<ContextManifest> imported = Import(rig, bytes, 50);
    EXPECT_ERROR(imported, code);
    EXPECT_THAT(imported.error().message, HasSubstr(says));
    EXPECT_EQ(DiskBytes(rig), used) << says;
    EXPECT_EQ(rig.group().ListContexts()->size(), 1U) << says;
  };
  refused("", ErrorCode::kInvalidArgument, "ends early");
  refused(file.substr(0, 5), ErrorCode::kInvalidArgument, "ends early");
  refused(file.substr(0, file.size() - 1), ErrorCode::kInvalidArgument, "ends early");
  refused(file.substr(0, file.size() / 2), ErrorCode::kInvalidArgument, "ends early");
  refused(file + "x", ErrorCode::kPageCorrupt, "behind its end");
  refused("{\"not\": \"a context\"}", ErrorCode::kInvalidArgument, "not a context file");
  for (const size_t at : {size_t{40}, file.size() / 3, file.size() / 2, file.size() - 9}) {
    std::string damaged = file;
    damaged[at] = static_cast<char>(damaged[at] ^ 4);
    refused(damaged, ErrorCode::kPageCorrupt, "damaged");
  }
  std::string newer = file;
  newer[8] = 9;
  refused(newer, ErrorCode::kVersionSkew, "version 9");
  const Result<ContextManifest> tokenizer = Import(rig, file, 50, kTokenizer + 1);
  EXPECT_ERROR(tokenizer, ErrorCode::kModelMismatch);
  EXPECT_THAT(tokenizer.error().message, HasSubstr("tokenizer"));
  EXPECT_EQ(DiskBytes(rig), used);
}

// Files whose checksums are right and whose content is not what the manifest says.
TEST_F(ContextTransfer, ForgedFilesAreRefused) {
  GroupRig rig(Options(2, directory_.File("data")));
  Make(rig, 7);
  struct Block {
    FileBlock kind;
    std::string payload;
  };
  std::vector<Block> blocks;
  ContextFileReader reader([&](FileBlock kind, std::string_view payload) {
    blocks.push_back({kind, std::string(payload)});
    return Result<void>();
  });
  ASSERT_OK(reader.Read(Export(rig, {7})));
  const uint64_t used = DiskBytes(rig);
  const auto refused = [&](const std::function<void(std::vector<Block>&)>& forge, ErrorCode code) {
    std::vector<Block> forged = blocks;
    forge(forged);
    ContextFileWriter writer;
    std::string file = writer.Begin();
    for (const Block& block : forged) {
      file += writer.Block(block.kind, block.payload);
    }
    EXPECT_ERROR(Import(rig, file + writer.End(), 50), code);
    EXPECT_EQ(DiskBytes(rig), used);
  };
  const auto is = [](FileBlock kind) { return [kind](const Block& b) { return b.kind == kind; }; };
  const auto change_manifest = [&](const std::function<void(ContextManifest&)>& change) {
    return [change](std::vector<Block>& b) {
      ContextManifest manifest = *ParseManifestPayload(b[0].payload);
      change(manifest);
      b[0].payload = ManifestPayload(manifest);
    };
  };
  constexpr ErrorCode kDamaged = ErrorCode::kPageCorrupt;
  refused([](auto& b) { b.erase(b.begin()); }, kDamaged);
  refused([](auto& b) { b.push_back(b[0]); }, kDamaged);
  refused([](auto& b) { b.pop_back(); }, kDamaged);
  refused([](auto& b) { std::swap(b[b.size() - 1], b[b.size() - 2]); }, kDamaged);
  refused([](auto& b) { b.push_back(b.back()); }, kDamaged);
  refused([&](auto& b) { std::find_if(b.begin(), b.end(), is(FileBlock::kText))->payload += "x"; },
          kDamaged);
  refused(
      [&](auto& b) { std::find_if(b.begin(), b.end(), is(FileBlock::kTokens))->payload += "x"; },
      kDamaged);
  refused(
      [&](auto& b) { std::find_if(b.begin(), b.end(), is(FileBlock::kTokens))->payload[3] = 7; },
      kDamaged);
  refused(
      [&](auto& b) { std::find_if(b.begin(), b.end(), is(FileBlock::kPage))->payload[200] ^= 1; },
      kDamaged);
  refused(change_manifest([](auto& m) { m.num_tokens -= 1; }), kDamaged);
  refused(change_manifest([](auto& m) { m.lineage = {{ContextId{3}, 1, 0, 0, 0}}; }), kDamaged);
  refused(change_manifest([](auto& m) { m.model_hash ^= 1; }), ErrorCode::kModelMismatch);
  refused(change_manifest([](auto& m) { m.policy.codec = "zip"; }), ErrorCode::kModelMismatch);
}

TEST_F(ContextTransfer, NeedsADataDirectory) {
  GroupRig rig(Options(2, ""));
  Make(rig, 7);
  EXPECT_ERROR(rig.group().ExportContext({7}), ErrorCode::kUnsupported);
  EXPECT_ERROR(rig.group().ExportContext({8}), ErrorCode::kNotFound);
  EXPECT_ERROR(rig.group().ImportContext({.id = {9}, .name = "x"}), ErrorCode::kUnsupported);
}

TEST_F(ContextTransfer, ADamagedPageIsNotExported) {
  GroupRig rig(Options(1, directory_.File("data")));
  Make(rig, 7);
  // Taken away behind the context's back.
  auto source = rig.group().ExportContext({7});
  ASSERT_OK(source);
  ASSERT_OK((*source)->Next());
  ASSERT_OK(rig.group().DeleteContext({7}));
  Result<std::string> piece = (*source)->Next();
  while (piece && !piece->empty()) {
    piece = (*source)->Next();
  }
  EXPECT_FALSE(piece.has_value());
}

}  // namespace
}  // namespace varve
