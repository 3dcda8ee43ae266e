#include "proto/base/hash.h"

#include <string>

#include <gtest/gtest.h>

namespace varve {
namespace {

TEST(Hash, PiecesGiveTheHashOfTheWhole) {
  std::string text;
  for (int i = 0; i < 5000; ++i) {
    text += static_cast<char>('a' + i % 26);
  }
  Hasher64 hasher;
  for (size_t begin = 0; begin < text.size(); begin += 313) {
    hasher.Update(std::string_view(text).substr(begin, 313));
    const size_t end = std::min(begin + 313, text.size());
    EXPECT_EQ(hasher.Digest(), Hash64(std::string_view(text).substr(0, end)));
  }
}

// The value is fixed: hashes stand in files and in the API, where clients compute XXH3-64
// themselves.
TEST(Hash, IsXxh3AsPublished) {
  EXPECT_EQ(Hash64(std::string_view("")), 0x2d06800538d394c2ULL);
  EXPECT_EQ(HashToHex(0x2d06800538d394c2ULL), "2d06800538d394c2");
  EXPECT_EQ(HashToHex(1), "0000000000000001");
}

TEST(Hash, TheSeedSeparatesHashes) {
  EXPECT_NE(Hash64(std::string_view("page"), 1), Hash64(std::string_view("page"), 2));
}

}  // namespace
}  // namespace varve
