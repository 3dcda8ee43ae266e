#include "kernels/attend.h"

#include <cmath>
#include <tuple>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/attn_state.h"
#include "kernels/cpu/simd_targets.h"
#include "tests/kernels/attend_cases.h"

namespace varve {
namespace {

// rvq8-2k is left out where pages are many: it searches 8 times as many codewords as rvq8, whose
// loops it shares. kernels_fuzz and codec_test have it.
std::vector<CodecId> CodecIds() {
  std::vector<CodecId> ids;
  for (const Codec* codec : AllCodecs()) {
    if (codec->id() != CodecId::kRvq8Large) {
      ids.push_back(codec->id());
    }
  }
  return ids;
}

// The sizes of issue-scale models and every edge of a tile of 128 tokens, on every instruction set
// of this machine.
class AttendSweep : public testing::TestWithParam<std::tuple<int, int>> {
 protected:
  void TearDown() override { UseBestSimdTarget(); }
};

TEST_P(AttendSweep, MatchesReference) {
  const auto [head_dim, group_size] = GetParam();
  std::vector<std::unique_ptr<ThreadTeam>> teams;
  for (int threads = 1; threads <= 3; ++threads) {
    teams.push_back(std::make_unique<ThreadTeam>(threads));
  }
  uint64_t seed = 1000 * head_dim + group_size;
  for (const SimdTarget& target : SimdTargets()) {
    ForceSimdTarget(target);
    for (const int kv_len : {0, 1, 127, 128, 129, 300}) {
      for (const int num_queries : {1, 2, 7, 33, 130}) {
        if (num_queries == 130 && head_dim * group_size > 512) {
          continue;  // the reference would take minutes
        }
        AttendCase attend_case;
        attend_case.seed = ++seed;
        attend_case.group_size = group_size;
        attend_case.num_kv_heads = num_queries > 7 ? 1 : 2;
        attend_case.head_dim = head_dim;
        attend_case.positions = LastPositions(kv_len, num_queries);
        attend_case.views = PagesOf(CodecIds()[seed % CodecIds().size()], kv_len);
        attend_case.window = seed % 2 == 0 ? 0 : 50;
        attend_case.logit_softcap = seed % 5 == 0 ? 2.0F : 0.0F;
        attend_case.per_view = seed % 7 == 0;
        ASSERT_EQ(CheckAgainstReference(attend_case, *teams[seed % 3]), "") << target.name;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes,
                         AttendSweep,
                         testing::Combine(testing::Values(8, 16, 64, 80, 128, 256),
                                          testing::Values(1, 3, 4, 8)));

TEST(Attend, TakesEveryCombinationOfCodecWindowAndSoftcap) {
  ThreadTeam team(2);
  for (const CodecId codec : CodecIds()) {
    AttendCase attend_case;
    attend_case.group_size = 3;
    attend_case.views = PagesOf(codec, 290);
    attend_case.per_view = true;
    AttendProblem problem(attend_case);
    for (const int num_queries : {1, 40}) {
      for (const int64_t window : {0, 1, 64, 200}) {
        for (const float softcap : {0.0F, 1.5F, 50.0F}) {
          problem.Ask(LastPositions(290, num_queries), window, softcap);
          ASSERT_EQ(CheckAgainstReference(problem, team), "");
        }
      }
    }
  }
}

TEST(Attend, MixesCodecsSubrangesAndPrunedTokensInOneCall) {
  ThreadTeam team(2);
  for (const int num_queries : {1, 3, 50}) {
    AttendCase attend_case;
    attend_case.group_size = 4;
    attend_case.head_dim = 32;
    attend_case.per_view = true;
    attend_case.views = {
        {CodecId::kBf16, 4, 0, 4, 0, false},      // sinks
        {CodecId::kInt8, 128, 4, 120, 0, false},  // a page without its first tokens
        {CodecId::kInt8, 40, 0, 40, 128, true},   // a pruned page
        {CodecId::kRot4, 60, 0, 60, 170, false},  // other coordinates, and back
        {CodecId::kInt3, 60, 10, 50, 230, false},
        {CodecId::kF32, 300, 17, 270, 300, false},  // longer than a tile, from the middle
        {CodecId::kBf16, 128, 5, 0, 587, false},    // nothing of it
        {CodecId::kBf16, 128, 0, 77, 600, true},
    };
    for (const int64_t window : {0, 250}) {
      attend_case.window = window;
      for (int i = 0; i < num_queries; ++i) {
        attend_case.positions.push_back(640 + i);
      }
      ASSERT_EQ(CheckAgainstReference(attend_case, team), "");
      attend_case.positions.clear();
    }
  }
}

TEST(Attend, TakesPositionsWithGaps) {
  ThreadTeam team(1);
  AttendCase attend_case;
  attend_case.views = PagesOf(CodecId::kBf16, 500);
  for (int i = 0; i < 60; ++i) {
    attend_case.positions.push_back(i * 9);
  }
  attend_case.window = 30;
  EXPECT_EQ(CheckAgainstReference(attend_case, team), "");
}

TEST(Attend, TakesHeadDimsThatNoVectorDivides) {
  ThreadTeam team(1);
  for (const int head_dim : {2, 4, 6, 12, 20, 100, 253}) {
    for (const CodecId codec : CodecIds()) {
      AttendCase attend_case;
      attend_case.head_dim = head_dim;
      attend_case.views = PagesOf(codec, 150);
      attend_case.positions = LastPositions(150, 5);
      EXPECT_EQ(CheckAgainstReference(attend_case, team), "");
    }
  }
}

TEST(Attend, RowsThatSeeNothingStayEmpty) {
  ThreadTeam team(1);
  for (const int num_queries : {1, 64}) {
    AttendCase attend_case;
    attend_case.views = PagesOf(CodecId::kInt8, 256);
    for (ViewCase& view : attend_case.views) {
      view.first_position += 1000;
    }
    for (int i = 0; i < num_queries; ++i) {
      attend_case.positions.push_back(1000 - num_queries / 2 +
                                      i);  // half of them before the first key
    }
    attend_case.per_view = true;
    EXPECT_EQ(CheckAgainstReference(attend_case, team), "");
  }
}

TEST(Attend, ManySplitsMatchReference) {
  ThreadTeam team(3);
  AttendCase attend_case;
  attend_case.num_kv_heads = 1;
  attend_case.group_size = 2;
  attend_case.head_dim = 16;
  attend_case.views = PagesOf(CodecId::kBf16, 9000, 100);
  attend_case.positions = {8999};
  EXPECT_EQ(CheckAgainstReference(attend_case, team), "");
  attend_case.positions = LastPositions(9000, 30);
  EXPECT_EQ(CheckAgainstReference(attend_case, team), "");
}

TEST(Attend, ResultDoesNotDependOnTheNumberOfThreads) {
  for (const int num_queries : {1, 20, 200}) {
    AttendCase attend_case;
    attend_case.group_size = 3;
    attend_case.views = PagesOf(CodecId::kInt8, 2500);
    attend_case.positions = LastPositions(2500, num_queries);
    ThreadTeam one(1);
    AttendProblem first(attend_case);
    first.Run(one);
    for (const int threads : {2, 3, 5}) {
      ThreadTeam team(threads);
      AttendProblem again(attend_case);
      again.Run(team);
      EXPECT_EQ(first.o(), again.o());
      EXPECT_EQ(first.lse(), again.lse());
    }
  }
}

TEST(Attend, CallsOverPartsOfTheViewsAddUp) {
  ThreadTeam team(2);
  for (const int num_queries : {1, 48}) {
    AttendCase attend_case;
    attend_case.views = PagesOf(CodecId::kBf16, 1500);
    attend_case.positions = LastPositions(1500, num_queries);
    AttendProblem problem(attend_case);
    const ReferenceState expected = ReferenceAttend(problem.Params());
    AttendParams params = problem.Params();
    AttendScratch scratch;
    for (size_t begin = 0; begin < problem.views().size(); begin += 5) {
      const size_t count = std::min<size_t>(5, problem.views().size() - begin);
      params.views = std::span(problem.views()).subspan(begin, count);
      Attend(params, scratch, team);
    }
    EXPECT_EQ(CompareArrays(problem.o(), expected.o, 1e-5, 1e-5), "");
    EXPECT_EQ(CompareArrays(problem.lse(), expected.lse, 1e-5, 1e-5), "");
  }
}

TEST(Attend, OneQueryAloneEqualsTheSameQueryInAChunk) {
  ThreadTeam team(1);
  AttendCase attend_case;
  attend_case.group_size = 2;
  attend_case.views = PagesOf(CodecId::kInt8, 700);
  attend_case.positions = LastPositions(700, 90);
  AttendProblem chunk(attend_case);
  chunk.Run(team);
  const size_t row = static_cast<size_t>(attend_case.num_qo_heads()) * attend_case.head_dim;
  for (const size_t query : {0, 41, 89}) {
    AttendParams params = chunk.Params();
    chunk.Run(team);
    const std::vector<float> together(chunk.o().begin() + query * row,
                                      chunk.o().begin() + (query + 1) * row);
    std::vector<float> alone(row, 0.0F);
    std::vector<float> lse(attend_case.num_qo_heads(), -INFINITY);
    AttendScratch scratch;
    params.q += query * row;
    params.positions = params.positions.subspan(query, 1);
    params.o = alone.data();
    params.lse = lse.data();
    Attend(params, scratch, team);
    const double tolerance = AttendTolerance(CodecId::kInt8);
    EXPECT_EQ(CompareArrays(alone, {together.begin(), together.end()}, tolerance, tolerance), "");
  }
}

TEST(Attend, LsePerViewMergesToLse) {
  ThreadTeam team(2);
  AttendCase attend_case;
  attend_case.group_size = 4;
  attend_case.views = PagesOf(CodecId::kInt8, 1200);
  attend_case.positions = LastPositions(1200, 3);
  attend_case.per_view = true;
  AttendProblem problem(attend_case);
  problem.Run(team);
  const size_t rows = problem.lse().size();
  for (size_t row = 0; row < rows; ++row) {
    float merged = -INFINITY;
    for (size_t view = 0; view < problem.views().size(); ++view) {
      merged = WeighMerge(merged, problem.lse_per_view()[view * rows + row]).lse;
    }
    EXPECT_NEAR(merged, problem.lse()[row], 1e-5);
  }
}

TEST(Attend, LsePerViewDoesNotDrownInOtherViews) {
  ThreadTeam team(1);
  AttendCase attend_case;
  attend_case.views = PagesOf(CodecId::kF32, 256);
  attend_case.positions = {255};
  attend_case.per_view = true;
  AttendProblem problem(attend_case);
  for (float& value : problem.q()) {
    value *= 60.0F;  // scores in the hundreds: e^-200 is no float
  }
  problem.Run(team);
  const std::vector<float> lse_per_view = problem.lse_per_view();
  const ReferenceState expected = ReferenceAttend(problem.Params());
  EXPECT_EQ(CompareArrays(lse_per_view, expected.lse_per_view, 1e-5, 1e-5), "");
}

TEST(Attend, ReservedScratchTakesTheCall) {
  ThreadTeam team(2);
  AttendScratch scratch;
  scratch.Reserve(200, 6, 2, 64, 128, 2);
  AttendScratch moved(std::move(scratch));
  AttendCase attend_case;
  attend_case.group_size = 3;
  attend_case.views = PagesOf(CodecId::kF32, 256);
  attend_case.positions = LastPositions(256, 200);
  AttendProblem problem(attend_case);
  const ReferenceState expected = ReferenceAttend(problem.Params());
  Attend(problem.Params(), moved, team);
  EXPECT_EQ(CompareArrays(problem.o(), expected.o, 1e-5, 1e-5), "");
}

TEST(AttendDeathTest, RefusesHeadsThatDoNotDivide) {
  ThreadTeam team(1);
  AttendCase attend_case;
  attend_case.views = PagesOf(CodecId::kF32, 10);
  attend_case.positions = {9};
  AttendProblem problem(attend_case);
  AttendParams params = problem.Params();
  params.num_qo_heads = 3;
  AttendScratch scratch;
  EXPECT_DEATH(Attend(params, scratch, team), "num_kv_heads");
}

}  // namespace
}  // namespace varve
