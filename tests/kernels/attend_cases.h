// Random attention problems with a seed: encoded views, queries, and the comparison with the
// reference.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/attend.h"
#include "kernels/ref/reference_attention.h"
#include "proto/base/rng.h"

namespace varve {

struct ViewCase {
  CodecId codec = CodecId::kF32;
  int32_t token_capacity = 128;
  int32_t first_token = 0;
  int32_t num_tokens = 128;
  int64_t first_position = 0;
  bool pruned = false;  // with token_indices and token_weights
};

struct AttendCase {
  int32_t num_kv_heads = 2;
  int32_t group_size = 1;
  int32_t head_dim = 64;
  std::vector<int64_t> positions;
  std::vector<ViewCase> views;
  float logit_softcap = 0.0F;
  int64_t window = 0;
  bool per_view = false;
  uint64_t seed = 1;

  int32_t num_qo_heads() const { return num_kv_heads * group_size; }
};

// Views of `page_tokens` tokens that cover positions [0, kv_len), the last one shorter, all in
// `codec`.
std::vector<ViewCase> PagesOf(CodecId codec, int32_t kv_len, int32_t page_tokens = 128);
// The last `count` positions of a sequence of `kv_len` tokens; if there are fewer, they start at 0.
std::vector<int64_t> LastPositions(int32_t kv_len, int32_t count);

// Owns what AttendParams points to.
class AttendProblem {
 public:
  explicit AttendProblem(const AttendCase& attend_case);

  const AttendCase& attend_case() const { return case_; }
  const std::vector<KvView>& views() const { return views_; }
  std::vector<float>& q() { return q_; }

  // Other questions to the same views, with queries drawn as for a new problem.
  void Ask(std::vector<int64_t> positions, int64_t window, float logit_softcap);

  // Outputs start as the empty state; they live until the next call.
  AttendParams Params();
  // Runs Attend over all views with a fresh state.
  void Run(ThreadTeam& team);
  // The state after Run.
  const std::vector<float>& o() const { return o_; }
  const std::vector<float>& lse() const { return lse_; }
  const std::vector<float>& lse_per_view() const { return lse_per_view_; }

 private:
  void AddView(const ViewCase& view, Rng* rng);
  void DrawQueries();

  AttendCase case_;
  Rng rng_after_views_;
  std::vector<std::vector<std::byte>> encoded_;
  std::vector<std::vector<int32_t>> indices_;
  std::vector<std::vector<float>> weights_;
  std::vector<KvView> views_;
  std::vector<float> q_;
  std::vector<float> o_;
  std::vector<float> lse_;
  std::vector<float> lse_per_view_;
  AttendScratch scratch_;
};

// Empty if `actual` is near `expected`: infinities and NaN first and at the same places, then
// |difference| <= absolute + relative * |expected|. Otherwise says where it is worst.
std::string CompareArrays(const std::vector<float>& actual,
                          const std::vector<double>& expected,
                          double absolute,
                          double relative);

// Runs the case and compares o, lse and lse_per_view with the reference. Empty if they agree.
std::string CheckAgainstReference(const AttendCase& attend_case, ThreadTeam& team);
std::string CheckAgainstReference(AttendProblem& problem, ThreadTeam& team);

// For failure messages.
std::string Describe(const AttendCase& attend_case);

}  // namespace varve
