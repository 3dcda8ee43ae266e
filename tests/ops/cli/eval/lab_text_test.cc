#include "ops/cli/eval/lab_text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "proto/base/file.h"
#include "tests/support/result_matchers.h"
#include "tests/support/temp_dir.h"

#include "ops/cli/eval/embedded.h"

namespace varve::cli {
namespace {

using testing::HasSubstr;

TEST(LabText, WithoutFilesIsTheDocumentationOfTheSourceTree) {
  const auto texts = ReadLabTexts({}, {});
  ASSERT_OK(texts);
  ASSERT_EQ(texts->size(), 1U);
  const auto architecture = ReadFile(std::string(VARVE_SOURCE_DIR) + "/ARCHITECTURE.md");
  ASSERT_OK(architecture);
  EXPECT_EQ(texts->front().bytes.substr(0, architecture->size()), *architecture);
  const LabText& text = texts->front();
  EXPECT_EQ(text.bytes + text.held_apart, EmbeddedText());
  EXPECT_GT(text.bytes.size(), 20'000U);
  EXPECT_GT(text.held_apart.size(), 10'000U);
}

TEST(LabText, ThePlotScriptIsBuiltInByteForByte) {
  const auto script = ReadFile(std::string(VARVE_SOURCE_DIR) + "/ops/eval/plot.py");
  ASSERT_OK(script);
  EXPECT_EQ(EmbeddedPlotScript(), *script + "\n");
}

TEST(LabText, ReadsEveryFile) {
  TempDir files;
  ASSERT_OK(WriteFileAtomically(files.File("a"), "One."));
  ASSERT_OK(WriteFileAtomically(files.File("b"), "Two."));
  const auto texts = ReadLabTexts({files.File("b"), files.File("a")}, {});
  ASSERT_OK(texts);
  EXPECT_EQ(texts->at(0).bytes, "Two.");
  EXPECT_EQ(texts->at(1).name, files.File("a"));
}

TEST(LabText, TheLastThirdIsHeldApartBehindASpace) {
  TempDir files;
  ASSERT_OK(WriteFileAtomically(files.File("text"), "one two three four five six seven"));
  const auto texts = ReadLabTexts({files.File("text")}, {});
  ASSERT_OK(texts);
  EXPECT_EQ(texts->at(0).bytes, "one two three four five ");
  EXPECT_EQ(texts->at(0).held_apart, "six seven");
}

TEST(LabText, OfALongTextNoMoreThanIsOfUseIsHeldApart) {
  TempDir files;
  std::string text;
  while (text.size() < 200'000) {
    text += "It rained all day. ";
  }
  ASSERT_OK(WriteFileAtomically(files.File("text"), text));
  const auto texts = ReadLabTexts({files.File("text")}, {});
  ASSERT_OK(texts);
  EXPECT_LE(texts->at(0).held_apart.size(), kMostHeldApartBytes);
  EXPECT_GT(texts->at(0).held_apart.size(), kMostHeldApartBytes - 20);
}

TEST(LabText, WithTextsToCalibrateWithNothingIsHeldApart) {
  TempDir files;
  ASSERT_OK(WriteFileAtomically(files.File("text"), "one two three"));
  ASSERT_OK(WriteFileAtomically(files.File("other"), "four five six"));
  const auto texts = ReadLabTexts({files.File("text")}, {files.File("other"), files.File("other")});
  ASSERT_OK(texts);
  EXPECT_EQ(texts->at(0).bytes, "one two three");
  EXPECT_EQ(texts->at(0).held_apart, "four five sixfour five six");
}

TEST(LabText, RefusesEmptyAndMissingFilesByName) {
  TempDir files;
  ASSERT_OK(WriteFileAtomically(files.File("blank"), " \n"));
  EXPECT_THAT(ReadLabTexts({files.File("blank")}, {}).error().message,
              HasSubstr(files.File("blank") + "' is empty"));
  EXPECT_THAT(ReadLabTexts({files.File("none")}, {}).error().message,
              HasSubstr(files.File("none")));
  EXPECT_THAT(ReadLabTexts({}, {files.File("blank")}).error().message,
              HasSubstr(files.File("blank") + "' is empty"));
}

}  // namespace
}  // namespace varve::cli
