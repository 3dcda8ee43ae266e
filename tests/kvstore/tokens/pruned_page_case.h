// A page of random numbers that is sealed under a token policy and read back, and what a textbook
// says that attention sees of it.
#pragma once

#include <array>
#include <cmath>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kernels/attend.h"
#include "kvstore/sealer.h"
#include "kvstore/tokens/token_policy.h"
#include "proto/base/rng.h"
#include "tests/kernels/codec_cases.h"

namespace varve {

inline constexpr int32_t kTokens = 32;
inline constexpr int32_t kSinks = 4;
inline constexpr int32_t kKvHeads = 2;
inline constexpr int32_t kQoHeads = 4;
inline constexpr int32_t kHeadDim = 64;
inline constexpr uint16_t kLayer = 2;        // a global layer
inline constexpr uint16_t kWindowLayer = 3;  // sees the newest kWindow tokens
inline constexpr int64_t kWindow = 40;
inline constexpr float kSmScale = 0.125F;
inline constexpr size_t kRow = size_t{kKvHeads} * kHeadDim;
inline constexpr size_t kQueryRow = size_t{kQoHeads} * kHeadDim;

// With rotary keys, and tables for the codecs that need some.
inline KvGeometry Geometry() {
  static const auto kTables = [] {
    auto tables = std::make_shared<CodecTableSet>();
    for (const Codec* codec : AllCodecs()) {
      for (int32_t layer = 0; codec->needs_tables() && layer < 4; ++layer) {
        tables->Add(codec->id(), layer, *TablesFor(*codec, kKvHeads, kHeadDim));
      }
    }
    return tables;
  }();
  static const auto kRope = [] {
    RopeSpec spec;
    for (int32_t pair = 0; pair < kHeadDim / 2; ++pair) {
      spec.inv_freq.push_back(std::pow(1000.0, -2.0 * pair / kHeadDim));
    }
    return std::make_shared<const Rope>(spec);
  }();
  return {.num_kv_heads = kKvHeads,
          .head_dim = kHeadDim,
          .layer_windows = {0, 0, 0, kWindow},
          .layer_ropes = {kRope, kRope, kRope, kRope},
          .codec_tables = kTables,
          .num_qo_heads = kQoHeads,
          .sm_scale = kSmScale};
}

// One page of random numbers, the queries that follow it, and its record.
class PrunedPageCase {
 public:
  PrunedPageCase(std::string codec,
                 const TokenPolicy* tokens,
                 double keep,
                 int64_t first_position,
                 uint16_t layer = kLayer)
      : sealer_(Geometry()), layer_(layer) {
    KvPolicy policy;
    policy.codec = std::move(codec);
    policy.exact_codec = "f32";
    policy.page_tokens = kTokens;
    policy.sink_tokens = kSinks;
    policy.tokens = tokens == nullptr ? "all" : std::string(tokens->name());
    policy.keep = keep;
    policy_ = ResolvedPolicy::Resolve(policy, Geometry()).value();
    sealer_.Reserve(policy_);
    Rng rng(11);
    for (size_t i = 0; i < k_.size(); ++i) {
      k_[i] = rng.NextNormal();
      v_[i] = rng.NextNormal();
    }
    for (float& number : q_) {
      number = rng.NextNormal();
    }
    identity_.key = PageKey{PageKey::Space::kContext, 1, layer, layer, 0};
    identity_.num_kv_heads = kKvHeads;
    identity_.head_dim = kHeadDim;
    identity_.page_tokens = kTokens;
    identity_.num_tokens = kTokens;
    identity_.first_position = first_position;
    run_.first_position = first_position;
    run_.token_capacity = kTokens;
    run_.bytes.resize(policy_.exact->EncodedBytes(sealer_.ShapeOf(kTokens)));
    policy_.exact->Encode(
        sealer_.ShapeOf(kTokens), 0, kTokens, k_.data(), v_.data(), kRow, {}, run_.bytes);
    run_.queries = ObservedQueries(end_position(), end_position() + kTokens, kQueryRow);
    run_.queries.Observe(end_position(), kTokens, q_.data(), kQueryRow);
    record_ = sealer_.Seal(policy_, identity_, run_);
  }

  int64_t end_position() const { return identity_.first_position + kTokens; }
  int64_t window() const { return layer_ == kWindowLayer ? kWindow : 0; }
  int32_t num_sinks() const { return identity_.first_position == 0 ? kSinks : 0; }
  const std::vector<std::byte>& record() const { return record_; }
  const Sealer& sealer() const { return sealer_; }
  const ResolvedPolicy& policy() const { return policy_; }
  const PageIdentity& identity() const { return identity_; }
  Result<PageRecord> Parse() const { return ParsePageRecord(record_, identity_); }

  std::vector<KvView> Views(const PageRecord& parsed) const {
    std::vector<KvView> views;
    for (const PageRun& run : parsed.runs) {
      KvView view{run.codec->id()};
      view.encoded = run.encoded;
      view.token_capacity = run.token_capacity;
      view.num_tokens = run.num_tokens;
      view.first_position = identity_.first_position + run.first_token;
      view.token_indices = run.token_indices;
      view.token_weights = run.token_weights;
      const RunContext context = sealer_.ContextOf(*run.codec, layer_, view.first_position);
      view.tables = context.tables;
      view.rope = context.rope;
      views.push_back(view);
    }
    return views;
  }

