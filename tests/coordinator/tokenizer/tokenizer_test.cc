// The promises of tokenizer.h and detokenizer.h that goldens cannot show.
#include <cstdio>
#include <ctime>
#include <random>
#include <thread>

#include "coordinator/tokenizer/detokenizer.h"
#include "coordinator/tokenizer/regex.h"
#include "coordinator/tokenizer/text_pieces.h"
#include "coordinator/tokenizer/utf8.h"
#include "tests/coordinator/tokenizer/golden_vectors.h"

#include "gmock/gmock.h"

namespace varve {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using Ids = std::vector<int32_t>;

// Words as the goldens' vocabularies know them, with what makes tokenizers stumble in between.
std::string NaturalText(uint32_t seed, size_t num_words) {
  static const std::vector<std::string> words = {"the",      "river",
                                                 "lays",     "down",
                                                 "its",      "mud",
                                                 "in",       "thin",
                                                 "and",      "We",
                                                 "don't",    "1984",
                                                 "3.14,",    "(see",
                                                 "it).",     "für",
                                                 "größere",  "\xE6\xB2\xB3\xE6\xB5\x81",
                                                 "x=1;",     "\xF0\x9F\x98\x80",
                                                 "THEY'RE",  "a",
                                                 "I",        "Z\xCD\x91",
                                                 "end.\n\n", "--",
                                                 "\tint",    "{}"};
  std::mt19937 random(seed);
  std::string text;
  for (size_t i = 0; i < num_words; ++i) {
    if (i > 0) {
      text += random() % 40 == 0 ? "   " : " ";
    }
    text += words[random() % words.size()];
  }
  return text;
}

TEST(TokenizerTest, SpecialTokensInDocumentsAreText) {
  for (const char* kind : kGoldenKinds) {
    const auto tokenizer = LoadTokenizer(GoldenDir(kind));
    std::string text;
    for (int32_t id = 0; id < tokenizer->vocab_size(); ++id) {
      if (tokenizer->IsSpecial(id) && id != tokenizer->TokenToId("<unk>")) {
        text += std::string(*tokenizer->IdToToken(id)) + "x ";
      }
    }
    for (const int32_t id : tokenizer->Encode(text)) {
      EXPECT_TRUE(!tokenizer->IsSpecial(id) || id == tokenizer->TokenToId("<unk>"))
          << kind << " " << id;
    }
  }
}

TEST(TokenizerTest, SentencePieceModelFindsControlTokensOnRequest) {
  const auto tokenizer = LoadTokenizer(GoldenDir("spm_bpe"));
  const Ids ids = tokenizer->Encode("<s>[INST] mud[/INST]", {.parse_special = true});
  EXPECT_EQ(ids.front(), 1);
  EXPECT_EQ(ids[1], tokenizer->TokenToId("[INST]"));
  EXPECT_EQ(ids.back(), tokenizer->TokenToId("[/INST]"));
  EXPECT_EQ(tokenizer->Decode(ids, false),
            "<s>[INST]  mud[/INST]");  // with the blank of the model before " mud"
  EXPECT_EQ(tokenizer->Decode(ids, true), " mud");
}

TEST(TokenizerTest, IdsAndTokensAreEachOthersInverse) {
  for (const char* kind : kGoldenKinds) {
    const auto tokenizer = LoadTokenizer(GoldenDir(kind));
    ASSERT_GT(tokenizer->vocab_size(), 100);
    for (int32_t id = 0; id < tokenizer->vocab_size(); ++id) {
      const auto token = tokenizer->IdToToken(id);
      if (token) {
        EXPECT_EQ(tokenizer->TokenToId(*token), id) << kind;
      }
    }
    EXPECT_EQ(tokenizer->IdToToken(-1), std::nullopt);
    EXPECT_EQ(tokenizer->IdToToken(tokenizer->vocab_size()), std::nullopt);
    EXPECT_EQ(tokenizer->TokenToId("no such token"), std::nullopt);
    EXPECT_FALSE(tokenizer->IsSpecial(-1));
    EXPECT_FALSE(tokenizer->IsSpecial(1 << 30));
    EXPECT_EQ(tokenizer->Decode(Ids{-5, 1 << 30}, false), "");
  }
}

TEST(TokenizerTest, BadUtf8IsReplaced) {
  const std::string bad =
      "a\x80"
      "b\xC3"
      "c\xE6\xB2"
      "d\xF0\x9F\x98"
      "e\xED\xA0\x80"
      "f\xF5g\xC0\xAFh\xE6";
  std::string repaired;
  AppendLossy(bad, &repaired);
  EXPECT_EQ(repaired,
            "a\uFFFD"
            "b\uFFFD"
            "c\uFFFD"
            "d\uFFFD"
            "e\uFFFD\uFFFD\uFFFD"
            "f\uFFFDg\uFFFD\uFFFDh\uFFFD");
  for (const char* kind : kGoldenKinds) {
    const auto tokenizer = LoadTokenizer(GoldenDir(kind));
    EXPECT_EQ(tokenizer->Encode(bad), tokenizer->Encode(repaired)) << kind;
  }
}

TEST(TokenizerTest, RandomBytesNeverCrash) {
  std::mt19937 random(7);
  for (const char* kind : kGoldenKinds) {
    const auto tokenizer = LoadTokenizer(GoldenDir(kind));
    for (int round = 0; round < 50; ++round) {
      std::string bytes(random() % 200, '\0');
      for (char& byte : bytes) {
        byte = static_cast<char>(random() % 3 == 0 ? 0x20 + random() % 0x60 : random());
      }
      const Ids ids = tokenizer->Encode(
          bytes, {.parse_special = round % 2 == 0, .is_continuation = round % 3 == 0});
      EXPECT_TRUE(IsValidUtf8(tokenizer->Decode(ids, false))) << kind;
    }
  }
}

TEST(TokenizerTest, ByteLevelTextSurvivesTheRoundTrip) {
  for (const char* kind : {"gpt2", "llama3", "smollm", "gemma"}) {
    const auto tokenizer = LoadTokenizer(GoldenDir(kind));
    for (uint32_t seed = 0; seed < 20; ++seed) {
      const std::string text = NaturalText(seed, 60);
      EXPECT_EQ(tokenizer->Decode(tokenizer->Encode(text), false), text) << kind;
    }
  }
}

TEST(TokenizerTest, PiecesGiveTheIdsOfTheWhole) {
  for (const char* kind : kGoldenKinds) {
    const auto tokenizer = LoadTokenizer(GoldenDir(kind));
    for (uint32_t seed = 0; seed < 20; ++seed) {
      const std::string text = NaturalText(seed, 300);
      const size_t max_bytes = 150 + seed * 13;
      Ids pieces;
      bool first = true;
      for (std::string_view rest = text; !rest.empty(); first = false) {
        const size_t cut = SafeSplit(rest, max_bytes);
        ASSERT_GT(cut, 0u);
        ASSERT_LE(cut, max_bytes);
        const Ids ids = tokenizer->Encode(rest.substr(0, cut), {.is_continuation = !first});
        pieces.insert(pieces.end(), ids.begin(), ids.end());
        rest.remove_prefix(cut);
      }
      EXPECT_EQ(pieces, tokenizer->Encode(text)) << kind << " seed " << seed;
    }
  }
}

TEST(SafeSplitTest, TakesTheBestCut) {
  EXPECT_EQ(SafeSplit("short", 100), 5u);
  EXPECT_EQ(SafeSplit("abc def ghi", 9), 7u);
  EXPECT_EQ(SafeSplit("abc def ghi", 7), 7u);  // the blank itself is the first byte of the rest
  EXPECT_EQ(SafeSplit("abc def 1 2 3 4", 13), 3u);  // letters on both sides win over a later cut
  EXPECT_EQ(SafeSplit("12 34  56 78", 11), 9u);
  EXPECT_EQ(SafeSplit("12  3456789", 8), 8u);  // two blanks are no cut, so any code point
  EXPECT_EQ(SafeSplit("\xE6\xB2\xB3\xE6\xB5\x81\xE6\xB2\xB3", 5), 3u);
  EXPECT_EQ(SafeSplit("\xF0\x9F\x98\x80\xF0\x9F\x98\x80", 7), 4u);
  EXPECT_EQ(SafeSplit("\x80\x80\x80\x80\x80\x80", 4), 4u);  // not UTF-8: any cut
  EXPECT_EQ(SafeSplit(" abcdefgh", 8), 8u);
  EXPECT_EQ(SafeSplit("abcdefgh ", 8), 8u);
}

TEST(SafeSplitDeathTest, WantsRoomForACodePoint) {
  EXPECT_DEATH((void)SafeSplit("abcdef", 3), "max_bytes >= 4");
}

TEST(DetokenizerTest, WaitsForTheRestOfACodePoint) {
  const auto tokenizer = LoadTokenizer(GoldenDir("mistral"));
  const auto byte = [&](int value) {
    char name[8];
    std::snprintf(name, sizeof(name), "<0x%02X>", value);
    return *tokenizer->TokenToId(name);
  };
  StreamingDetokenizer detokenizer(tokenizer, false);
  EXPECT_EQ(detokenizer.Push(byte(0xF0)), "");
  EXPECT_EQ(detokenizer.Push(byte(0x9F)), "");
  EXPECT_EQ(detokenizer.Push(byte(0x98)), "");
  EXPECT_EQ(detokenizer.Push(byte(0x80)), "\xF0\x9F\x98\x80");
  EXPECT_EQ(detokenizer.Push(byte(0xE6)), "");
  EXPECT_EQ(detokenizer.Push(byte('a')),
            "\uFFFD"
            "a");
  EXPECT_EQ(detokenizer.Push(byte(0xE6)), "");
  EXPECT_EQ(detokenizer.Push(byte(0xB2)), "");
  EXPECT_EQ(detokenizer.Flush(), "\uFFFD");
  EXPECT_EQ(detokenizer.Flush(), "");
}

TEST(DetokenizerTest, OnlyTheStartOfATextLosesItsBlank) {
  for (const char* kind : {"mistral", "metaspace", "spm_bpe"}) {
    const auto tokenizer = LoadTokenizer(GoldenDir(kind));
    const Ids ids = tokenizer->Encode("the river");
    EXPECT_EQ(tokenizer->Decode(ids, false), "the river") << kind;
    StreamingDetokenizer continuing(tokenizer, false, true);
    std::string text;
    for (const int32_t id : ids) {
      text += continuing.Push(id);
    }
    EXPECT_EQ(text, " the river") << kind;
  }
}

TEST(DetokenizerTest, SkipsSpecialTokens) {
  const auto tokenizer = LoadTokenizer(GoldenDir("llama3"));
  StreamingDetokenizer skipping(tokenizer, true);
  StreamingDetokenizer showing(tokenizer, false);
  EXPECT_EQ(skipping.Push(*tokenizer->TokenToId("<|im_end|>")), "");
  EXPECT_EQ(showing.Push(*tokenizer->TokenToId("<|im_end|>")), "<|im_end|>");
}

TEST(TokenizerTest, ManyThreadsGetTheSameIds) {
  const auto tokenizer = LoadTokenizer(GoldenDir("llama3"));
  const std::string text = NaturalText(3, 2000);
  const Ids expected = tokenizer->Encode(text);
  std::vector<std::thread> threads;
  std::vector<int> num_equal(8);
  for (size_t i = 0; i < num_equal.size(); ++i) {
    threads.emplace_back([&, i] {
      for (int round = 0; round < 10; ++round) {
        num_equal[i] += tokenizer->Encode(text) == expected ? 1 : 0;
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  EXPECT_THAT(num_equal, testing::Each(10));
}

// Time per byte must not grow with the length of a run without blanks: 16 times the text may take
// 40 times the time (16 log n, and a busy machine), a quadratic merge takes 256 times.
// What this thread has computed, which other processes do not lengthen.
double ThreadSeconds() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

TEST(TokenizerTest, LongRunsTakeNoQuadraticTime) {
  for (const char* kind : {"gpt2", "llama3", "llama2", "gemma", "spm_bpe"}) {
    const auto tokenizer = LoadTokenizer(GoldenDir(kind));
    const auto seconds = [&](const std::string& text) {
      double best = 1e9;
      for (int round = 0; round < 3; ++round) {
        const double begin = ThreadSeconds();
        (void)tokenizer->Encode(text);
        best = std::min(best, ThreadSeconds() - begin);
      }
      return best;
    };
    for (const char* unit : {"a", "mudriver", "\xE6\xB2\xB3"}) {
      std::string text;
      while (text.size() < 64 << 10) {
        text += unit;
      }
      const double small = seconds(text);
      for (int i = 0; i < 4; ++i) {
        text += text;
      }
      // 16 times the text: 16 times the work, where quadratic work would be 256 times.
      EXPECT_LT(seconds(text), 64 * small + 0.05) << kind << " " << unit;
    }
  }
}

TEST(RegexTest, RefusesWhatMeansSomethingElse) {
  const std::pair<const char*, const char*> cases[] = {{"\\h+", "\\h and \\H"},
                                                       {"[a[b]]", "nested character classes"},
                                                       {"[a&&b]", "intersection"},
                                                       {"(?m)a", "(?m)"},
                                                       {"[^\\S]", "\\S inside a character class"},
                                                       {"a\\", "ends in a backslash"},
                                                       {"(a", "missing"}};
  for (const auto& [pattern, message] : cases) {
    const auto regex = Regex::Compile(pattern);
    ASSERT_FALSE(regex.has_value()) << pattern;
    EXPECT_EQ(ErrorName(regex.error().code), "Unsupported");
    EXPECT_THAT(regex.error().message, HasSubstr(message));
  }
}

TEST(RegexTest, APatternOutOfMemoryLeavesTheRestUnmatched) {
  // Remembers a place to come back to at every other letter, in a group that is captured.
  const auto regex = Regex::Compile("(?:(a)|(b))*c|x");
  ASSERT_TRUE(regex.has_value());
  Regex::Scratch scratch;
  std::vector<TextRange> ranges;
  std::string text = "x";
  for (int i = 0; i < 4 << 20; ++i) {
    text += i % 2 == 0 ? 'a' : 'b';
  }
  regex->Partition(text, &scratch, &ranges);
  ASSERT_EQ(ranges.size(), 2u);
  EXPECT_TRUE(ranges[0].is_match);
  EXPECT_FALSE(ranges[1].is_match);
  EXPECT_EQ(ranges[1].end, text.size());
}

TEST(RegexTest, EmptyMatchesSplit) {
  const auto regex = Regex::Compile("(?=[A-Z])");
  ASSERT_TRUE(regex.has_value());
  Regex::Scratch scratch;
  std::vector<TextRange> ranges;
  regex->Partition("oneTwoThree", &scratch, &ranges);
  ASSERT_EQ(ranges.size(), 3u);
  EXPECT_EQ(ranges[1].begin, 3u);
  EXPECT_EQ(ranges[2].begin, 6u);
}

}  // namespace
}  // namespace varve
