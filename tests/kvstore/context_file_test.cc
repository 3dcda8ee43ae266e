#include "kvstore/context_file.h"

#include <cstdlib>

#include <gtest/gtest.h>

#include "proto/base/file.h"
#include "tests/kvstore/kv_support.h"
#include "tests/support/result_matchers.h"

namespace varve {
namespace {

using Blocks = std::vector<std::pair<FileBlock, std::string>>;

Blocks Content() {
  return {{FileBlock::kManifest, ManifestPayload(MakeManifest(77, KvPolicy{}))},
          {FileBlock::kText, "What is written, stays."},
          {FileBlock::kTokens, std::string(12, '\1')},
          {FileBlock::kPage, std::string(300, 'p')},
          {FileBlock::kTail, ""}};
}

std::string MakeFile(const Blocks& blocks) {
  ContextFileWriter writer;
  std::string file = writer.Begin();
  for (const auto& [kind, payload] : blocks) {
    file += writer.Block(kind, payload);
  }
  return file + writer.End();
}

struct Read {
  Result<void> result;
  Blocks blocks;
  bool at_end = false;
};

Read ReadBlocks(std::string_view file, size_t piece_bytes) {
  Read read;
  ContextFileReader reader([&](FileBlock kind, std::string_view payload) {
    read.blocks.emplace_back(kind, payload);
    return Result<void>();
  });
  for (; read.result && !file.empty(); file.remove_prefix(std::min(file.size(), piece_bytes))) {
    read.result = reader.Read(file.substr(0, piece_bytes));
  }
  read.at_end = reader.at_end();
  return read;
}

TEST(ContextFile, IsReadInPiecesOfAnySize) {
  const std::string file = MakeFile(Content());
  for (const size_t piece : {size_t{1}, size_t{7}, size_t{64}, file.size()}) {
    const Read read = ReadBlocks(file, piece);
    ASSERT_OK(read.result);
    EXPECT_TRUE(read.at_end);
    EXPECT_EQ(read.blocks, Content());
  }
}

TEST(ContextFile, WritesTheGoldenBytesOfItsVersion) {
  const std::string path = VARVE_SOURCE_DIR "/tests/kvstore/golden/context_file_v1.bin";
  const std::string file = MakeFile(
      {{FileBlock::kText, "What is written, stays."}, {FileBlock::kTokens, std::string(8, '\2')}});
  if (std::getenv("VARVE_WRITE_GOLDEN") != nullptr) {
    ASSERT_OK(WriteFileAtomically(path, file));
  }
  const auto golden = ReadFile(path);
  ASSERT_OK(golden);
  EXPECT_TRUE(*golden == file);
}

TEST(ContextFile, EveryTruncationIsSeen) {
  const std::string file = MakeFile(Content());
  for (size_t size = 0; size < file.size(); ++size) {
    const Read read = ReadBlocks(std::string_view(file).substr(0, size), 50);
    EXPECT_OK(read.result);
    EXPECT_FALSE(read.at_end) << size;
  }
}

TEST(ContextFile, EveryFlippedBitIsSeen) {
  const std::string good = MakeFile(Content());
  for (size_t bit = 0; bit < good.size() * 8; ++bit) {
    std::string bad = good;
    bad[bit / 8] = static_cast<char>(bad[bit / 8] ^ (1 << (bit % 8)));
    const Read read = ReadBlocks(bad, 4096);
    EXPECT_FALSE(read.result && read.at_end) << "bit " << bit;
  }
}

TEST(ContextFile, RefusesOtherFilesVersionsAndBlocks) {
  const std::string good = MakeFile(Content());
  EXPECT_ERROR(ReadBlocks("Just a text of many words.", 100).result, ErrorCode::kInvalidArgument);
  std::string newer = good;
  newer[8] = 2;
  EXPECT_ERROR(ReadBlocks(newer, 100).result, ErrorCode::kVersionSkew);
  EXPECT_ERROR(ReadBlocks(good + good, 100).result, ErrorCode::kPageCorrupt);
  std::string huge = good;
  huge[16 + 15] = 1;  // a payload of 2^56 bytes
  EXPECT_ERROR(ReadBlocks(huge, 100).result, ErrorCode::kPageCorrupt);
  // Blocks of two files do not fit together.
  Blocks others = Content();
  others[1].second = "Another text is written.";
  const std::string other = MakeFile(others);
  const size_t middle = good.size() / 2;
  EXPECT_ERROR(ReadBlocks(good.substr(0, middle) + other.substr(middle + 1), 100).result,
               ErrorCode::kPageCorrupt);
}

TEST(ContextFile, HandsOnWhatItsUserRefuses) {
  ContextFileReader reader([](FileBlock, std::string_view) {
    return Result<void>(Error{ErrorCode::kConflict, "no"});
  });
  EXPECT_ERROR(reader.Read(MakeFile(Content())), ErrorCode::kConflict);
}

TEST(ContextFile, AManifestIsWhatItWas) {
  const ContextManifest manifest = MakeManifest(77, KvPolicy{});
  const auto parsed = ParseManifestPayload(ManifestPayload(manifest));
  ASSERT_OK(parsed);
  EXPECT_EQ(parsed->name, manifest.name);
  EXPECT_ERROR(ParseManifestPayload("short"), ErrorCode::kPageCorrupt);
}

}  // namespace
}  // namespace varve
