// One rung down: what is decoded of a sealed page is encoded in fewer bits.
#include <cstring>

#include <fmt/format.h>

#include "kvstore/sealer.h"
#include "proto/base/hash.h"

namespace varve {

Result<RunContext> Sealer::ContextOf(const PageRecord& record, const PageRun& run) const {
  RunContext context =
      ContextOf(*run.codec, run.layer, record.identity.first_position + run.first_token);
  context.token_indices = run.token_indices;
  context.num_indices = run.token_indices == nullptr ? 0 : run.num_tokens;
  if (run.tables_hash != (context.tables == nullptr ? 0 : context.tables->hash)) {
    return Error{ErrorCode::kCodecMismatch,
                 fmt::format("{} was written with the tables {} of codec {}; those loaded are {}",
                             DescribeKey(record.identity.key),
                             HashToHex(run.tables_hash),
                             run.codec->name(),
                             context.tables == nullptr ? "none" : HashToHex(context.tables->hash))};
  }
  if (run.codec->sized_by_tables() &&
      run.encoded.size() != run.codec->EncodedBytes(ShapeOf(run.token_capacity), context.tables)) {
    return Error{ErrorCode::kPageCorrupt,
                 DescribeKey(record.identity.key) +
                     " is corrupt: a run does not have the size of its tokens and tables"};
  }
  return context;
}

std::optional<Rung> Sealer::RungOf(const ResolvedPolicy& policy, const PageRecord& record) const {
  const size_t first = NumSinks(policy, record.identity) > 0 ? 1 : 0;
  for (size_t i = first; i < record.runs.size(); ++i) {
    for (size_t rung = 0; rung < kNumRungs; ++rung) {
      if (record.runs[i].codec == policy.rung_codecs[rung]) {
        return static_cast<Rung>(rung);
      }
    }
  }
  return std::nullopt;
}

std::optional<Rung> Sealer::RungOf(const ResolvedPolicy& policy,
                                   const PageIdentity& identity,
                                   uint64_t record_bytes) const {
  std::optional<Rung> found;
  for (size_t rung = 0; rung < kNumRungs; ++rung) {
    ResolvedPolicy as_rung = policy;
    as_rung.codec = policy.rung_codecs[rung];
    ClassSizes sizes = SizesOf(policy, identity);
    const bool may_be_fewer = DependsOnData(policy, identity) && policy.num_classes() == 1;
    bool fits = false;
    do {
      fits = PageRecordBytes(SealedSections(as_rung, identity, sizes)) == record_bytes;
    } while (!fits && may_be_fewer && --sizes[0] >= 1);
    const auto as = policy.EncodedAs(static_cast<Rung>(rung));
    if (fits && found && *found != as) {
      return std::nullopt;
    }
    found = fits ? as : found;
  }
  return found;
}

// The same runs, those in the codec of the rung that it leaves in that of the rung it goes to.
Sealer::DemotedSections Sealer::SectionsOf(const ResolvedPolicy& policy,
                                           const Codec& from,
                                           const Codec& to,
                                           const PageRecord& record) const {
  const PageIdentity& identity = record.identity;
  const uint16_t layer = identity.key.first_layer;
  const bool has_sinks = NumSinks(policy, identity) > 0;
  DemotedSections demoted;
  const auto add = [&](const Section& section, const PageRun* run) {
    demoted.sections.push_back(section);
    demoted.runs.push_back(run);
  };
  for (const PageRun& run : record.runs) {
    const bool stays = (has_sinks && &run == &record.runs[0]) || run.codec != &from;
    const Codec& codec = stays ? *run.codec : to;
    const auto row = static_cast<uint32_t>(demoted.sections.size());
    const CodecTables* tables = ContextOf(codec, layer, 0).tables;
    const Section encoded =
        RunSection(codec, identity, layer, run.first_token, run.num_tokens, tables);
    add(encoded, &run);
    if (run.token_indices != nullptr) {
      add(TokenIndicesSection(identity, encoded, row), &run);
    }
    if (run.token_weights != nullptr) {
      add(TokenWeightsSection(identity, encoded, row), &run);
    }
  }
  if (!record.key_min_max.empty()) {
    add(KeyMinMaxSection(identity, layer), nullptr);
  }
  if (!record.key_centroids.empty()) {
    add(KeyCentroidsSection(identity, layer), nullptr);
  }
  return demoted;
}

// Decodes a run into row `row` of k_ and v_; encodes it again if its section has another codec.
Result<void> Sealer::CopyRun(const PageRecord& record,
                             const PageRun& run,
                             const Section& section,
                             int32_t row,
                             std::span<std::byte> out) {
  VARVE_TRY(const RunContext context, ContextOf(record, run));
  const size_t at = static_cast<size_t>(row) * TokenFloats();
  run.codec->Decode(ShapeOf(run.token_capacity),
                    0,
                    run.num_tokens,
                    run.encoded,
                    context,
                    k_.data() + at,
                    v_.data() + at);
  if (section.codec == run.codec->id()) {
    std::memcpy(out.data(), run.encoded.data(), out.size());
  } else {
    EncodeRun(record.identity, section, run.token_indices, row, out);
  }
  return {};
}

Result<std::vector<std::byte>> Sealer::Reencode(const ResolvedPolicy& policy,
                                                Rung rung,
                                                const PageRecord& record,
                                                size_t record_bytes) {
  centroids_.clear();
  const std::optional<Rung> from = RungOf(policy, record);
  if (!from || *from >= policy.EncodedAs(rung)) {
    return std::vector<std::byte>();
  }
  const DemotedSections demoted =
      SectionsOf(policy, policy.CodecOf(*from), policy.CodecOf(rung), record);
  if (PageRecordBytes(demoted.sections) >= record_bytes) {
    return std::vector<std::byte>();
  }
  // Every run is decoded, for the summaries are those of all keys; few are encoded again.
  PageRecordWriter writer(record.identity, demoted.sections);
  int32_t row = 0;  // of k_ and v_
  for (size_t i = 0; i < demoted.sections.size(); ++i) {
    const std::span<std::byte> out = writer.section(i);
    const PageRun* run = demoted.runs[i];
    switch (demoted.sections[i].kind) {
      case SectionKind::kRun:
        VARVE_RETURN_IF_ERROR(CopyRun(record, *run, demoted.sections[i], row, out));
        row += run->num_tokens;
        break;
      case SectionKind::kTokenIndices:
        std::memcpy(out.data(), run->token_indices, out.size());
        break;
      case SectionKind::kTokenWeights:
        std::memcpy(out.data(), run->token_weights, out.size());
        break;
      case SectionKind::kKeyMinMax:
      case SectionKind::kKeyCentroids:
        SummariseKeys(demoted.sections[i].kind, row, out);
        break;
    }
  }
  return std::move(writer).Finish();
}

}  // namespace varve
