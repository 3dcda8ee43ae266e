// Codecs whose tables decide how large runs are: pages of every layer have their own size, and a
// run of another size is damage.
#include <cmath>
#include <cstring>

#include "kernels/codec/lorc_block.h"
#include "kvstore/page_format.h"
#include "tests/kvstore/store_rig.h"

namespace varve {
namespace {

constexpr SequenceId kOne{1001};
constexpr SequenceId kTwo{1002};
constexpr int32_t kHeadDim = 32;
constexpr size_t kRunBytesAt = 96 + 40;  // of the first section's row

// Tables of these ranks; each coefficient is one channel, the others are lost.
CodecTables TablesOfRanks(size_t key_rank, size_t value_rank) {
  CodecTables tables;
  tables.values.resize(LorcTableFloats(2, kHeadDim));
  tables.values[0] = static_cast<float>(key_rank);
  tables.values[1] = static_cast<float>(value_rank);
  for (size_t side = 0; side < 4; ++side) {
    float* forward = tables.values.data() + 2 + side * LorcSideFloats(kHeadDim) + kHeadDim;
    float* inverse = forward + size_t{kHeadDim} * kHeadDim;
    for (size_t i = 0; i < (side % 2 == 0 ? key_rank : value_rank); ++i) {
      forward[i * kHeadDim + i] = inverse[i * kHeadDim + i] = 1.0F;
    }
  }
  tables.hash = CodecTables::HashOf(tables.values);
  return tables;
}

std::shared_ptr<const CodecTableSet> TableSet(const std::vector<std::pair<size_t, size_t>>& ranks) {
  auto set = std::make_shared<CodecTableSet>();
  for (size_t layer = 0; layer < ranks.size(); ++layer) {
    set->Add(CodecId::kLorc,
             static_cast<int32_t>(layer),
             TablesOfRanks(ranks[layer].first, ranks[layer].second));
  }
  return set;
}

class SizedCodecTest : public StoreRig {
 protected:
  SizedCodecTest() {
    geometry_ = MakeGeometry(2, kHeadDim, {0, 0});
    geometry_.codec_tables = TableSet({{8, 16}, {24, 32}});
  }
  // A context of 200 tokens whose pages must be read from disk, and a request behind it.
  void OpenColdContext() {
    OpenDisk();
    OpenStores();
    Ingest(7, kOne, 200, SmallPolicy("lorc"));
    Reopen();
  }
  void Reopen() {
    OpenDisk();
    OpenStores();
    OpenSequenceOptions options = Private(SmallPolicy("lorc"));
    options.base = ContextId{7};
    options.base_tokens = 200;
    ASSERT_OK(group_->OpenSequence(kTwo, options));
  }
  PageKey Key(uint16_t layer) const {
    return PageKey{PageKey::Space::kContext, 7, layer, layer, 3};
  }
  std::vector<std::byte> Record(const PageKey& key) {
    return disk_->GetPages({key}).get().value().at(0);
  }
  void Overwrite(const PageKey& key, std::vector<std::byte> record) {
    ASSERT_TRUE(RewriteChecksum(key, record));
    const std::span<const std::byte> bytes = record;
    ASSERT_OK(disk_->PutPages({&key, 1}, {&bytes, 1}));
  }
  static uint64_t RunBytes(const std::vector<std::byte>& record) {
    uint64_t bytes;
    std::memcpy(&bytes, record.data() + kRunBytesAt, sizeof(bytes));
    return bytes;
  }
};

TEST_F(SizedCodecTest, PagesHaveTheSizeOfTheirLayersTables) {
  OpenColdContext();
  const Codec& codec = *FindCodec("lorc").value();
  for (const uint16_t layer : {uint16_t{0}, uint16_t{1}}) {
    const CodecTables* tables = geometry_.codec_tables->Find(CodecId::kLorc, layer);
    EXPECT_EQ(RunBytes(Record(Key(layer))), codec.EncodedBytes({2, kHeadDim, 16}, tables));
    const auto read = ReadAll(kTwo, layer);
    ASSERT_OK(read);
    ASSERT_EQ(read->size(), 200U);
    for (const SeenToken& token : *read) {
      for (size_t c = 0; c < token.k.size() && token.codec == CodecId::kLorc; ++c) {
        const bool is_kept = c % kHeadDim < LorcRank(tables->values.data(), true, kHeadDim);
        const float k = KeyAt(7, layer, token.position, static_cast<int32_t>(c));
        ASSERT_NEAR(token.k[c], is_kept ? k : 0.0F, 0.15) << token.position << ' ' << c;
      }
    }
  }
  EXPECT_LT(RunBytes(Record(Key(0))), RunBytes(Record(Key(1))));
}

TEST_F(SizedCodecTest, ARunOfAnotherSizeThanItsTablesSayIsDamage) {
  OpenColdContext();
  const std::vector<std::byte> good = Record(Key(0));
  const Codec& codec = *FindCodec("lorc").value();
  const uint64_t most = codec.EncodedBytes({2, kHeadDim, 16});
  for (const uint64_t bytes : {RunBytes(good) - 1, RunBytes(good) - 64, uint64_t{0}, most + 1}) {
    std::vector<std::byte> bad = good;
    std::memcpy(bad.data() + kRunBytesAt, &bytes, sizeof(bytes));
    Overwrite(Key(0), bad);
    Reopen();
    const auto read = ReadAll(kTwo, 0);
    EXPECT_ERROR(read, ErrorCode::kPageCorrupt) << bytes;
    EXPECT_NE(read.error().message.find("context 7 layer 0 page 3"), std::string::npos)
        << read.error().message;
    EXPECT_EQ(group_->store(0).Stats().checksum_failures, 1U) << bytes;
    ASSERT_OK(ReadAll(kTwo, 1));  // the other layer is whole
  }
  Overwrite(Key(0), good);
  Reopen();
  ASSERT_OK(ReadAll(kTwo, 0));
}

TEST_F(SizedCodecTest, TablesOfOtherRanksAreRefusedByTheirHash) {
  OpenColdContext();
  geometry_.codec_tables = TableSet({{16, 16}, {24, 32}});
  Reopen();
  const auto read = ReadAll(kTwo, 0);
  EXPECT_ERROR(read, ErrorCode::kCodecMismatch);
  EXPECT_NE(read.error().message.find("tables"), std::string::npos) << read.error().message;
  ASSERT_OK(ReadAll(kTwo, 1));
}

}  // namespace
}  // namespace varve
