#include "ops/cli/eval/candidates.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "kvstore/key_sketch.h"
#include "kvstore/page_format.h"
#include "kvstore/tokens/token_policy.h"

namespace varve::cli {
namespace {

constexpr std::string_view kFullPolicy = "full";

// What bits are counted for.
struct ModelShape {
  RunShape page;
  int32_t num_layers;
};

// Null: every token stays.
const TokenPolicy* TokenPolicyOf(std::string_view name) {
  for (const TokenPolicy* policy : AllTokenPolicies()) {
    if (policy->name() == name) {
      return policy;
    }
  }
  return nullptr;
}

// The mean over the layers, which need not keep the same share.
double KeptBits(const Codec& codec, const PolicyChoice& policy, const ModelShape& shape) {
  const RunShape& page = shape.page;
  if (policy.name == kClusterKv) {
    const double values = 2.0 * page.num_kv_heads * page.token_capacity * page.head_dim;
    const PageIdentity identity{.num_kv_heads = page.num_kv_heads,
                                .head_dim = page.head_dim,
                                .num_tokens = page.token_capacity};
    return codec.BitsPerValue(page) +
           8.0 * static_cast<double>(KeyCentroidsSection(identity, 0).bytes) / values;
  }
  if (policy.name == kSelectPolicy) {
    const KvGeometry geometry{.num_kv_heads = page.num_kv_heads, .head_dim = page.head_dim};
    return codec.BitsPerValue(page) +
           8.0 * static_cast<double>(KeySketch(geometry, page.token_capacity).BytesPerPage()) /
               (2.0 * page.num_kv_heads * page.token_capacity * page.head_dim);
  }
  const TokenPolicy* tokens = TokenPolicyOf(policy.name);
  if (tokens == nullptr) {
    return codec.BitsPerValue(page);
  }
  uint64_t bytes = 0;
  for (int32_t layer = 0; layer < shape.num_layers; ++layer) {
    bytes += tokens->MostBytes({.keep = policy.keep,
                                .layer = layer,
                                .num_layers = shape.num_layers,
                                .num_tokens = page.token_capacity,
                                .codec = &codec,
                                .num_kv_heads = page.num_kv_heads,
                                .head_dim = page.head_dim});
  }
  return 8.0 * static_cast<double>(bytes) /
         (2.0 * shape.num_layers * page.num_kv_heads * page.token_capacity * page.head_dim);
}

// The largest share that fits the budget; 0: none does. Bits rise with the share, but for the last
// token, which spares a page its indices.
double ShareWithin(const Codec& codec,
                   const std::string& policy,
                   double budget_bits,
                   const ModelShape& shape) {
  constexpr int kHalvings = 40;
  double fits = 0;
  double step = 1;
  for (int i = 0; i < kHalvings; ++i) {
    step /= 2;
    if (KeptBits(codec, {policy, fits + step}, shape) <= budget_bits) {
      fits += step;
    }
  }
  return fits;
}

}  // namespace

std::string PolicyChoice::Label() const {
  return name == kFullPolicy ? name : fmt::format("{}:{:.3g}", name, keep);
}

std::span<const std::string_view> PolicyNames() {
  static const std::vector<std::string_view> kNames = [] {
    std::vector<std::string_view> names = {kFullPolicy};
    for (const TokenPolicy* policy : AllTokenPolicies()) {
      names.push_back(policy->name());
    }
    names.push_back(kClusterKv);
    names.push_back(kSelectPolicy);
    return names;
  }();
  return kNames;
}

Result<PolicyChoice> ParsePolicyChoice(const std::string& label) {
  const size_t colon = label.find(':');
  PolicyChoice policy{.name = label.substr(0, colon), .keep = 1};
  const auto names = PolicyNames();
  if (std::find(names.begin(), names.end(), policy.name) == names.end()) {
    return Error{
        ErrorCode::kInvalidArgument,
        fmt::format(
            "there is no token policy '{}'; there are: {}", policy.name, fmt::join(names, ", "))};
  }
  if (colon != std::string::npos) {
    const char* first = label.data() + colon + 1;
    const char* last = label.data() + label.size();
    const auto [end, failure] = std::from_chars(first, last, policy.keep);
    const bool keeps_all = policy.name == kFullPolicy;
    if (failure != std::errc() || end != last || !(policy.keep > 0 && policy.keep <= 1) ||
        (keeps_all && policy.keep != 1)) {
      return Error{ErrorCode::kInvalidArgument,
                   fmt::format("'{}': behind the colon stands the share of tokens to keep, over 0 "
                               "and up to 1{}",
                               label,
                               keeps_all ? "; 'full' keeps all" : "")};
    }
  }
  return policy;
}

KvPolicy Candidate::Kv() const {
  KvPolicy kv = ExactKv();
  kv.codec = codec->name();
  if (policy.name != kFullPolicy && policy.name != kSelectPolicy) {
    kv.tokens = policy.name;
    kv.keep = policy.keep;
  }
  return kv;
}

std::optional<SelectiveAttention> Candidate::Selective(int64_t num_tokens) const {
  if (policy.name != kSelectPolicy) {
    return std::nullopt;
  }
  const double budget = policy.keep * static_cast<double>(num_tokens);
  return SelectiveAttention{.epsilon = 1e-4,
                            .budget_tokens = std::max<int64_t>(1, std::llround(budget))};
}

bool Candidate::ChoosesPages() const {
  return policy.name == kSelectPolicy || SelectsPages(Kv());
}

EvalRow Candidate::Row(const std::string& part, const std::string& model, double outliers) const {
  EvalRow row{.part = part,
              .model = model,
              .outliers = outliers,
              .codec = std::string(codec->name()),
              .policy = policy.Label(),
              .bpe = bpe,
              .tables = tables,
              .figures = {}};
  if (budget > 0) {
    row.Add(std::string(kBudgetFigure), budget);
  }
  return row;
}

KvPolicy ExactKv() {
  KvPolicy kv;
  kv.codec = kExactCodec;
  kv.exact_codec = kExactCodec;
  return kv;
}

Result<std::vector<Candidate>> MakeCandidates(const EvalOptions& options,
                                              const RunShape& page,
                                              int32_t num_layers) {
  std::vector<const Codec*> codecs;
  for (const std::string& name : options.codecs) {
    VARVE_TRY(const Codec* codec, FindCodec(name));
    codecs.push_back(codec);
  }
  if (options.codecs.empty()) {
    std::copy_if(
        AllCodecs().begin(), AllCodecs().end(), std::back_inserter(codecs), [](const Codec* codec) {
          // Making the codebooks of rvq8-2k takes longer than measuring all others.
          return codec->name() != kExactCodec && codec->id() != CodecId::kRvq8Large;
        });
  }
  std::vector<Candidate> candidates;
  for (const std::string& label : options.policies) {
    VARVE_TRY(const PolicyChoice policy, ParsePolicyChoice(label));
    for (const Codec* codec : codecs) {
      const double bpe = KeptBits(*codec, policy, {page, num_layers});
      if (options.max_bits == 0 || bpe <= options.max_bits) {
        candidates.push_back({.codec = codec, .policy = policy, .bpe = bpe});
      }
    }
  }
  if (candidates.empty()) {
    return Error{
        ErrorCode::kInvalidArgument,
        fmt::format("no codec and policy keep a value in at most --bits {:g}", options.max_bits)};
  }
  return candidates;
}

std::vector<const Codec*> CodecsOf(const std::vector<Candidate>& candidates) {
  std::vector<const Codec*> codecs;
  for (const Candidate& candidate : candidates) {
    if (std::find(codecs.begin(), codecs.end(), candidate.codec) == codecs.end()) {
      codecs.push_back(candidate.codec);
    }
  }
  return codecs;
}

std::vector<Candidate> EqualByteCandidates(std::span<const Codec* const> codecs,
                                           const std::string& policy_name,
                                           double budget_bits,
                                           const RunShape& page,
                                           int32_t num_layers) {
  std::vector<Candidate> candidates;
  for (const Codec* codec : codecs) {
    PolicyChoice policy{.name = policy_name, .keep = 1};
    if (codec->BitsPerValue(page) > budget_bits) {
      policy.keep = ShareWithin(*codec, policy_name, budget_bits, {page, num_layers});
    }
    if (policy.keep > 0) {
      candidates.push_back({.codec = codec,
                            .policy = policy,
                            .bpe = KeptBits(*codec, policy, {page, num_layers}),
                            .budget = budget_bits});
    }
  }
  return candidates;
}

}  // namespace varve::cli
