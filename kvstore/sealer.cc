#include "kvstore/sealer.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <numeric>

namespace varve {
namespace {

// Nearest bf16 that is not above (below) the value, so that a bound stays a bound.
uint16_t RoundDown(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const bool inexact_negative = (bits & 0xffffU) != 0 && (bits & 0x80000000U) != 0;
  return static_cast<uint16_t>((bits >> 16) + (inexact_negative ? 1 : 0));
}

uint16_t RoundUp(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const bool inexact_positive = (bits & 0xffffU) != 0 && (bits & 0x80000000U) == 0;
  return static_cast<uint16_t>((bits >> 16) + (inexact_positive ? 1 : 0));
}

}  // namespace

uint64_t Sealer::WorkspaceBytes(const ResolvedPolicy& policy) const {
  const auto tokens = static_cast<uint64_t>(policy.policy.page_tokens);
  PageIdentity identity;
  identity.num_kv_heads = geometry_.num_kv_heads;
  identity.head_dim = geometry_.head_dim;
  identity.page_tokens = policy.policy.page_tokens;
  identity.num_tokens = policy.policy.page_tokens;
  const uint64_t pruning =
      policy.tokens == nullptr ? 0 : pruner_.WorkspaceBytes(policy.policy.page_tokens);
  const uint64_t clustering = policy.selects_pages
                                  ? clusterer_.WorkspaceBytes(policy.policy.page_tokens) +
                                        KeyCentroidsSection(identity, 0).bytes
                                  : 0;
  return 2 * tokens * TokenFloats() * sizeof(float) + pruning + clustering +
         std::max(SealedBytes(policy, identity), TailBytes(policy, identity));
}

void Sealer::Reserve(const ResolvedPolicy& policy) {
  const size_t floats = static_cast<size_t>(policy.policy.page_tokens) * TokenFloats();
  if (k_.size() < floats) {
    k_.resize(floats);
    v_.resize(floats);
  }
  if (policy.tokens != nullptr) {
    pruner_.Reserve(policy.policy.page_tokens);
  }
  if (policy.selects_pages) {
    clusterer_.Reserve(policy.policy.page_tokens);
    centroids_.reserve(static_cast<size_t>(NumKeyClusters(policy.policy.page_tokens)) *
                       TokenFloats());
  }
}

int32_t Sealer::NumSinks(const ResolvedPolicy& policy, const PageIdentity& identity) const {
  return static_cast<int32_t>(std::clamp<int64_t>(
      policy.policy.sink_tokens - identity.first_position, 0, identity.num_tokens));
}

TokenBudget Sealer::BudgetOf(const ResolvedPolicy& policy, const PageIdentity& identity) const {
  return pruner_.BudgetOf(*policy.codec,
                          policy.policy.keep,
                          identity.key.first_layer,
                          identity.num_tokens - NumSinks(policy, identity));
}

ClassSizes Sealer::SizesOf(const ResolvedPolicy& policy, const PageIdentity& identity) const {
  const int32_t rest = identity.num_tokens - NumSinks(policy, identity);
  return policy.tokens == nullptr || rest == 0 ? ClassSizes{rest}
                                               : policy.tokens->SizesOf(BudgetOf(policy, identity));
}

bool Sealer::DependsOnData(const ResolvedPolicy& policy, const PageIdentity& identity) const {
  return policy.tokens != nullptr && policy.tokens->size_depends_on_data() &&
         identity.num_tokens > NumSinks(policy, identity);
}

std::vector<Section> Sealer::SealedSections(const ResolvedPolicy& policy,
                                            const PageIdentity& identity,
                                            const ClassSizes& sizes) const {
  const uint16_t layer = identity.key.first_layer;
  const int32_t sinks = NumSinks(policy, identity);
  const int32_t rest = identity.num_tokens - sinks;
  const int32_t num_kept = std::accumulate(sizes.begin(), sizes.end(), 0);
  std::vector<Section> sections;
  if (sinks > 0) {
    sections.push_back(RunSection(*policy.exact, identity, layer, 0, sinks));
  }
  for (size_t c = 0; c < policy.num_classes(); ++c) {
    if (sizes[c] == 0) {
      continue;
    }
    const auto row = static_cast<uint32_t>(sections.size());
    const RunContext context = ContextOf(policy.CodecOf(c), layer, 0);
    const Section run =
        RunSection(policy.CodecOf(c), identity, layer, sinks, sizes[c], context.tables);
    sections.push_back(run);
    if (sizes[c] < rest) {
      sections.push_back(TokenIndicesSection(identity, run, row));
      if (policy.tokens->has_weights()) {
        sections.push_back(TokenWeightsSection(identity, run, row));
      }
    }
  }
  if (num_kept == 0 && rest > 0) {
    sections.push_back(NothingKeptSection(layer));
  }
  // A sliding-window layer reads every page that it keeps: it has no use for bounds. So do requests
  // of their own pages: these have no use for centroids.
  if (sinks + num_kept > 0 && geometry_.layer_windows[layer] == 0) {
    sections.push_back(KeyMinMaxSection(identity, layer));
    if (policy.selects_pages && identity.key.space == PageKey::Space::kContext) {
      sections.push_back(KeyCentroidsSection(identity, layer));
    }
  }
  return sections;
}

RunContext Sealer::ContextOf(const Codec& codec, int32_t layer, int64_t first_position) const {
  const auto at = static_cast<size_t>(layer);
  const bool has_rope = at < geometry_.layer_ropes.size();
  const bool has_tables = codec.needs_tables() && geometry_.codec_tables != nullptr;
  return {.tables = has_tables ? geometry_.codec_tables->Find(codec.id(), layer) : nullptr,
          .rope = has_rope ? geometry_.layer_ropes[at].get() : nullptr,
          .first_position = first_position};
}

uint64_t Sealer::SealedBytes(const ResolvedPolicy& policy, const PageIdentity& identity) const {
  const ClassSizes sizes = SizesOf(policy, identity);
  const uint64_t bytes = PageRecordBytes(SealedSections(policy, identity, sizes));
  if (!DependsOnData(policy, identity)) {
    return bytes;
  }
  if (policy.num_classes() == 1) {
    // With one token less there are indices, which can cost more than the token.
    return sizes[0] > 1
               ? std::max(bytes, PageRecordBytes(SealedSections(policy, identity, {sizes[0] - 1})))
               : bytes;
  }
  // Runs and indices of all classes, whichever there are, beside what every such page has.
  const uint64_t one_token = PageRecordBytes(SealedSections(policy, identity, {1}));
  return MostRecordBytes(
      one_token, 2 * policy.num_classes(), policy.tokens->MostBytes(BudgetOf(policy, identity)));
}

int32_t Sealer::KeptTokensOf(const ResolvedPolicy& policy,
                             const PageIdentity& identity,
                             uint64_t record_bytes,
                             Rung rung) const {
  const ClassSizes sizes = SizesOf(policy, identity);
  int32_t kept = std::accumulate(sizes.begin(), sizes.end(), 0);
  if (DependsOnData(policy, identity) && policy.num_classes() == 1) {
    ResolvedPolicy as_rung = policy;
    as_rung.codec = &policy.CodecOf(rung);
    while (kept > 1 && PageRecordBytes(SealedSections(as_rung, identity, {kept})) != record_bytes) {
      --kept;
    }
  }
  return NumSinks(policy, identity) + kept;
}

uint64_t Sealer::TailBytes(const ResolvedPolicy& policy, const PageIdentity& identity) const {
  const Section run =
      RunSection(*policy.exact, identity, identity.key.first_layer, 0, identity.num_tokens);
  return PageRecordBytes({&run, 1});
}

std::vector<std::byte> Sealer::Seal(const ResolvedPolicy& policy,
                                    const PageIdentity& identity,
                                    const UnsealedRun& run) {
  VARVE_CHECK(identity.num_tokens == run.token_capacity &&
              identity.num_tokens <= policy.policy.page_tokens);
  policy.exact->Decode(
      ShapeOf(run.token_capacity), 0, identity.num_tokens, run.bytes, {}, k_.data(), v_.data());
  const KeptTokens* kept = Prune(policy, identity, run);
  const int32_t sinks = NumSinks(policy, identity);
  const int32_t rest = identity.num_tokens - sinks;
  const std::vector<Section> sections =
      SealedSections(policy, identity, kept == nullptr ? ClassSizes{rest} : kept->class_sizes);
  PageRecordWriter writer(identity, sections);
  centroids_.clear();
  int32_t row = 0;   // of k_ and v_: behind the runs that are written
  size_t entry = 0;  // of indices and weights: the first of the last run
  for (size_t i = 0; i < sections.size(); ++i) {
    const Section& section = sections[i];
    const std::span<std::byte> out = writer.section(i);
    switch (section.kind) {
      case SectionKind::kKeyMinMax:
      case SectionKind::kKeyCentroids:
        SummariseKeys(section.kind, row, out);
        break;
      case SectionKind::kTokenIndices:
        if (!out.empty()) {
          std::memcpy(out.data(), kept->indices.data() + entry, out.size());
        }
        break;
      case SectionKind::kTokenWeights:
        std::memcpy(out.data(), kept->weights.data() + entry, out.size());
        break;
      case SectionKind::kRun: {
        const bool by_index = row >= sinks && section.num_tokens < rest;
        entry = static_cast<size_t>(geometry_.num_kv_heads) *
                static_cast<size_t>(std::max(row - sinks, 0));
        EncodeRun(identity, section, by_index ? kept->indices.data() + entry : nullptr, row, out);
        row += section.num_tokens;
        break;
      }
    }
  }
  return std::move(writer).Finish();
}

void Sealer::EncodeRun(const PageIdentity& identity,
                       const Section& section,
                       const int32_t* token_indices,
                       int32_t row,
                       std::span<std::byte> out) {
  const Codec& codec = *FindCodec(section.codec).value();
  RunContext context =
      ContextOf(codec, section.layer, identity.first_position + section.first_token);
  context.token_indices = token_indices;
  context.num_indices = token_indices == nullptr ? 0 : section.num_tokens;
  float* k = k_.data() + static_cast<size_t>(row) * TokenFloats();
  float* v = v_.data() + static_cast<size_t>(row) * TokenFloats();
  const RunShape shape = ShapeOf(section.token_capacity);
  codec.Encode(shape, 0, section.num_tokens, k, v, TokenFloats(), context, out);
  // The bounds are those of the keys that a reader will decode.
  codec.Decode(shape, 0, section.num_tokens, out, context, k, v);
}

// A run of which all tokens stay keeps its plain form, without indices, so that it costs what it
// did and can be cut short for a reader.
const KeptTokens* Sealer::Prune(const ResolvedPolicy& policy,
                                const PageIdentity& identity,
                                const UnsealedRun& run) {
  const int32_t sinks = NumSinks(policy, identity);
  const int32_t rest = identity.num_tokens - sinks;
  if (!DependsOnData(policy, identity) && SizesOf(policy, identity)[0] == rest) {
    return nullptr;
  }
  return &pruner_.Prune(*policy.tokens,
                        BudgetOf(policy, identity),
                        run.queries,
                        {.layer = identity.key.first_layer,
                         .first_position = identity.first_position,
                         .num_tokens = identity.num_tokens,
                         .num_sinks = sinks,
                         .k = k_.data(),
                         .v = v_.data()});
}

void Sealer::SummariseKeys(SectionKind kind, int32_t num_tokens, std::span<std::byte> out) {
  if (kind == SectionKind::kKeyMinMax) {
    BoundKeys(num_tokens, out);
    return;
  }
  centroids_.resize(out.size() / sizeof(uint16_t));
  clusterer_.Cluster(k_.data(), num_tokens, NumKeyClusters(num_tokens), centroids_);
  std::memcpy(out.data(), centroids_.data(), out.size());
}

void Sealer::BoundKeys(int32_t num_tokens, std::span<std::byte> out) const {
  const size_t channels = TokenFloats();
  std::vector<float> low(k_.begin(), k_.begin() + static_cast<ptrdiff_t>(channels));
  std::vector<float> high = low;
  for (int32_t t = 1; t < num_tokens; ++t) {
    const float* key = k_.data() + static_cast<size_t>(t) * channels;
    for (size_t c = 0; c < channels; ++c) {
      low[c] = std::min(low[c], key[c]);
      high[c] = std::max(high[c], key[c]);
    }
  }
  for (size_t c = 0; c < channels; ++c) {
    const uint16_t low_bits = RoundDown(low[c]);
    const uint16_t high_bits = RoundUp(high[c]);
    std::memcpy(out.data() + c * sizeof(uint16_t), &low_bits, sizeof(uint16_t));
    std::memcpy(out.data() + (channels + c) * sizeof(uint16_t), &high_bits, sizeof(uint16_t));
  }
}

std::vector<std::byte> Sealer::WriteTail(const ResolvedPolicy& policy,
                                         const PageIdentity& identity,
                                         const UnsealedRun& run) {
  VARVE_CHECK(identity.num_tokens <= run.token_capacity);
  policy.exact->Decode(
      ShapeOf(run.token_capacity), 0, identity.num_tokens, run.bytes, {}, k_.data(), v_.data());
  PageRecordWriter writer(
      identity,
      {RunSection(*policy.exact, identity, identity.key.first_layer, 0, identity.num_tokens)});
  policy.exact->Encode(ShapeOf(identity.num_tokens),
                       0,
                       identity.num_tokens,
                       k_.data(),
                       v_.data(),
                       TokenFloats(),
                       {},
                       writer.section(0));
  return std::move(writer).Finish();
}

std::span<float> Sealer::DecodeKeys(std::span<const KvView> views) {
  size_t row = 0;
  for (const KvView& view : views) {
    const Codec& codec = *FindCodec(view.codec).value();
    const auto tokens = static_cast<size_t>(view.num_tokens);
    VARVE_CHECK((row + tokens) * TokenFloats() <= k_.size());
    codec.Decode(ShapeOf(view.token_capacity),
                 view.first_token,
                 view.num_tokens,
                 view.encoded,
                 view.context(),
                 k_.data() + row * TokenFloats(),
                 v_.data() + row * TokenFloats());
    row += tokens;
  }
  return std::span(k_).first(row * TokenFloats());
}

void Sealer::ReadTail(const ResolvedPolicy& policy, const PageRecord& record, UnsealedRun& run) {
  for (const PageRun& part : record.runs) {
    part.codec->Decode(
        ShapeOf(part.token_capacity), 0, part.num_tokens, part.encoded, {}, k_.data(), v_.data());
    policy.exact->Encode(ShapeOf(run.token_capacity),
                         part.first_token,
                         part.num_tokens,
                         k_.data(),
                         v_.data(),
                         TokenFloats(),
                         {},
                         run.bytes);
  }
}

}  // namespace varve
