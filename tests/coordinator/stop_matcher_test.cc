#include "coordinator/stop_matcher.h"

#include <gtest/gtest.h>

#include "proto/base/rng.h"

namespace varve {
namespace {

TEST(StopMatcher, PassesTextWithoutStops) {
  StopMatcher matcher({});
  EXPECT_EQ(matcher.Push("hello"), "hello");
  EXPECT_EQ(matcher.Flush(), "");
  EXPECT_FALSE(matcher.matched());
}

TEST(StopMatcher, HoldsBackWhatMayBecomeAStop) {
  StopMatcher matcher({"<end>"});
  EXPECT_EQ(matcher.Push("a<e"), "a");
  EXPECT_EQ(matcher.Push("n"), "");
  EXPECT_EQ(matcher.Push("x"), "<enx");
  EXPECT_EQ(matcher.Push("<"), "");
  EXPECT_EQ(matcher.Flush(), "<");
}

TEST(StopMatcher, FindsAStopThatArrivesInPieces) {
  StopMatcher matcher({"<end>"});
  EXPECT_EQ(matcher.Push("ab<"), "ab");
  EXPECT_EQ(matcher.Push("end"), "");
  EXPECT_EQ(matcher.Push("> more"), "");
  EXPECT_TRUE(matcher.matched());
  EXPECT_EQ(matcher.Push("more"), "");
  EXPECT_EQ(matcher.Flush(), "");
}

TEST(StopMatcher, TakesTheEarliestOfSeveral) {
  StopMatcher matcher({"zz", "y"});
  EXPECT_EQ(matcher.Push("ayzz"), "a");
  EXPECT_TRUE(matcher.matched());
}

TEST(StopMatcher, RestartsInsideARepeatedPrefix) {
  StopMatcher matcher({"aab"});
  EXPECT_EQ(matcher.Push("a"), "");
  EXPECT_EQ(matcher.Push("a"), "");
  EXPECT_EQ(matcher.Push("a"), "a");
  EXPECT_EQ(matcher.Push("b"), "");
  EXPECT_TRUE(matcher.matched());
}

// Whatever the pieces, the text shown is the text before the first stop.
TEST(StopMatcher, DoesNotDependOnThePieces) {
  for (uint64_t seed = 1; seed <= 2000; ++seed) {
    Rng rng(seed);
    std::string text;
    for (uint64_t n = rng.Below(30); n > 0; --n) {
      text += static_cast<char>('a' + rng.Below(2));
    }
    std::vector<std::string> stops;
    for (uint64_t n = rng.Below(3); n > 0; --n) {
      std::string& stop = stops.emplace_back();
      for (uint64_t m = 1 + rng.Below(5); m > 0; --m) {
        stop += static_cast<char>('a' + rng.Below(2));
      }
    }
    size_t first = text.size();
    for (const std::string& stop : stops) {
      first = std::min(first, text.find(stop));
    }
    StopMatcher matcher(stops);
    std::string shown;
    for (size_t at = 0; at < text.size();) {
      const size_t n = 1 + rng.Below(3);
      shown += matcher.Push(std::string_view(text).substr(at, n));
      // A piece of several characters may hold an earlier-ending stop behind an earlier-beginning
      // one; both begin the cut.
      at += n;
    }
    shown += matcher.Flush();
    if (!matcher.matched()) {
      EXPECT_EQ(shown, text) << "seed " << seed;
    } else {
      EXPECT_EQ(shown, text.substr(0, shown.size())) << "seed " << seed;
      bool ends_at_stop = false;
      for (const std::string& stop : stops) {
        ends_at_stop = ends_at_stop || text.compare(shown.size(), stop.size(), stop) == 0;
      }
      EXPECT_TRUE(ends_at_stop) << "seed " << seed;
      EXPECT_GE(shown.size(), first) << "seed " << seed;
    }
  }
}

}  // namespace
}  // namespace varve
