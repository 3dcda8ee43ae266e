// What is compared: codecs, each with a token policy.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/codec/codec.h"
#include "proto/base/result.h"
#include "proto/kv_policy.h"
#include "proto/worker_group.h"

#include "ops/cli/eval/eval_options.h"
#include "ops/cli/eval/eval_row.h"

namespace varve::cli {

// Keys and values without loss: what everything is compared with.
inline constexpr std::string_view kExactCodec = "f32";

// Pages of a context are ranked by a sketch of their keys and sampled, by request
// (worker/selective_attention.h): no policy of the context, but measured beside those.
inline constexpr std::string_view kSelectPolicy = "select";

// A token policy and its share (KvPolicy::keep).
struct PolicyChoice {
  std::string name = "full";  // of PolicyNames()
  // In (0, 1]; 1: every token. Of clusterkv and select: the share of the pages that is read.
  double keep = 1;

  // "full", or NAME:KEEP.
  std::string Label() const;
  bool operator==(const PolicyChoice&) const = default;
};

// The policies of this build, the one that keeps every token first.
std::span<const std::string_view> PolicyNames();
// Reads a label. kInvalidArgument naming what is wrong and what there is.
Result<PolicyChoice> ParsePolicyChoice(const std::string& label);

struct Candidate {
  const Codec* codec = nullptr;
  PolicyChoice policy;
  // Bits kept for each value of a context's tokens, metadata and pruning counted; the most of them
  // where the numbers decide, or tables that are not there yet.
  double bpe = 0;
  std::string tables = {};  // EvalRow::tables
  // The trade-off: bits for each value of a context's tokens that it had to fit; 0: none.
  double budget = 0;

  // How a context is kept that is measured with this candidate. Sinks and newest tokens are f32, so
  // that codec and policy alone are measured.
  KvPolicy Kv() const;
  // How a request attends to a context of that many tokens; nothing: as Kv() says. The budget
  // decides what is read, not the error.
  std::optional<SelectiveAttention> Selective(int64_t num_tokens) const;
  // Whether requests choose what they read.
  bool ChoosesPages() const;
  // A row about it, without figures.
  EvalRow Row(const std::string& part, const std::string& model, double outliers) const;
};

// How a context is kept that everything is compared with.
KvPolicy ExactKv();

// Every codec of options.codecs (empty: of the registry, except for the exact one and for rvq8-2k,
// whose tables take long to make) with every
// policy of options.policies, of at most options.max_bits. `page`: the shape of a page, for the
// bits, the mean over num_layers. kInvalidArgument naming what is unknown, or if nothing is left.
Result<std::vector<Candidate>> MakeCandidates(const EvalOptions& options,
                                              const RunShape& page,
                                              int32_t num_layers = 1);

// Their codecs, each once.
std::vector<const Codec*> CodecsOf(const std::vector<Candidate>& candidates);

// The same context in the same bytes, from few tokens in many bits to many tokens in few: each of
// the codecs with the share of tokens that fits `budget_bits` for each value of all tokens. Codecs
// that fit with all tokens keep them all. Under a policy that keeps all tokens in several codecs
// `keep` is the largest with which they fit; codecs that fit with none are left out.
std::vector<Candidate> EqualByteCandidates(std::span<const Codec* const> codecs,
                                           const std::string& policy_name,
                                           double budget_bits,
                                           const RunShape& page,
                                           int32_t num_layers = 1);

}  // namespace varve::cli
