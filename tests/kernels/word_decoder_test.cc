// Words of every codec that offers them: what they stand for is what the codec decodes, on every
// instruction set.
#include "kernels/codec/word_decoder.h"

#include <cmath>

#include <gtest/gtest.h>

#include "kernels/codec/deco_block.h"
#include "kernels/codec/lorc_block.h"
#include "kernels/cpu/simd_targets.h"
#include "tests/kernels/codec_cases.h"

#include "hwy/aligned_allocator.h"

namespace varve {
namespace {

class Words : public testing::Test {
 protected:
  ~Words() override { UseBestSimdTarget(); }
};

// One kv head of a run, decoded by words.
class WordRun {
 public:
  WordRun(const Codec& codec,
          const RunShape& shape,
          size_t kv_head,
          const CodecTables* tables,
          const std::byte* encoded)
      : decoder_(*WordDecoderOf(codec)),
        run_{shape, kv_head, tables, encoded},
        head_dim_(shape.head_dim),
        own_(hwy::AllocateAligned<std::byte>(kWordOwnBytes)),
        words_(kWordTokens * head_dim_),
        dims_(kWordTokens * decoder_.num_outliers(head_dim_)),
        outliers_(dims_.size()) {
    tables_.own = own_.get();
    decoder_.LoadTables(run_, &tables_);
  }

  // Keys of `count` tokens before RoPE; their steps, as large as any of a channel, too.
  std::vector<float> Keys(size_t first, size_t count, std::vector<float>* steps) {
    std::vector<float> scales(count);
    decoder_.DecodeKeyWords(run_, tables_, first, count, words_.data(), scales.data(), rows());
    std::vector<float> keys;
    steps->clear();
    for (size_t i = 0; i < count * head_dim_; ++i) {
      steps->push_back(tables_.key_steps[i % head_dim_] * scales[i / head_dim_]);
      keys.push_back(static_cast<float>(words_[i]) * steps->back());
      const size_t half = head_dim_ / 2;
      if (i % head_dim_ < half) {
        EXPECT_LE(std::hypot(words_[i], words_[i + half]), 32767.0);
      }
    }
    PutOutliers(count, 1.0F, &keys);
    return keys;
  }

  // Values of `count` tokens, each times `weight`.
  std::vector<float> Values(size_t first, size_t count, float weight) {
    std::vector<float> scales(count);
    std::vector<float> offsets(count);
    decoder_.DecodeValueWords(run_, tables_, first, count, words_.data(), rows());
    decoder_.LoadValueParams(run_, tables_, first, count, scales.data(), offsets.data());
    std::vector<float> sums;
    for (size_t i = 0; i < count * head_dim_; ++i) {
      EXPECT_LE(std::abs(words_[i]), kMaxValueWord);
      const size_t t = i / head_dim_;
      sums.push_back(weight * (static_cast<float>(words_[i]) * scales[t] + offsets[t]));
    }
    PutOutliers(count, weight, &sums);
    if (decoder_.ValueCoordinates(run_) == nullptr) {
      return sums;
    }
    std::vector<float> values(sums.size());
    for (size_t at = 0; at < sums.size(); at += head_dim_) {
      decoder_.MapValues(run_, tables_, sums.data() + at, weight, values.data() + at);
    }
    return values;
  }

 private:
  OutlierRows rows() { return {dims_.data(), outliers_.data()}; }
  void PutOutliers(size_t count, float weight, std::vector<float>* x) {
    const size_t each = decoder_.num_outliers(head_dim_);
    for (size_t place = 0; place < count * each; ++place) {
      if (dims_[place] < head_dim_) {
        (*x)[place / each * head_dim_ + dims_[place]] = weight * outliers_[place];
      }
    }
  }

