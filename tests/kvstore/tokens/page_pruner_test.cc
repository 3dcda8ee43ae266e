// A page pruned, sealed and read back: what attention sees of it is what the policy chose.
#include "kvstore/tokens/page_pruner.h"

#include <cmath>
#include <cstring>
#include <map>
#include <memory>

#include <gtest/gtest.h>

#include "kernels/attend.h"
#include "kernels/ref/reference_attention.h"
#include "kvstore/sealer.h"
#include "proto/base/rng.h"
#include "tests/kernels/codec_cases.h"
#include "tests/support/result_matchers.h"

namespace varve {
namespace {

constexpr int32_t kTokens = 32;
constexpr int32_t kSinks = 4;
constexpr int32_t kKvHeads = 2;
constexpr int32_t kQoHeads = 4;
constexpr int32_t kHeadDim = 8;
constexpr uint16_t kLayer = 2;
constexpr size_t kRow = size_t{kKvHeads} * kHeadDim;
constexpr size_t kQueryRow = size_t{kQoHeads} * kHeadDim;

// With rotary keys, and tables for the codecs that need some.
KvGeometry Geometry() {
  static const auto kTables = [] {
    auto tables = std::make_shared<CodecTableSet>();
    for (const Codec* codec : AllCodecs()) {
      for (int32_t layer = 0; codec->needs_tables() && layer < 4; ++layer) {
        tables->Add(codec->id(), layer, *TablesFor(*codec, kKvHeads, kHeadDim));
      }
    }
    return tables;
  }();
  static const auto kRope =
      std::make_shared<const Rope>(RopeSpec{.inv_freq = {1.0, 0.3, 0.1, 0.01}});
  return {.num_kv_heads = kKvHeads,
          .head_dim = kHeadDim,
          .layer_windows = {0, 0, 0, 0},
          .layer_ropes = {kRope, kRope, kRope, kRope},
          .codec_tables = kTables,
          .num_qo_heads = kQoHeads,
          .sm_scale = 0.35F};
}

// One page of random numbers, the queries that follow it, and its record.
class PrunedPageCase {
 public:
  PrunedPageCase(std::string codec, const TokenPolicy* tokens, double keep, int64_t first_position)
      : sealer_(Geometry()) {
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
    identity_.key = PageKey{PageKey::Space::kContext, 1, kLayer, kLayer, 0};
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
      const RunContext context = sealer_.ContextOf(*run.codec, kLayer, view.first_position);
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
    params.sm_scale = 0.35F;
    params.q = q_.data();
    params.q_stride = kQueryRow;
    params.positions = positions_;
    params.views = views;
    params.o = o_.data();
    params.lse = lse_.data();
    return params;
  }

  const std::vector<float>& k() const { return k_; }

  // Attention over the original tokens, each with its weight (absent: pruned), as a textbook has
  // it. Returns o of one query and q head.
  std::vector<double> Expected(int32_t query,
                               int32_t head,
                               const std::map<int32_t, double>& weights) const {
    std::vector<double> o(kHeadDim);
    double sum = 0;
    for (const auto& [token, weight] : weights) {
      const size_t row =
          static_cast<size_t>(token) * kRow + static_cast<size_t>(head / 2) * kHeadDim;
      double score = 0;
      for (size_t d = 0; d < kHeadDim; ++d) {
        score += static_cast<double>(q_[static_cast<size_t>(query) * kQueryRow +
                                        static_cast<size_t>(head) * kHeadDim + d]) *
                 k_[row + d];
      }
      const double p = weight * std::exp(0.35F * score);
      sum += p;
      for (size_t d = 0; d < kHeadDim; ++d) {
        o[d] += p * v_[row + d];
      }
    }
    for (double& value : o) {
      value /= sum;
    }
    return o;
  }

  // What the policy chooses of this page for one kv head, by token of the page.
  std::map<int32_t, double> Chosen(int32_t kv_head) const {
    std::vector<float> mass(size_t{kQoHeads} * kTokens);
    MassMeter meter(Geometry());
    meter.Measure(
        run_.queries,
        {.first_position = identity_.first_position, .num_tokens = kTokens, .k = k_.data()},
        mass);
    const int32_t sinks = num_sinks();
    const int32_t rest = kTokens - sinks;
    std::vector<float> behind;
    for (int32_t head = 0; head < kQoHeads; ++head) {
      const auto row = mass.begin() + static_cast<ptrdiff_t>(head) * kTokens;
      behind.insert(behind.end(), row + sinks, row + kTokens);
    }
    KeptTokens kept;
    policy_.tokens->Choose({rest,
                            kKvHeads,
                            kQoHeads,
                            kHeadDim,
                            0.35F,
                            k_.data() + static_cast<size_t>(sinks) * kRow,
                            v_.data() + static_cast<size_t>(sinks) * kRow,
                            behind},
                           {policy_.policy.keep, kLayer, 4, rest},
                           kept);
    std::map<int32_t, double> weights;
    for (int32_t token = 0; token < sinks; ++token) {
      weights[token] = 1;
    }
    for (int32_t i = 0; i < kept.num_kept; ++i) {
      const auto at = static_cast<size_t>(kv_head * kept.num_kept + i);
      weights[sinks + kept.indices[at]] = kept.weights.empty() ? 1 : kept.weights[at];
    }
    return weights;
  }

  const float* o() const { return o_.data(); }
  const float* lse() const { return lse_.data(); }

