#include "kernels/ref/reference_attention.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "proto/base/check.h"

namespace varve {
namespace {

constexpr double kNone = -std::numeric_limits<double>::infinity();

// The decoded tokens that take part, of one view. k, v: [num_tokens, num_kv_heads, head_dim].
struct DecodedView {
  std::vector<float> k;
  std::vector<float> v;
};

DecodedView DecodeView(const AttendParams& params, const KvView& view) {
  const Result<const Codec*> codec = FindCodec(view.codec);
  VARVE_CHECK(codec.has_value());
  const RunShape shape{params.num_kv_heads, params.head_dim, view.token_capacity};
  DecodedView decoded;
  decoded.k.resize(size_t{1} * view.num_tokens * params.num_kv_heads * params.head_dim);
  decoded.v.resize(decoded.k.size());
  codec.value()->Decode(shape,
                        view.first_token,
                        view.num_tokens,
                        view.encoded,
                        view.context(),
                        decoded.k.data(),
                        decoded.v.data());
  return decoded;
}

double Score(const AttendParams& params, const float* q, const float* k) {
  double dot = 0.0;
  for (int32_t i = 0; i < params.head_dim; ++i) {
    dot += static_cast<double>(q[i]) * k[i];
  }
  const double score = dot * params.sm_scale;
  const double cap = params.logit_softcap;
  return cap > 0.0 ? cap * std::tanh(score / cap) : score;
}

int64_t TokenPosition(const KvView& view, int32_t kv_head, int32_t token) {
  if (view.token_indices == nullptr) {
    return view.first_position + view.first_token + token;
  }
  return view.first_position + view.token_indices[int64_t{kv_head} * view.num_tokens + token];
}

double TokenWeight(const KvView& view, int32_t kv_head, int32_t token) {
  return view.token_weights == nullptr
             ? 1.0
             : view.token_weights[int64_t{kv_head} * view.num_tokens + token];
}

// log(sum of exp) of terms that are logarithms themselves.
double LogSumExp(const std::vector<double>& terms) {
  const double highest = terms.empty() ? kNone : *std::max_element(terms.begin(), terms.end());
  if (highest == kNone) {
    return kNone;
  }
  double sum = 0.0;
  for (const double term : terms) {
    sum += std::exp(term - highest);
  }
  return highest + std::log(sum);
}

struct Row {
  int32_t query;
  int32_t head;
};

void AttendRow(const AttendParams& params,
               const std::vector<DecodedView>& decoded,
               Row row,
               ReferenceState* state) {
  const int32_t kv_head = row.head / (params.num_qo_heads / params.num_kv_heads);
  const int64_t position = params.positions[row.query];
  const float* q = params.q + row.query * params.q_stride + size_t{1} * row.head * params.head_dim;
  const size_t at = size_t{1} * row.query * params.num_qo_heads + row.head;
  // 1. log(weight) + score of every token that the query sees.
  std::vector<double> terms;
  std::vector<const float*> values;
  for (size_t index = 0; index < params.views.size(); ++index) {
    const KvView& view = params.views[index];
    std::vector<double> view_terms;
    for (int32_t token = 0; token < view.num_tokens; ++token) {
      const int64_t token_position = TokenPosition(view, kv_head, token);
      const bool in_window = params.window <= 0 || token_position > position - params.window;
      if (token_position <= position && in_window) {
        const size_t offset = (size_t{1} * token * params.num_kv_heads + kv_head) * params.head_dim;
        const double score = Score(params, q, decoded[index].k.data() + offset);
        view_terms.push_back(score + std::log(TokenWeight(view, kv_head, token)));
        values.push_back(decoded[index].v.data() + offset);
      }
    }
    state->lse_per_view[index * params.positions.size() * params.num_qo_heads + at] =
        LogSumExp(view_terms);
    terms.insert(terms.end(), view_terms.begin(), view_terms.end());
  }
  // 2. Their softmax, and the mean of the values.
  state->lse[at] = LogSumExp(terms);
  for (size_t i = 0; i < terms.size(); ++i) {
    const double p = terms[i] == kNone ? 0.0 : std::exp(terms[i] - state->lse[at]);
    for (int32_t dim = 0; dim < params.head_dim; ++dim) {
      state->o[at * params.head_dim + dim] += p * values[i][dim];
    }
  }
}

}  // namespace

ReferenceState ReferenceAttend(const AttendParams& params) {
  const size_t num_rows = params.positions.size() * params.num_qo_heads;
  ReferenceState state;
  state.o.assign(num_rows * params.head_dim, 0.0);
  state.lse.assign(num_rows, kNone);
  state.lse_per_view.assign(params.views.size() * num_rows, kNone);
  std::vector<DecodedView> decoded;
  for (const KvView& view : params.views) {
    decoded.push_back(DecodeView(params, view));
  }
  for (int32_t query = 0; query < static_cast<int32_t>(params.positions.size()); ++query) {
    for (int32_t head = 0; head < params.num_qo_heads; ++head) {
      AttendRow(params, decoded, {query, head}, &state);
    }
  }
  return state;
}

}  // namespace varve
