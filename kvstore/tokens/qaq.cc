// QAQ (2403.04643): each token gets the fewest bits whose error stays below a bound. The classes
// are the context's codec, rot4, rot3 and rot2, and K and V of a token have the same one.
//
// A rotated row x in b bits has a random error of variance D(b) * |x|^2 / head_dim in each channel
// (rot_block.h), which takes the place of the paper's uniform quantiser of known range. With the T
// tokens of a page, to first order in the errors:
//
//   V  a token with attention p moves the output by p times the error of its value. T tokens that
//      share a variance sigma^2, relative to the mean square value of the head, may each have
//      sqrt(D) * e <= sigma with e = sqrt(T) * p * |v| / rms |v|. p is the mean weight that the
//      last 32 observed queries gave the token; the paper predicts it by their maximum.
//   K  an error of the key moves the token's score by at most about
//      sqrt(D) * sm_scale * |q| * |k| / sqrt(head_dim), where |q| is the norm that one in ten of
//      the queries exceeds. Attention changes by that times itself; as in the paper the token is
//      taken to have the mean attention 1 / T, so that keys are also ready for queries that nobody
//      observed: e = sm_scale * |q| * |k| / sqrt(head_dim * T).
//
// A token may be in a class if sqrt(D) times the larger e, its demand, is at most sigma; it goes to
// the coarsest such class, or else to the context's codec. Of q heads that share a kv head the most
// demanding counts.
//
// `keep` is the share of bytes: sigma is the smallest with which the page's tokens, indices
// included, take at most `keep` of what they would take in the context's codec, or rot2 for all if
// even that is more. The paper gives one sigma to all layers and lets the size follow; here each
// page has its own, so that the bytes of a context are bounded beforehand. All heads have the same
// number of tokens in a class (the mean of what they ask for, rounded to the precise side); in each
// head its most demanding tokens are in the most precise class. The paper's outliers kept apart are
// not here (a rotation leaves few), nor is its copy in full precision to quantise anew from.
#include <algorithm>
#include <cfloat>
#include <cmath>

#include "kvstore/tokens/policies.h"

namespace varve {
namespace {

constexpr int32_t kLastQueries = 32;
// sqrt(D) of classes 1 to 3: 4, 3 and 2 bits.
constexpr float kErrors[kMaxTokenClasses] = {0, 0.0975F, 0.1857F, 0.3428F};

float Norm(const float* row, int32_t head_dim) {
  double sum = 0;
  for (int32_t d = 0; d < head_dim; ++d) {
    sum += static_cast<double>(row[d]) * static_cast<double>(row[d]);
  }
  return static_cast<float>(std::sqrt(sum));
}

// What is not a number says nothing: its token stays as precise as can be.
float Finite(float demand) {
  return demand <= FLT_MAX ? demand : FLT_MAX;
}

// The most that a q head of a group has of something: of(head).
template <typename Of>
float MostOfGroup(const PageTokens& page, size_t kv_head, const Of& of) {
  const auto group = static_cast<size_t>(page.num_qo_heads / page.num_kv_heads);
  float most = 0;
  for (size_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
    most = std::max(most, of(head));
  }
  return most;
}

// The demand of every token of one head. Without queries, by the norms of the keys alone.
void Demands(const PageTokens& page, size_t kv_head, std::span<float> demands) {
  const size_t num_tokens = demands.size();
  const auto head_dim = static_cast<size_t>(page.head_dim);
  const auto row = [&](size_t token) {
    return (token * static_cast<size_t>(page.num_kv_heads) + kv_head) * head_dim;
  };
  double squares = 0;
  for (size_t token = 0; token < num_tokens; ++token) {
    const double norm = Norm(page.v + row(token), page.head_dim);
    squares += norm <= FLT_MAX ? norm * norm / static_cast<double>(num_tokens) : 0;
  }
  const auto rms = static_cast<float>(std::sqrt(squares));
  const float root = std::sqrt(static_cast<float>(num_tokens));
  const bool observed = page.num_queries > 0 && page.num_qo_heads > 0;
  const float query_norm =
      observed ? MostOfGroup(page, kv_head, [&](size_t head) { return page.query_norms[head]; })
               : 1.0F;
  const float per_key =
      page.sm_scale * query_norm / (std::sqrt(static_cast<float>(head_dim)) * root);
  for (size_t token = 0; token < num_tokens; ++token) {
    demands[token] = Finite(per_key * Norm(page.k + row(token), page.head_dim));
    if (observed && rms > 0) {
      const float mass = MostOfGroup(
          page, kv_head, [&](size_t head) { return page.mass[head * num_tokens + token]; });
      const float attention = mass / static_cast<float>(page.num_queries);
      const float norm = Norm(page.v + row(token), page.head_dim);
      demands[token] = std::max(demands[token], Finite(root * attention * norm / rms));
    }
  }
}

class Qaq final : public TokenPolicy {
 public:
  std::string_view name() const override { return "qaq"; }
  bool size_depends_on_data() const override { return true; }
  int32_t NumObservedQueries(int32_t page_tokens, int32_t recent_window_tokens) const override {
    return LastQueries(kLastQueries, page_tokens, recent_window_tokens);
  }
  std::span<const Codec* const> further_codecs() const override {
    static const Codec* const kCodecs[] = {FindCodec(CodecId::kRot4).value(),
                                           FindCodec(CodecId::kRot3).value(),
                                           FindCodec(CodecId::kRot2).value()};
    return kCodecs;
  }
  int32_t MostKept(const TokenBudget& budget) const override { return budget.num_tokens; }
  uint64_t MostBytes(const TokenBudget& budget) const override {
    const uint64_t whole = ClassBytes(*this, budget, {budget.num_tokens});
    const uint64_t least = std::min(whole, ClassBytes(*this, budget, {0, 0, 0, budget.num_tokens}));
    return std::max(least, static_cast<uint64_t>(budget.keep * static_cast<double>(whole)));
  }
  void Choose(const PageTokens& page, const TokenBudget& budget, KeptTokens& kept) const override {
    const auto num_tokens = static_cast<size_t>(page.num_tokens);
    std::vector<float> demands(static_cast<size_t>(page.num_kv_heads) * num_tokens);
    for (size_t head = 0; head < static_cast<size_t>(page.num_kv_heads); ++head) {
      Demands(page, head, std::span(demands).subspan(head * num_tokens, num_tokens));
    }
    PlaceByScore(page, demands, SizesWithin(budget, demands), kept);
  }