  const WordDecoder& decoder_;
  HeadRun run_;
  size_t head_dim_;
  hwy::AlignedFreeUniquePtr<std::byte[]> own_;
  std::vector<int16_t> words_;
  std::vector<uint8_t> dims_;
  std::vector<float> outliers_;
  WordTables tables_{};
};

float Largest(const float* x, size_t count) {
  float largest = 0.0F;
  for (size_t i = 0; i < count; ++i) {
    largest = std::max(largest, std::fabs(x[i]));
  }
  return largest;
}

// Compares in the last kv head of `tokens`, in parts of a tile as attention would.
void ExpectDecodedByWords(const Codec& codec,
                          const RunShape& shape,
                          const CodecTables* tables,
                          const Tokens& tokens) {
  constexpr float kWeight = 2.5F;
  const RunContext context{.tables = tables};
  const auto head_dim = static_cast<size_t>(shape.head_dim);
  const int32_t capacity = shape.token_capacity;
  const int32_t kv_head = shape.num_kv_heads - 1;
  std::vector<std::byte> bytes(codec.EncodedBytes(shape, tables));
  codec.Encode(
      shape, 0, capacity, tokens.k.data(), tokens.v.data(), TokenValues(shape), context, bytes);
  std::vector<float> k(capacity * head_dim);
  std::vector<float> v(k.size());
  codec.DecodeHead(shape, kv_head, 0, capacity, bytes, context, k.data(), v.data());
  WordRun run(codec, shape, kv_head, tables, bytes.data());
  for (size_t first = 0; first < static_cast<size_t>(capacity); first += 29) {
    const size_t count = std::min<size_t>(29, capacity - first);
    std::vector<float> steps;
    const std::vector<float> keys = run.Keys(first, count, &steps);
    const std::vector<float> values = run.Values(first, count, kWeight);
    for (size_t i = 0; i < count * head_dim; ++i) {
      const size_t row = (first + i / head_dim) * head_dim;
      const size_t at = row + i % head_dim;
      ASSERT_NEAR(keys[i], k[at], 3.0F * steps[i] + 3e-4F * Largest(k.data() + row, head_dim))
          << codec.name() << " head_dim " << head_dim << ", " << capacity << " tokens, key " << at;
      ASSERT_NEAR(values[i], kWeight * v[at], kWeight * 1.5e-3F * Largest(v.data() + row, head_dim))
          << codec.name() << " head_dim " << head_dim << ", " << capacity << " tokens, value "
          << at;
    }
  }
}

TEST_F(Words, StandForWhatTheCodecDecodes) {
  for (const SimdTarget& target : SimdTargets()) {
    ForceSimdTarget(target);
    SCOPED_TRACE(target.name);
    for (const Codec* codec : AllCodecs()) {
      for (const int32_t head_dim : {64, 128, 256}) {
        if (WordDecoderOf(*codec) == nullptr) {
          continue;
        }
        const RunShape shape{2, head_dim, 70};
        const CodecTables* tables = TablesFor(*codec, 2, head_dim);
        Tokens tokens = MakeTokens(shape, 0, head_dim);
        ExpectDecodedByWords(*codec, shape, tables, tokens);
        // A token far from what calibration or the others of its run are like.
        for (size_t i = 0; i < TokenValues(shape); ++i) {
          tokens.k[i] *= 300.0F;
        }
        ExpectDecodedByWords(*codec, shape, tables, tokens);
      }
    }
  }
}

TEST_F(Words, OfLorcDoAtAnyRank) {
  const RunShape shape{1, 64, 40};
  const Codec& codec = *FindCodec("lorc").value();
  Rng rng(71);
  for (const SimdTarget& target : SimdTargets()) {
    ForceSimdTarget(target);
    SCOPED_TRACE(target.name);
    for (const size_t rank : {1, 2, 15, 17, 40, 63, 64}) {
      CodecTables tables;
      tables.values.resize(LorcTableFloats(1, 64));
      for (float& x : tables.values) {
        x = 0.25F * rng.NextNormal();
      }
      tables.values[0] = static_cast<float>(rank);
      tables.values[1] = static_cast<float>(65 - rank);
      ExpectDecodedByWords(codec, shape, &tables, MakeTokens(shape, 0, rank));
    }
  }
}

TEST_F(Words, OfDecoDoWithAnyNumberOfBlocks) {
  const Codec& codec = *FindCodec("deco4").value();
  for (const SimdTarget& target : SimdTargets()) {
    ForceSimdTarget(target);
    SCOPED_TRACE(target.name);
    for (const int32_t head_dim : {64, 128, 256}) {
      for (const int32_t capacity : {1, 2, 5, 20, 70, 300}) {
        const RunShape shape{1, head_dim, capacity};
        ExpectDecodedByWords(codec, shape, nullptr, MakeTokens(shape, 0, capacity));
      }
    }
  }
  EXPECT_EQ(DecoLayoutOf(64, 2).blocks, 1U);
  EXPECT_EQ(DecoLayoutOf(64, 5).blocks, 2U);
  EXPECT_EQ(DecoLayoutOf(64, 20).blocks, 4U);
  EXPECT_EQ(DecoLayoutOf(64, 300).columns, 4U);
}

}  // namespace
}  // namespace varve
