#include <algorithm>
#include <cmath>
#include <string>

#include <fmt/format.h>

#include "kvstore/tokens/policies.h"

namespace varve {
namespace {

constexpr std::string_view kAll = "all";

Error Refusal(ErrorCode code, std::string what) {
  return Error{code, "kv policy: " + std::move(what)};
}

Error NoSuchPolicy(std::string_view name) {
  std::string names(kAll);
  for (const TokenPolicy* policy : AllTokenPolicies()) {
    names += fmt::format(", {}", policy->name());
  }
  names += fmt::format(", {}", kClusterKv);
  return Refusal(ErrorCode::kInvalidArgument,
                 fmt::format("there is no token policy '{}'; there are {}", name, names));
}

}  // namespace

std::span<const TokenPolicy* const> AllTokenPolicies() {
  static const TokenPolicy* const kPolicies[] = {
      &StreamingPolicy(),
      &L2NormPolicy(),
      &H2OPolicy(),
      &SnapKvPolicy(),
      &PyramidKvPolicy(),
      &PrefixKvPolicy(),
      &DBudgetPolicy(),
      &KvCrushPolicy(),
      &BalanceKvPolicy(),
      &MiKvPolicy(),
      &QaqPolicy(),
  };
  return kPolicies;
}

bool SelectsPages(const KvPolicy& policy) {
  return policy.tokens == kClusterKv;
}

int64_t CeilShare(double keep, int64_t count) {
  if (keep <= 0) {
    return 0;
  }
  // A product that is whole but for its last bit is whole.
  const auto share = static_cast<int64_t>(std::ceil(keep * static_cast<double>(count) - 1e-9));
  return std::min(std::max<int64_t>(share, 1), count);
}

int32_t TokenPolicy::MostKept(const TokenBudget& budget) const {
  return static_cast<int32_t>(CeilShare(budget.keep, budget.num_tokens));
}

uint64_t TokenPolicy::MostBytes(const TokenBudget& budget) const {
  return ClassBytes(*this, budget, SizesOf(budget));
}

const Codec& CodecOfClass(const TokenPolicy& policy,
                          const TokenBudget& budget,
                          size_t token_class) {
  return token_class == 0 ? *budget.codec : *policy.further_codecs()[token_class - 1];
}

uint64_t ClassBytes(const TokenPolicy& policy, const TokenBudget& budget, const ClassSizes& sizes) {
  uint64_t bytes = 0;
  for (size_t c = 0; c <= policy.further_codecs().size(); ++c) {
    if (sizes[c] == 0) {
      continue;
    }
    bytes += CodecOfClass(policy, budget, c)
                 .EncodedBytes({budget.num_kv_heads, budget.head_dim, sizes[c]});
    if (sizes[c] < budget.num_tokens) {
      const uint64_t entries =
          static_cast<uint64_t>(budget.num_kv_heads) * static_cast<uint64_t>(sizes[c]);
      bytes += entries * (sizeof(int32_t) + (policy.has_weights() ? sizeof(float) : 0));
    }
  }
  return bytes;
}

Result<const TokenPolicy*> FindTokenPolicy(const KvPolicy& policy) {
  const bool all = policy.tokens == kAll;
  const TokenPolicy* found = nullptr;
  for (const TokenPolicy* candidate : AllTokenPolicies()) {
    found = candidate->name() == policy.tokens ? candidate : found;
  }
  if (!all && found == nullptr && !SelectsPages(policy)) {
    return NoSuchPolicy(policy.tokens);
  }
  if (all && policy.keep != 1) {
    return Refusal(ErrorCode::kInvalidArgument,
                   fmt::format("keep is {} with tokens \"all\", which keeps every token; leave it "
                               "out, or name the token policy that chooses",
                               policy.keep));
  }
  const bool may_be_zero = found != nullptr && found->may_keep_nothing();
  const bool in_range = policy.keep <= 1 && (may_be_zero ? policy.keep >= 0 : policy.keep > 0);
  if (!in_range) {
    return Refusal(ErrorCode::kInvalidArgument,
                   fmt::format("keep is {}; with tokens \"{}\" it must be {}0 and at most 1",
                               policy.keep,
                               policy.tokens,
                               may_be_zero ? "at least " : "above "));
  }
  return found;
}

}  // namespace varve
