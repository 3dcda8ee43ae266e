// The bytes of a page record, format version 1: what FORMAT.md says, as code. Writer and reader of
// pages and of unsealed tails both go through this file and nothing else knows the offsets.
//
// A record is a header, a section table and aligned sections. Its checksum is seeded with the key
// under which it is stored, so that an intact record of another page is refused too. Whatever this
// build does not know (format version, section kind, codec, codec version, codec tables) is refused
// by name, never guessed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "kernels/codec/codec.h"
#include "kvstore/disk_tier.h"
#include "kvstore/record_keys.h"
#include "proto/base/result.h"

namespace varve {

inline constexpr uint16_t kPageFormatVersion = 1;
inline constexpr size_t kSectionAlignment = 64;
inline constexpr int32_t kMaxPageTokens = 1 << 16;
inline constexpr uint16_t kKeyMinMaxVersion = 1;
inline constexpr uint16_t kKeyCentroidsVersion = 1;
// Empty token indices of no run say that every token behind the runs was dropped.
inline constexpr uint32_t kNoRun = UINT32_MAX;

// Embedded on disk: do not change or reuse a value.
enum class RecordKind : uint8_t {
  kSealed = 1,  // immutable page
  kTail = 2,    // tokens of a page that was not sealed when its version was committed
};

// Embedded on disk: do not change or reuse a value.
enum class SectionKind : uint16_t {
  kRun = 1,  // encoded K and V
  // int32 [num_kv_heads, num_tokens]: which tokens a run holds that has not all behind the sinks;
  // offsets from the run's first position
  kTokenIndices = 2,
  kTokenWeights = 3,  // float [num_kv_heads, num_tokens] of such a run
  kKeyMinMax = 4,  // bf16 [2, num_kv_heads, head_dim]: lower, then upper bound of the decoded keys
  kKeyCentroids = 5,  // bf16 [NumKeyClusters(num_tokens), num_kv_heads, head_dim]
};

// What a record claims to be and a reader expects: equality is checked field by field.
struct PageIdentity {
  PageKey key;
  RecordKind kind = RecordKind::kSealed;
  uint64_t commit_version = 0;  // of a tail; 0 for sealed pages
  uint64_t model_hash = 0;
  int32_t num_kv_heads = 0;
  int32_t head_dim = 0;
  int32_t page_tokens = 0;
  int64_t first_position = 0;  // position in the sequence of the record's token 0
  int32_t num_tokens = 0;
};

// One row of the section table, before (writer) or after (reader) its place is known.
struct Section {
  SectionKind kind = SectionKind::kRun;
  uint16_t layer = 0;
  CodecId codec{};             // of a run
  uint16_t codec_version = 0;  // of a run's codec, or of the layout of bounds or centroids
  uint64_t tables_hash = 0;    // CodecTables::hash, 0 for none
  int32_t first_token = 0;     // offset from the record's first position
  int32_t num_tokens = 0;
  int32_t token_capacity = 0;
  uint32_t run = 0;  // indices, weights: the row of the run that they belong to, or kNoRun
  uint64_t offset = 0;
  uint64_t bytes = 0;
};

// Bytes of a record with these sections.
size_t PageRecordBytes(std::span<const Section> sections);
// The most that a record of `record_bytes` takes with up to `num_sections` more of `section_bytes`
// together, however these are divided.
size_t MostRecordBytes(size_t record_bytes, size_t num_sections, size_t section_bytes);

// A row for a run of `num_tokens` tokens, capacity for exactly them. `tables`: of the codec and the
// layer; null if the codec has none.
Section RunSection(const Codec& codec,
                   const PageIdentity& identity,
                   uint16_t layer,
                   int32_t first_token,
                   int32_t num_tokens,
                   const CodecTables* tables = nullptr);
// Rows for what each head has in a run that does not have all tokens, which is row number `run`.
Section TokenIndicesSection(const PageIdentity& identity, const Section& kept_run, uint32_t run);
Section TokenWeightsSection(const PageIdentity& identity, const Section& kept_run, uint32_t run);
// A row that says that nothing was kept behind the runs.
Section NothingKeptSection(uint16_t layer);
// A row for the key bounds over the whole record.
Section KeyMinMaxSection(const PageIdentity& identity, uint16_t layer);
// Into how many clusters each kv head's keys of so many tokens are divided.
int32_t NumKeyClusters(int32_t num_tokens);
// A row for the key centroids of the whole record.
Section KeyCentroidsSection(const PageIdentity& identity, uint16_t layer);

// Writes one record: lay out, fill section(i), Finish.
class PageRecordWriter {
 public:
  PageRecordWriter(const PageIdentity& identity, std::vector<Section> sections);

  std::span<std::byte> section(size_t index);
  // Writes header, table and checksum and hands the record over.
  std::vector<std::byte> Finish() &&;

 private:
  PageIdentity identity_;
  std::vector<Section> sections_;
  std::vector<std::byte> bytes_;
};

// One encoded run of a parsed record. Points into the record's bytes. Where the codec is
// sized_by_tables(), `encoded` has at most the size of a run; whoever decodes it compares it with
// the size that the tables say.
struct PageRun {
  const Codec* codec = nullptr;
  uint16_t layer = 0;
  uint64_t tables_hash = 0;  // of the tables it was encoded with; 0 if its codec has none
  int32_t first_token = 0;
  int32_t num_tokens = 0;
  int32_t token_capacity = 0;
  std::span<const std::byte> encoded;
  // Null for a run of consecutive tokens.
  const int32_t* token_indices = nullptr;  // [num_kv_heads, num_tokens]
  const float* token_weights = nullptr;    // [num_kv_heads, num_tokens]
};

// A parsed record. Points into the record's bytes.
struct PageRecord {
  PageIdentity identity;
  std::vector<PageRun> runs;  // in token order, if they are runs of consecutive tokens
  // A token policy chose: some tokens are gone, or several runs share them out.
  bool is_pruned = false;
  std::span<const std::byte> key_min_max;    // bf16 [2, num_kv_heads, head_dim]; empty: none
  std::span<const std::byte> key_centroids;  // bf16 [clusters, num_kv_heads, head_dim], or empty
};

// Checks a record against what the reader asked for, the checksum first, and parses it. `bytes`
// must outlive the result. Errors: kPageCorrupt (truncated, damaged, or a record of another key),
// kVersionSkew (format version or section kind), kCodecMismatch (codec, its version or its tables),
// kModelMismatch.
Result<PageRecord> ParsePageRecord(std::span<const std::byte> bytes, const PageIdentity& expected);

// Puts an intact record under another key, a tail into another version. REQUIRES: it was parsed.
void RebindRecord(const PageKey& key, uint64_t commit_version, std::span<std::byte> record);

// Writes the checksum of a record anew under `key`, whatever its bytes say; false if they are less
// than a header. For tools and tests that change records on purpose.
bool RewriteChecksum(const PageKey& key, std::span<std::byte> record);

}  // namespace varve
