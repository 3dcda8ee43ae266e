// Attend asked for the state of each view alone, for their masses alone, and over runs of keys
// alone.
#include <cmath>
#include <cstring>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/attn_state.h"
#include "kernels/codec/rot_block.h"
#include "kernels/cpu/simd_targets.h"
#include "tests/kernels/attend_cases.h"

namespace varve {
namespace {

// Few queries (decode) and many (prefill), head sizes with and without tails.
std::vector<AttendCase> Cases(CodecId codec) {
  std::vector<AttendCase> cases;
  for (const int32_t queries : {1, 3, 70}) {
    for (const int32_t head_dim : {64, 80}) {
      AttendCase one;
      one.group_size = 3;
      one.head_dim = head_dim;
      one.views = PagesOf(codec, 900);
      one.positions = LastPositions(900, queries);
      one.per_view = true;
      one.seed = static_cast<uint64_t>(queries + head_dim);
      cases.push_back(one);
    }
  }
  return cases;
}

class AttendPerView : public testing::TestWithParam<CodecId> {
 protected:
  void TearDown() override { UseBestSimdTarget(); }
};

TEST_P(AttendPerView, StatesOfTheViewsMergeToTheStateOfAll) {
  ThreadTeam team(2);
  for (const AttendCase& one : Cases(GetParam())) {
    AttendProblem problem(one);
    problem.Run(team);
    const std::vector<float> o = problem.o();
    const std::vector<float> lse = problem.lse();
    const std::vector<float> lse_per_view = problem.lse_per_view();

    AttendParams params = problem.Params();
    std::vector<float> o_per_view(params.views.size() * o.size(), 12345.0F);
    params.o_per_view = o_per_view.data();
    AttendScratch scratch;
    Attend(params, scratch, team);
    EXPECT_EQ(problem.lse_per_view(), lse_per_view) << Describe(one);
    for (size_t row = 0; row < lse.size(); ++row) {
      EXPECT_EQ(params.lse[row], -INFINITY) << "the state is left as it is";
    }
    const auto head_dim = static_cast<size_t>(one.head_dim);
    std::vector<double> merged;
    for (size_t row = 0; row < lse.size(); ++row) {
      std::vector<float> sum(head_dim, 0.0F);
      float sum_lse = -INFINITY;
      for (size_t view = 0; view < params.views.size(); ++view) {
        const size_t at = view * lse.size() + row;
        MergeState(sum.data(),
                   &sum_lse,
                   o_per_view.data() + at * head_dim,
                   lse_per_view[at],
                   one.head_dim);
      }
      merged.insert(merged.end(), sum.begin(), sum.end());
    }
    const double tolerance = 2 * AttendTolerance(GetParam());
    EXPECT_EQ(CompareArrays(o, merged, tolerance, tolerance), "") << Describe(one);
  }
}

TEST_P(AttendPerView, MassesAloneAreThoseOfWholeAttention) {
  ThreadTeam team(2);
  for (const AttendCase& one : Cases(GetParam())) {
    AttendProblem problem(one);
    problem.Run(team);
    const std::vector<float> expected = problem.lse_per_view();
    AttendParams params = problem.Params();
    params.o = nullptr;
    params.lse = nullptr;
    AttendScratch scratch;
    Attend(params, scratch, team);
    EXPECT_EQ(problem.lse_per_view(), expected) << Describe(one);
  }
}

INSTANTIATE_TEST_SUITE_P(Codecs,
                         AttendPerView,
                         testing::Values(CodecId::kBf16,
                                         CodecId::kInt8,
                                         CodecId::kInt4,
                                         CodecId::kRot3,
                                         CodecId::kKivi4,
                                         CodecId::kFp8));

// The keys of an encoded run of rot2, as a run of keys alone.
std::vector<std::byte> KeysOf(const KvView& view, int32_t num_kv_heads, int32_t head_dim) {
  const RowFormat format = RotFormat(2, static_cast<size_t>(head_dim));
  const auto capacity = static_cast<size_t>(view.token_capacity);
  std::vector<std::byte> keys(static_cast<size_t>(num_kv_heads) * KeyHeadBytes(format, capacity));
  for (size_t head = 0; head < static_cast<size_t>(num_kv_heads); ++head) {
    const RowLayout from = RowLayoutOfHead(format, head, capacity);
    const RowLayout to = KeyLayoutOfHead(format, head, capacity);
    std::memcpy(
        keys.data() + to.k_codes, view.encoded.data() + from.k_codes, capacity * format.row_bytes);
    std::memcpy(keys.data() + to.k_params,
                view.encoded.data() + from.k_params,
                capacity * sizeof(uint16_t));
  }
  return keys;
}

TEST(AttendKeysOnly, MassesAreThoseOfTheWholeRunOnEveryTarget) {
  ThreadTeam team(2);
  for (const SimdTarget& target : SimdTargets()) {
    ForceSimdTarget(target);
    for (const AttendCase& one : Cases(CodecId::kRot2)) {
      AttendProblem problem(one);
      problem.Run(team);
      const std::vector<float> expected = problem.lse_per_view();
      AttendParams params = problem.Params();
      params.o = nullptr;
      params.lse = nullptr;
      std::vector<std::vector<std::byte>> keys;
      std::vector<KvView> views(params.views.begin(), params.views.end());
      for (KvView& view : views) {
        keys.push_back(KeysOf(view, one.num_kv_heads, one.head_dim));
        view.encoded = keys.back();
        view.keys_only = true;
      }
      params.views = views;
      AttendScratch scratch;
      Attend(params, scratch, team);
      EXPECT_EQ(problem.lse_per_view(), expected) << Describe(one);
    }
  }
  UseBestSimdTarget();
}

}  // namespace
}  // namespace varve