  AttendParams Params(const std::vector<KvView>& views) {
    positions_.resize(kTokens);
    for (int32_t i = 0; i < kTokens; ++i) {
      positions_[static_cast<size_t>(i)] = end_position() + i;
    }
    o_.assign(kTokens * kQueryRow, 0.0F);
    lse_.assign(size_t{kTokens} * kQoHeads, -INFINITY);
    AttendParams params;
    params.num_qo_heads = kQoHeads;
    params.num_kv_heads = kKvHeads;
    params.head_dim = kHeadDim;
    params.sm_scale = kSmScale;
    params.window = window();
    params.q = q_.data();
    params.q_stride = kQueryRow;
    params.positions = positions_;
    params.views = views;
    params.o = o_.data();
    params.lse = lse_.data();
    return params;
  }

  const std::vector<float>& k() const { return k_; }

  struct Placed {
    double weight = 1;
    size_t token_class = 0;
  };

  // Attention over the tokens, each with its weight (absent: pruned) and, in a further class, as
  // that class's codec leaves it, as a textbook has it. Returns o of one query and q head. The
  // codec of class 0 must be exact.
  std::vector<double> Expected(int32_t query,
                               int32_t head,
                               const std::map<int32_t, Placed>& tokens) const {
    std::vector<double> o(kHeadDim);
    double sum = 0;
    for (const auto& [token, placed] : tokens) {
      const int64_t position = identity_.first_position + token;
      if (window() > 0 && position <= end_position() + query - window()) {
        continue;
      }
      const auto& [k, v] = Decoded(placed.token_class);
      const size_t row =
          static_cast<size_t>(token) * kRow + static_cast<size_t>(head / 2) * kHeadDim;
      double score = 0;
      for (size_t d = 0; d < kHeadDim; ++d) {
        score += static_cast<double>(q_[static_cast<size_t>(query) * kQueryRow +
                                        static_cast<size_t>(head) * kHeadDim + d]) *
                 k[row + d];
      }
      const double p = placed.weight * std::exp(kSmScale * score);
      sum += p;
      for (size_t d = 0; d < kHeadDim; ++d) {
        o[d] += p * v[row + d];
      }
    }
    for (double& value : o) {
      value /= sum > 0 ? sum : 1;
    }
    return o;
  }

  // What the policy chooses of this page for one kv head, by token of the page.
  std::map<int32_t, Placed> Chosen(int32_t kv_head) const {
    std::vector<float> mass(size_t{kQoHeads} * kTokens);
    MassMeter meter(Geometry());
    meter.Measure(run_.queries,
                  {.first_position = identity_.first_position,
                   .num_tokens = kTokens,
                   .window = window(),
                   .k = k_.data()},
                  mass);
    std::vector<float> norms(kQoHeads);
    QueryNorms(run_.queries, Geometry(), 0.9, norms);
    const int32_t sinks = num_sinks();
    const int32_t rest = kTokens - sinks;
    std::vector<float> behind;
    for (int32_t head = 0; head < kQoHeads; ++head) {
      const auto row = mass.begin() + static_cast<ptrdiff_t>(head) * kTokens;
      behind.insert(behind.end(), row + sinks, row + kTokens);
    }
    KeptTokens kept;
    policy_.tokens->Choose(
        {rest,
         kKvHeads,
         kQoHeads,
         kHeadDim,
         kSmScale,
         k_.data() + static_cast<size_t>(sinks) * kRow,
         v_.data() + static_cast<size_t>(sinks) * kRow,
         behind,
         kTokens,
         norms},
        {policy_.policy.keep, layer_, 4, rest, policy_.codec, kKvHeads, kHeadDim},
        kept);
    ClassSizes sizes = kept.class_sizes;
    if (sizes == ClassSizes{}) {
      sizes = {kept.num_kept};
    }
    std::map<int32_t, Placed> placed;
    for (int32_t token = 0; token < sinks; ++token) {
      placed[token] = {};
    }
    int32_t entry = 0;
    for (size_t c = 0; c < kMaxTokenClasses; ++c) {
      for (int32_t i = 0; i < sizes[c]; ++i) {
        const auto at = static_cast<size_t>(entry + kv_head * sizes[c] + i);
        placed[sinks + kept.indices[at]] = {kept.weights.empty() ? 1 : kept.weights[at], c};
      }
      entry += kKvHeads * sizes[c];
    }
    return placed;
  }

  const float* o() const { return o_.data(); }
  const float* lse() const { return lse_.data(); }

 private:
  // K and V of the page as a class has them. Codecs of further classes encode row by row, so that
  // what a row comes back as does not depend on the others.
  const std::pair<std::vector<float>, std::vector<float>>& Decoded(size_t token_class) const {
    auto& [k, v] = decoded_[token_class];
    if (k.empty()) {
      k = k_;
      v = v_;
      if (token_class > 0) {
        const Codec& codec = policy_.CodecOf(token_class);
        const RunShape shape = sealer_.ShapeOf(kTokens);
        std::vector<std::byte> bytes(codec.EncodedBytes(shape));
        codec.Encode(shape, 0, kTokens, k_.data(), v_.data(), kRow, {}, bytes);
        codec.Decode(shape, 0, kTokens, bytes, {}, k.data(), v.data());
      }
    }
    return decoded_[token_class];
  }

  Sealer sealer_;
  uint16_t layer_;
  ResolvedPolicy policy_;
  PageIdentity identity_;
  UnsealedRun run_;
  std::vector<float> k_ = std::vector<float>(kTokens * kRow);
  std::vector<float> v_ = std::vector<float>(kTokens * kRow);
  std::vector<float> q_ = std::vector<float>(kTokens * kQueryRow);
  std::vector<std::byte> record_;
  std::vector<int64_t> positions_;
  std::vector<float> o_;
  std::vector<float> lse_;
  // By class; empty until asked for.
  mutable std::array<std::pair<std::vector<float>, std::vector<float>>, kMaxTokenClasses> decoded_;
};

}  // namespace varve
