// Turns unsealed runs into records and back: sealing (encode, summarise, checksum), and the compact
// tail records by which an unsealed run survives a restart bit for bit.
//
// Pruning is a part of sealing: of the tokens behind the sinks, those that the token policy places
// in one of its classes are gathered and encoded as the run of that class, with their indices (and
// weights) beside it.
//
// Holds a workspace of two float pages, sized once for the largest page seen.
// Threads: one caller at a time.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "kernels/attend.h"
#include "kernels/codec/codec.h"
#include "kvstore/kv_geometry.h"
#include "kvstore/memory_tier.h"
#include "kvstore/page_format.h"
#include "kvstore/resolved_policy.h"
#include "kvstore/tokens/key_clusterer.h"
#include "kvstore/tokens/page_pruner.h"

namespace varve {

// The unsealed tokens of one page and layer: an encoded run of the exact codec that grows in place.
struct UnsealedRun {
  int64_t first_position = 0;
  int32_t token_capacity = 0;  // up to the page's end
  std::vector<std::byte> bytes;
  ObservedQueries queries;  // what the token policy wants to have seen; else empty
  MemoryCharge charge;
};

class Sealer {
 public:
  explicit Sealer(const KvGeometry& geometry)
      : geometry_(geometry), pruner_(geometry), clusterer_(geometry) {}

  // Bytes that Reserve(policy) makes this object and one record under construction hold.
  uint64_t WorkspaceBytes(const ResolvedPolicy& policy) const;
  void Reserve(const ResolvedPolicy& policy);

  // Of the keys, or the values, of one token.
  size_t TokenFloats() const {
    return static_cast<size_t>(geometry_.num_kv_heads) * static_cast<size_t>(geometry_.head_dim);
  }
  RunShape ShapeOf(int32_t token_capacity) const {
    return {geometry_.num_kv_heads, geometry_.head_dim, token_capacity};
  }
  // What the codec needs to know about a run of `layer` whose token 0 stands at `first_position`.
  RunContext ContextOf(const Codec& codec, int32_t layer, int64_t first_position) const;
  // Of a run of a parsed record, to decode it. Errors: kCodecMismatch (other tables), kPageCorrupt.
  Result<RunContext> ContextOf(const PageRecord& record, const PageRun& run) const;
  // The record's size, known without its bytes; the most it may be, where what a page keeps depends
  // on its numbers. Demoted records are smaller.
  uint64_t SealedBytes(const ResolvedPolicy& policy, const PageIdentity& identity) const;
  // Of how many tokens of the page K and V are held, in whatever codec: all, unless the policy
  // drops some. With such a policy that lets the numbers decide, `record_bytes` says how many there
  // are in a record of this size on this rung.
  int32_t KeptTokensOf(const ResolvedPolicy& policy,
                       const PageIdentity& identity,
                       uint64_t record_bytes,
                       Rung rung = Rung::kHot) const;
  uint64_t TailBytes(const ResolvedPolicy& policy, const PageIdentity& identity) const;

  // The record of a full run: sinks in the exact codec, what is kept of the rest in the codecs of
  // its classes; for global layers key bounds and, where requests on the context select pages, key
  // centroids. REQUIRES: identity.num_tokens == run.token_capacity.
  std::vector<std::byte> Seal(const ResolvedPolicy& policy,
                              const PageIdentity& identity,
                              const UnsealedRun& run);
  // The record with what is in the codec of the rung it stands on in that of a lower one: exact
  // sinks, other classes of the token policy, indices and weights stay as they are, bounds and
  // centroids are those of the keys that a reader will decode. Empty: it would not be smaller, or
  // stands there already. `record` is of `record_bytes` and verified. Errors: as ContextOf.
  Result<std::vector<std::byte>> Reencode(const ResolvedPolicy& policy,
                                          Rung rung,
                                          const PageRecord& record,
                                          size_t record_bytes);
  // The rung that a record stands on by its runs; nothing if no token is in a codec of the ladder.
  std::optional<Rung> RungOf(const ResolvedPolicy& policy, const PageRecord& record) const;
  // The same by its size, where that tells it from all others; else nothing.
  std::optional<Rung> RungOf(const ResolvedPolicy& policy,
                             const PageIdentity& identity,
                             uint64_t record_bytes) const;
  // The key centroids of the record sealed or encoded anew last, [NumKeyClusters, num_kv_heads,
  // head_dim] in bf16; empty if it has none.
  std::span<const uint16_t> key_centroids() const { return centroids_; }
  // The first identity.num_tokens tokens of a run, exactly, without the room that is still free.
  std::vector<std::byte> WriteTail(const ResolvedPolicy& policy,
                                   const PageIdentity& identity,
                                   const UnsealedRun& run);
  // The keys of a sealed page's views, of all tokens that it has, one view after the other:
  // [num_tokens, num_kv_heads, head_dim], in the workspace. The page's policy must have been
  // reserved.
  std::span<float> DecodeKeys(std::span<const KvView> views);
  // Fills `run` (whose bytes have their size) from the runs of a parsed tail record.
  void ReadTail(const ResolvedPolicy& policy, const PageRecord& record, UnsealedRun& run);

 private:
  int32_t NumSinks(const ResolvedPolicy& policy, const PageIdentity& identity) const;
  // What the token policy has to choose from. REQUIRES: policy.tokens.
  TokenBudget BudgetOf(const ResolvedPolicy& policy, const PageIdentity& identity) const;
  // How many tokens of each class stay behind the sinks; the most that may, where the numbers
  // decide.
  ClassSizes SizesOf(const ResolvedPolicy& policy, const PageIdentity& identity) const;
  // True if only the numbers of a page say which of its tokens behind the sinks are where.
  bool DependsOnData(const ResolvedPolicy& policy, const PageIdentity& identity) const;
  // The sections of a record that keeps so many tokens behind the sinks.
  std::vector<Section> SealedSections(const ResolvedPolicy& policy,
                                      const PageIdentity& identity,
                                      const ClassSizes& sizes) const;
  // Prunes k_ and v_. The result points into the pruner; null: everything stays.
  const KeptTokens* Prune(const ResolvedPolicy& policy,
                          const PageIdentity& identity,
                          const UnsealedRun& run);
  // Encodes a run from row `row` of k_ and v_ on and leaves there what is decoded of it.
  // token_indices: as in a RunContext, null for a run of consecutive tokens.
  void EncodeRun(const PageIdentity& identity,
                 const Section& section,
                 const int32_t* token_indices,
                 int32_t row,
                 std::span<std::byte> out);
  // Of a record that goes down a rung, and the run that each is about; null: all of them.
  struct DemotedSections {
    std::vector<Section> sections;
    std::vector<const PageRun*> runs;
  };
  DemotedSections SectionsOf(const ResolvedPolicy& policy,
                             const Codec& from,
                             const Codec& to,
                             const PageRecord& record) const;
  Result<void> CopyRun(const PageRecord& record,
                       const PageRun& run,
                       const Section& section,
                       int32_t row,
                       std::span<std::byte> out);
  void BoundKeys(int32_t num_tokens, std::span<std::byte> out) const;
  // Bounds or centroids of the first num_tokens keys of k_, into a section.
  void SummariseKeys(SectionKind kind, int32_t num_tokens, std::span<std::byte> out);

  KvGeometry geometry_;
  PagePruner pruner_;
  KeyClusterer clusterer_;
  std::vector<float> k_;  // [page_tokens, num_kv_heads, head_dim]
  std::vector<float> v_;  // [page_tokens, num_kv_heads, head_dim]
  std::vector<uint16_t> centroids_;
};

}  // namespace varve
