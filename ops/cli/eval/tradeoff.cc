#include "ops/cli/eval/tradeoff.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <iterator>
#include <map>
#include <tuple>

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace varve::cli {
namespace {

struct Side {
  const char* name;
  const char* codec;
};

constexpr std::array<Side, 4> kSides = {
    {{"1x16", "bf16"}, {"2x8", "int8"}, {"4x4", "rot4"}, {"8x2", "rot2"}}};
constexpr const char* kPaperPolicy = "snapkv";

// The four rows at one budget, by place in kSides; null: not measured.
using FourRows = std::array<const EvalRow*, kSides.size()>;
using Subject = std::tuple<std::string, double, std::string>;  // model, outliers, policy

std::string PolicyNameOf(const EvalRow& row) {
  return row.policy.substr(0, row.policy.find(':'));
}

// By subject, then by budget, the smallest first.
std::map<Subject, std::map<double, FourRows>> Group(const std::vector<EvalRow>& rows) {
  std::map<Subject, std::map<double, FourRows>> groups;
  for (const EvalRow& row : rows) {
    const auto side = std::find_if(
        kSides.begin(), kSides.end(), [&row](const Side& one) { return row.codec == one.codec; });
    const auto budget = row.Find(kBudgetFigure);
    if (row.part == "tradeoff" && budget && side != kSides.end() && row.Find("retrieval_exact")) {
      groups[{row.model, row.outliers, PolicyNameOf(row)}][*budget]
            [static_cast<size_t>(side - kSides.begin())] = &row;
    }
  }
  return groups;
}

double Found(const EvalRow& row) {
  return row.Find("retrieval_exact").value_or(0);
}

// Whether `a` has answered less than `b`, by more than both intervals.
bool IsBelow(const EvalRow& a, const EvalRow& b) {
  return a.Find("retrieval_high").value_or(0) < b.Find("retrieval_low").value_or(0);
}

// What is unlike the paper.
std::vector<std::string> Differences(const FourRows& four) {
  std::vector<std::string> differences;
  for (size_t i = 1; i < 3; ++i) {
    if (IsBelow(*four[i], *four[i - 1])) {
      differences.push_back(
          fmt::format("{} finds less than {}", kSides[i].name, kSides[i - 1].name));
    }
  }
  if (!IsBelow(*four[3], *four[2])) {
    differences.push_back(IsBelow(*four[2], *four[3])
                              ? "8x2 finds more than 4x4: 2 bits do not collapse"
                              : "8x2 is no worse than 4x4: 2 bits do not collapse");
  }
  return differences;
}

std::string DescribeBudget(const FourRows& four) {
  std::vector<std::string> shares;
  size_t best = 0;
  size_t closest = 0;
  for (size_t i = 0; i < kSides.size(); ++i) {
    shares.push_back(fmt::format("{} {:.1f} %", kSides[i].name, 100 * Found(*four[i])));
    best = Found(*four[i]) > Found(*four[best]) ? i : best;
    const double kl = four[i]->Find("kl_mean").value_or(INFINITY);
    closest = kl < four[closest]->Find("kl_mean").value_or(INFINITY) ? i : closest;
  }
  std::string text = fmt::format("found {}; most {}", fmt::join(shares, ", "), kSides[best].name);
  if (four[closest]->Find("kl_mean")) {
    text += fmt::format(", least divergence {}", kSides[closest].name);
  }
  const std::vector<std::string> differences = Differences(four);
  return text + (differences.empty()
                     ? ". As published."
                     : fmt::format(". Unlike published: {}.", fmt::join(differences, "; ")));
}

// What 4x4 finds beyond 1x16 at each budget, the tightest first.
std::string DescribeGains(const std::map<double, FourRows>& by_budget) {
  std::vector<std::string> gains;
  bool shrinks = true;
  double last = INFINITY;
  for (const auto& [budget, four] : by_budget) {
    const double gain = Found(*four[2]) - Found(*four[0]);
    gains.push_back(fmt::format("{:+.1f} points at {:g} bits", 100 * gain, budget));
    shrinks &= gain <= last;
    last = gain;
  }
  return fmt::format("gain of 4x4 over 1x16: {}. {}",
                     fmt::join(gains, ", "),
                     shrinks ? "As published, the tighter the more."
                             : "Unlike published, it is not the larger the tighter the budget.");
}

}  // namespace

Result<std::vector<Candidate>> TradeoffCandidates(const EvalOptions& options,
                                                  const RunShape& page,
                                                  int32_t num_layers) {
  std::vector<const Codec*> codecs;
  for (const Side& side : kSides) {
    VARVE_TRY(const Codec* codec, FindCodec(side.codec));
    codecs.push_back(codec);
  }
  std::vector<std::string> policies;
  for (const std::string& label : options.policies) {
    VARVE_TRY(const PolicyChoice policy, ParsePolicyChoice(label));
    if (policy.name != PolicyChoice().name) {
      policies.push_back(policy.name);
    }
  }
  if (policies.empty()) {
    policies.emplace_back(kPaperPolicy);
  }
  std::vector<Candidate> candidates;
  for (const std::string& policy : policies) {
    for (const double budget : options.budgets) {
      if (!(budget > 0) || !std::isfinite(budget)) {
        return Error{ErrorCode::kInvalidArgument,
                     fmt::format("--budgets {:g}: bits for each value, over 0", budget)};
      }
      const auto more = EqualByteCandidates(codecs, policy, budget, page, num_layers);
      candidates.insert(candidates.end(), more.begin(), more.end());
    }
  }
  return candidates;
}

std::vector<std::string> DescribeTradeoff(const std::vector<EvalRow>& rows) {
  std::vector<std::string> lines;
  for (auto& [subject, by_budget] : Group(rows)) {
    std::map<double, FourRows> complete;
    std::copy_if(by_budget.begin(),
                 by_budget.end(),
                 std::inserter(complete, complete.end()),
                 [](const auto& entry) {
                   return std::find(entry.second.begin(), entry.second.end(), nullptr) ==
                          entry.second.end();
                 });
    const auto& [model, outliers, policy] = subject;
    const std::string about = fmt::format("tradeoff, {} x{:g}, {}", model, outliers, policy);
    for (const auto& [budget, four] : complete) {
      lines.push_back(fmt::format("{}, {:g} bits: {}", about, budget, DescribeBudget(four)));
    }
    if (complete.size() > 1) {
      lines.push_back(fmt::format("{}: {}", about, DescribeGains(complete)));
    }
  }
  return lines;
}

}  // namespace varve::cli