 private:
  Sealer sealer_;
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
};

TEST(PagePruner, AttentionOverAPrunedPageIsThatOverTheKeptTokensWithTheirWeights) {
  for (const TokenPolicy* tokens : AllTokenPolicies()) {
    for (const int64_t first_position : {int64_t{0}, int64_t{kTokens}}) {
      SCOPED_TRACE(std::string(tokens->name()) + " at " + std::to_string(first_position));
      PrunedPageCase page("f32", tokens, 0.3, first_position);
      const auto parsed = page.Parse();
      ASSERT_OK(parsed);
      const std::vector<KvView> views = page.Views(*parsed);
      ThreadTeam team(1);
      AttendScratch scratch;
      Attend(page.Params(views), scratch, team);
      for (int32_t head = 0; head < kQoHeads; ++head) {
        const std::map<int32_t, double> weights = page.Chosen(head / 2);
        for (int32_t query = 0; query < kTokens; ++query) {
          const std::vector<double> want = page.Expected(query, head, weights);
          for (size_t d = 0; d < kHeadDim; ++d) {
            ASSERT_NEAR(page.o()[static_cast<size_t>(query) * kQueryRow +
                                 static_cast<size_t>(head) * kHeadDim + d],
                        want[d],
                        1e-5);
          }
        }
      }
    }
  }
}

TEST(PagePruner, EveryCodecHoldsEveryPolicysChoice) {
  for (const Codec* codec : AllCodecs()) {
    for (const TokenPolicy* tokens : AllTokenPolicies()) {
      for (const double keep : {0.05, 0.5, 0.95}) {
        SCOPED_TRACE(std::string(codec->name()) + ' ' + std::string(tokens->name()) + ' ' +
                     std::to_string(keep));
        PrunedPageCase page(std::string(codec->name()), tokens, keep, 0);
        const uint64_t most = page.sealer().SealedBytes(page.policy(), page.identity());
        if (tokens->size_depends_on_data()) {
          ASSERT_LE(page.record().size(), most);
        } else {
          ASSERT_EQ(page.record().size(), most);
        }
        const auto parsed = page.Parse();
        ASSERT_OK(parsed);
        int32_t held = 0;
        for (const PageRun& run : parsed->runs) {
          held += run.num_tokens;
        }
        // Exact where a record's size tells: records are padded to 64 bytes.
        ASSERT_LE(std::abs(page.sealer().KeptTokensOf(
                               page.policy(), page.identity(), page.record().size()) -
                           held),
                  tokens->size_depends_on_data() ? 3 : 0);
        ASSERT_LE(held, kTokens);
        const std::vector<KvView> views = page.Views(*parsed);
        ThreadTeam team(1);
        AttendScratch scratch;
        const AttendParams params = page.Params(views);
        Attend(params, scratch, team);
        const ReferenceState want = ReferenceAttend(params);
        for (size_t i = 0; i < want.lse.size(); ++i) {
          ASSERT_NEAR(page.lse()[i], want.lse[i], 2e-3);
        }
      }
    }
  }
}

// Codecs that undo the rotation of keys must know where each kept token stood.
TEST(PagePruner, KeptKeysComeBackWhereTheyStood) {
  for (const TokenPolicy* tokens : AllTokenPolicies()) {
    PrunedPageCase page("nuq4", tokens, 0.5, 5 * kTokens);
    const auto parsed = page.Parse();
    ASSERT_OK(parsed);
    for (const KvView& view : page.Views(*parsed)) {
      std::vector<float> k(static_cast<size_t>(view.num_tokens) * kRow);
      std::vector<float> v(k.size());
      FindCodec(view.codec)
          .value()
          ->Decode({kKvHeads, kHeadDim, view.token_capacity},
                   0,
                   view.num_tokens,
                   view.encoded,
                   view.context(),
                   k.data(),
                   v.data());
      double error = 0.0;
      for (int32_t head = 0; head < kKvHeads; ++head) {
        for (int32_t t = 0; t < view.num_tokens; ++t) {
          const int32_t token =
              view.token_indices == nullptr ? t : view.token_indices[head * view.num_tokens + t];
          for (int32_t d = 0; d < kHeadDim; ++d) {
            const auto channel = static_cast<size_t>(head * kHeadDim + d);
            const double exact = page.k()[static_cast<size_t>(token) * kRow + channel];
            error += std::pow(k[static_cast<size_t>(t) * kRow + channel] - exact, 2);
          }
        }
      }
      // A turn by other positions would make it 2 for these normal numbers.
      EXPECT_LT(error / static_cast<double>(k.size()), 1.0) << tokens->name();
    }
  }
}

TEST(PagePruner, APageOfWhichAllStaysIsSealedAsIfNothingPruned) {
  PrunedPageCase pruned("int8", *AllTokenPolicies().begin(), 1.0, 0);
  PrunedPageCase plain("int8", nullptr, 1.0, 0);
  EXPECT_EQ(pruned.record(), plain.record());
}

TEST(PagePruner, NothingButSinksIsLeftWhereNothingIsKept) {
  KvPolicy streaming;
  streaming.tokens = "streaming";
  streaming.keep = 0;
  const TokenPolicy* policy = FindTokenPolicy(streaming).value();
  PrunedPageCase first("int8", policy, 0, 0);
  const auto sinks = first.Parse();
  ASSERT_OK(sinks);
  EXPECT_TRUE(sinks->is_pruned);
  ASSERT_EQ(sinks->runs.size(), 1U);
  EXPECT_EQ(sinks->runs[0].num_tokens, kSinks);
  EXPECT_EQ(sinks->runs[0].token_indices, nullptr);
  PrunedPageCase later("int8", policy, 0, kTokens);
  const auto nothing = later.Parse();
  ASSERT_OK(nothing);
  EXPECT_TRUE(nothing->is_pruned);
  EXPECT_TRUE(nothing->runs.empty());
  EXPECT_TRUE(nothing->key_min_max.empty());
}

}  // namespace
}  // namespace varve
