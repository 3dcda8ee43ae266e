#include "proto/base/trace.h"

#include <gtest/gtest.h>

namespace varve {
namespace {

TEST(Trace, RecordsSpansInTheOrderInWhichTheyBegan) {
  StartTrace();
  {
    const TraceSpan outer("outer");
    { const TraceSpan first("first"); }
    { const TraceSpan second("second"); }
  }
  const std::vector<TraceEvent> events = StopTrace();
  ASSERT_EQ(events.size(), 3U);
  EXPECT_EQ(events[0].name, "outer");
  EXPECT_EQ(events[1].name, "first");
  EXPECT_EQ(events[2].name, "second");
  EXPECT_GE(events[0].end_us, events[2].end_us);
}

TEST(Trace, RecordsNothingWhileOff) {
  { const TraceSpan span("ignored"); }
  StartTrace();
  EXPECT_TRUE(StopTrace().empty());
}

}  // namespace
}  // namespace varve
