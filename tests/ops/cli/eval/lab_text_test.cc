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
  const auto texts = ReadLabTexts({});
  ASSERT_OK(texts);
  ASSERT_EQ(texts->size(), 1U);
  const auto architecture = ReadFile(std::string(VARVE_SOURCE_DIR) + "/ARCHITECTURE.md");
  ASSERT_OK(architecture);
  EXPECT_EQ(texts->front().bytes.substr(0, architecture->size()), *architecture);
  EXPECT_GT(texts->front().bytes.size(), 30'000U);
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
  const auto texts = ReadLabTexts({files.File("b"), files.File("a")});
  ASSERT_OK(texts);
  EXPECT_EQ(texts->at(0).bytes, "Two.");
  EXPECT_EQ(texts->at(1).name, files.File("a"));
}

TEST(LabText, RefusesEmptyAndMissingFilesByName) {
  TempDir files;
  ASSERT_OK(WriteFileAtomically(files.File("blank"), " \n"));
  EXPECT_THAT(ReadLabTexts({files.File("blank")}).error().message,
              HasSubstr(files.File("blank") + "' is empty"));
  EXPECT_THAT(ReadLabTexts({files.File("none")}).error().message, HasSubstr(files.File("none")));
}

}  // namespace
}  // namespace varve::cli
