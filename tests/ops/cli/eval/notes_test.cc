#include "ops/cli/eval/notes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace varve::cli {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

EvalRow RowOf(const std::string& part, const std::string& tables) {
  return {.part = part,
          .model = "mini",
          .codec = "klt2",
          .policy = "full",
          .tables = tables,
          .figures = {}};
}

TEST(Notes, SayWhatTablesWereMadeWith) {
  EXPECT_THAT(NotesOn({RowOf("quality", "")}), IsEmpty());
  EXPECT_THAT(NotesOn({RowOf("quality", kTablesMade)}), ElementsAre(HasSubstr("held apart")));
  EXPECT_THAT(NotesOn({RowOf("quality", kTablesOfFile)}),
              ElementsAre(HasSubstr("beside the model")));
  EXPECT_THAT(NotesOn({RowOf("rate", kTablesMade)}), ElementsAre(HasSubstr("another draw")));
  EXPECT_THAT(NotesOn({RowOf("quality", kTablesMade), RowOf("planted", kTablesMade)}),
              ElementsAre(HasSubstr("held apart"), HasSubstr("another draw")));
}

}  // namespace
}  // namespace varve::cli
