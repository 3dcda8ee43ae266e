// The rows of a page record's section table.
#include "kvstore/page_format.h"

namespace varve {

Section RunSection(const Codec& codec,
                   const PageIdentity& identity,
                   uint16_t layer,
                   int32_t first_token,
                   int32_t num_tokens,
                   const CodecTables* tables) {
  Section section;
  section.kind = SectionKind::kRun;
  section.layer = layer;
  section.codec = codec.id();
  section.codec_version = codec.version();
  section.tables_hash = tables == nullptr ? 0 : tables->hash;
  section.first_token = first_token;
  section.num_tokens = num_tokens;
  section.token_capacity = num_tokens;
  section.bytes =
      codec.EncodedBytes({identity.num_kv_heads, identity.head_dim, num_tokens}, tables);
  return section;
}

Section TokenIndicesSection(const PageIdentity& identity, const Section& kept_run, uint32_t run) {
  Section section;
  section.kind = SectionKind::kTokenIndices;
  section.layer = kept_run.layer;
  section.num_tokens = kept_run.num_tokens;
  section.run = run;
  section.bytes = sizeof(int32_t) * static_cast<size_t>(identity.num_kv_heads) *
                  static_cast<size_t>(kept_run.num_tokens);
  return section;
}

Section TokenWeightsSection(const PageIdentity& identity, const Section& kept_run, uint32_t run) {
  Section section = TokenIndicesSection(identity, kept_run, run);
  section.kind = SectionKind::kTokenWeights;
  return section;
}

Section NothingKeptSection(uint16_t layer) {
  Section section;
  section.kind = SectionKind::kTokenIndices;
  section.layer = layer;
  section.run = kNoRun;
  return section;
}

namespace {

// `num_rows` rows of [num_kv_heads, head_dim] in bf16 about all keys of the record.
Section KeySummarySection(const PageIdentity& identity, uint16_t layer, int32_t num_rows) {
  Section section;
  section.layer = layer;
  section.codec = CodecId::kBf16;
  section.num_tokens = identity.num_tokens;
  section.bytes = static_cast<size_t>(num_rows) * sizeof(uint16_t) *
                  static_cast<size_t>(identity.num_kv_heads) *
                  static_cast<size_t>(identity.head_dim);
  return section;
}

}  // namespace

Section KeyMinMaxSection(const PageIdentity& identity, uint16_t layer) {
  Section section = KeySummarySection(identity, layer, 2);
  section.kind = SectionKind::kKeyMinMax;
  section.codec_version = kKeyMinMaxVersion;
  return section;
}

int32_t NumKeyClusters(int32_t num_tokens) {
  // ClusterKV has one cluster for 80 tokens, over a whole prompt. Here clusters end with their
  // page, of 128 tokens by default: at 80, two of them would have to stand for all that is in it.
  // Measured with 16, 32 and 64 (tokens/README.md): the fewer tokens, the better the choice.
  constexpr int32_t kTokensPerCluster = 16;
  return (num_tokens + kTokensPerCluster - 1) / kTokensPerCluster;
}

Section KeyCentroidsSection(const PageIdentity& identity, uint16_t layer) {
  Section section = KeySummarySection(identity, layer, NumKeyClusters(identity.num_tokens));
  section.kind = SectionKind::kKeyCentroids;
  section.codec_version = kKeyCentroidsVersion;
  return section;
}

}  // namespace varve