 private:
  using Classes = std::array<bool, kMaxTokenClasses>;

  // The classes that take less than every more precise one. Packed rows fill whole units, so that
  // in small heads 3 bits can take as much as 4; and the context's codec can be a coarse one.
  Classes Useful(const TokenBudget& budget) const {
    const RunShape shape{budget.num_kv_heads, budget.head_dim, budget.num_tokens};
    Classes useful{};
    size_t least = budget.codec->EncodedBytes(shape);
    for (size_t c = 1; c < kMaxTokenClasses; ++c) {
      const size_t bytes = CodecOfClass(*this, budget, c).EncodedBytes(shape);
      useful[c] = bytes < least;
      least = std::min(least, bytes);
    }
    return useful;
  }

  // The sizes that the demands of all heads ask for with this sigma.
  static ClassSizes SizesAt(float sigma,
                            const Classes& useful,
                            std::span<const float> demands,
                            const TokenBudget& budget) {
    std::array<int64_t, kMaxTokenClasses> counts{};
    for (const float demand : demands) {
      size_t coarsest = kMaxTokenClasses - 1;
      while (coarsest > 0 && !(useful[coarsest] && kErrors[coarsest] * demand <= sigma)) {
        --coarsest;
      }
      ++counts[coarsest];
    }
    ClassSizes sizes{};
    int64_t asked = 0;  // by all heads, for this class or a more precise one
    int32_t placed = 0;
    for (size_t c = 0; c < kMaxTokenClasses; ++c) {
      asked += counts[c];
      const auto up_to =
          static_cast<int32_t>((asked + budget.num_kv_heads - 1) / budget.num_kv_heads);
      sizes[c] = up_to - placed;
      placed = up_to;
    }
    return sizes;
  }

  // The sizes of the smallest sigma that fits. There is no need to try others than those at which
  // some token changes its class.
  ClassSizes SizesWithin(const TokenBudget& budget, std::span<const float> demands) const {
    const uint64_t most = MostBytes(budget);
    const ClassSizes whole{budget.num_tokens};
    if (ClassBytes(*this, budget, whole) <= most) {
      return whole;
    }
    const Classes useful = Useful(budget);
    std::vector<float> sigmas;
    for (size_t c = 1; c < kMaxTokenClasses; ++c) {
      for (size_t i = 0; useful[c] && i < demands.size(); ++i) {
        sigmas.push_back(kErrors[c] * demands[i]);
      }
    }
    std::sort(sigmas.begin(), sigmas.end());
    size_t low = 0;
    size_t high =
        sigmas.size() - 1;  // with which all tokens are in the coarsest useful class: that fits
    while (low < high) {
      const size_t middle = low + (high - low) / 2;
      const ClassSizes sizes = SizesAt(sigmas[middle], useful, demands, budget);
      if (ClassBytes(*this, budget, sizes) <= most) {
        high = middle;
      } else {
        low = middle + 1;
      }
    }
    return SizesAt(sigmas[high], useful, demands, budget);
  }
};

}  // namespace

const TokenPolicy& QaqPolicy() {
  static const Qaq kPolicy;
  return kPolicy;
}

}  // namespace varve
