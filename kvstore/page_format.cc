#include "kvstore/page_format.h"

#include <bit>
#include <cstring>

#include <fmt/format.h>

#include "kvstore/page_coverage.h"
#include "kvstore/record_keys.h"
#include "proto/base/hash.h"

namespace varve {
namespace {

static_assert(std::endian::native == std::endian::little,
              "records are little-endian and read in place");

constexpr char kMagic[8] = {'V', 'A', 'R', 'V', 'P', 'A', 'G', 'E'};

struct HeaderBytes {
  char magic[8];
  uint16_t format_version;
  uint16_t num_sections;
  uint8_t kind;
  uint8_t space;
  uint16_t reserved0;
  uint64_t owner;
  uint16_t first_layer;
  uint16_t last_layer;
  uint16_t num_kv_heads;
  uint16_t head_dim;
  uint64_t page;
  int64_t first_position;
  int32_t num_tokens;
  int32_t page_tokens;
  uint64_t model_hash;
  uint64_t commit_version;
  uint64_t record_bytes;
  uint64_t reserved1;
  uint64_t checksum;
};
static_assert(sizeof(HeaderBytes) == 96);

struct SectionBytes {
  uint16_t kind;
  uint16_t layer;
  uint16_t codec_id;
  uint16_t codec_version;
  uint64_t tables_hash;
  int32_t first_token;
  int32_t num_tokens;
  int32_t token_capacity;
  uint32_t run;
  uint64_t offset;
  uint64_t bytes;
};
static_assert(sizeof(SectionBytes) == 48);

constexpr size_t kChecksumOffset = offsetof(HeaderBytes, checksum);
constexpr uint16_t kMaxSections = 4096;

size_t AlignUp(size_t bytes) {
  return (bytes + kSectionAlignment - 1) / kSectionAlignment * kSectionAlignment;
}

uint64_t Checksum(const PageKey& key, std::span<const std::byte> record) {
  const uint64_t bound = Hash64(KeyBytes(key));
  const uint64_t header = Hash64(record.first(kChecksumOffset), bound);
  return Hash64(record.subspan(sizeof(HeaderBytes)), header);
}

// Gives every section its offset; returns the record's size.
size_t LayOut(std::span<Section> sections) {
  size_t end = AlignUp(sizeof(HeaderBytes) + sections.size() * sizeof(SectionBytes));
  for (Section& section : sections) {
    section.offset = end;
    end = AlignUp(end + section.bytes);
  }
  return end;
}

Error Corrupt(const PageIdentity& expected, std::string_view what) {
  return Error{ErrorCode::kPageCorrupt,
               fmt::format("{} is corrupt: {}", DescribeKey(expected.key), what)};
}

PageKey KeyOf(const HeaderBytes& header) {
  return PageKey{static_cast<PageKey::Space>(header.space),
                 header.owner,
                 header.first_layer,
                 header.last_layer,
                 header.page};
}

// Steps 1 to 4: are these the undamaged bytes of a record of this format, stored under this key?
Result<HeaderBytes> CheckEnvelope(std::span<const std::byte> bytes, const PageIdentity& expected) {
  HeaderBytes header;
  if (bytes.size() < sizeof(header)) {
    return Corrupt(expected, fmt::format("{} bytes are less than a header", bytes.size()));
  }
  std::memcpy(&header, bytes.data(), sizeof(header));
  if (std::memcmp(header.magic, kMagic, sizeof(kMagic)) != 0) {
    return Corrupt(expected, "it does not begin with VARVPAGE");
  }
  if (header.format_version != kPageFormatVersion) {
    return Error{ErrorCode::kVersionSkew,
                 fmt::format("{} has page format version {}; this build reads version {}",
                             DescribeKey(expected.key),
                             header.format_version,
                             kPageFormatVersion)};
  }
  if (header.record_bytes != bytes.size()) {
    return Corrupt(expected,
                   fmt::format("{} bytes are there of {}", bytes.size(), header.record_bytes));
  }
  if (Checksum(expected.key, bytes) != header.checksum) {
    const PageKey actual = KeyOf(header);
    if (!(actual == expected.key) && Checksum(actual, bytes) == header.checksum) {
      return Corrupt(expected, "the bytes are those of " + DescribeKey(actual));
    }
    return Corrupt(expected, "its checksum does not match");
  }
  return header;
}

Result<void> CheckIdentity(const HeaderBytes& header, const PageIdentity& expected) {
  if (!(KeyOf(header) == expected.key)) {
    return Corrupt(expected, "the bytes are those of " + DescribeKey(KeyOf(header)));
  }
  if (header.model_hash != expected.model_hash) {
    return Error{ErrorCode::kModelMismatch,
                 fmt::format("{} was computed with model {}, not with {}",
                             DescribeKey(expected.key),
                             HashToHex(header.model_hash),
                             HashToHex(expected.model_hash))};
  }
  if (header.kind != static_cast<uint8_t>(expected.kind) ||
      header.commit_version != expected.commit_version ||
      header.num_kv_heads != expected.num_kv_heads || header.head_dim != expected.head_dim ||
      header.first_position != expected.first_position ||
      header.num_tokens != expected.num_tokens || header.page_tokens != expected.page_tokens ||
      header.reserved0 != 0 || header.reserved1 != 0) {
    return Corrupt(
        expected,
        fmt::format("it holds {} tokens at position {} of another version or shape, not {} at {}",
                    header.num_tokens,
                    header.first_position,
                    expected.num_tokens,
                    expected.first_position));
  }
  return {};
}

Result<PageRun> ParseRun(const SectionBytes& row,
                         std::span<const std::byte> body,
                         const PageIdentity& expected) {
  auto codec = FindCodec(static_cast<CodecId>(row.codec_id));
  if (!codec) {
    return Error{ErrorCode::kCodecMismatch,
                 fmt::format("{}: {}", DescribeKey(expected.key), codec.error().message)};
  }
  if (row.codec_version != (*codec)->version()) {
    return Error{ErrorCode::kCodecMismatch,
                 fmt::format("{} was written by version {} of codec {}; this build has version {}",
                             DescribeKey(expected.key),
                             row.codec_version,
                             (*codec)->name(),
                             (*codec)->version())};
  }
  const bool fits = row.num_tokens > 0 && row.num_tokens <= row.token_capacity &&
                    row.token_capacity <= kMaxPageTokens && row.first_token >= 0 &&
                    row.first_token <= expected.num_tokens - row.num_tokens;
  const RunShape shape{expected.num_kv_heads, expected.head_dim, row.token_capacity};
  // What tables decide is checked where they are at hand, by whoever looks them up by their hash.
  if (!fits || ((*codec)->sized_by_tables() ? row.bytes > (*codec)->EncodedBytes(shape)
                                            : row.bytes != (*codec)->EncodedBytes(shape))) {
    return Corrupt(expected, "a run does not have the size of its tokens");
  }
  if ((row.tables_hash != 0) != (*codec)->needs_tables()) {
    return Error{ErrorCode::kCodecMismatch,
                 fmt::format("{} names the tables {}, but codec {} of this build {}",
                             DescribeKey(expected.key),
                             HashToHex(row.tables_hash),
                             (*codec)->name(),
                             (*codec)->needs_tables() ? "needs some" : "has none")};
  }
  return PageRun{.codec = *codec,
                 .layer = row.layer,
                 .tables_hash = row.tables_hash,
                 .first_token = row.first_token,
                 .num_tokens = row.num_tokens,
                 .token_capacity = row.token_capacity,
                 .encoded = body};
}

// Token indices and weights belong to an earlier run row and have one 32-bit entry per head and
// token.
Result<void> AttachToRun(const SectionBytes& row,
                         std::span<const std::byte> body,
                         const PageIdentity& expected,
                         std::span<const size_t> run_of_row,
                         std::vector<PageRun>& runs) {
  if (row.run >= run_of_row.size() || run_of_row[row.run] >= runs.size()) {
    return Corrupt(expected, "a section belongs to a run that is not there");
  }
  PageRun& run = runs[run_of_row[row.run]];
  if (body.size() != sizeof(int32_t) * static_cast<size_t>(expected.num_kv_heads) *
                         static_cast<size_t>(run.num_tokens)) {
    return Corrupt(expected, "token indices or weights do not have the size of their run");
  }
  if (row.kind == static_cast<uint16_t>(SectionKind::kTokenIndices)) {
    run.token_indices = reinterpret_cast<const int32_t*>(body.data());
    for (size_t i = 0; i < body.size() / sizeof(int32_t); ++i) {
      if (run.token_indices[i] < 0 ||
          run.token_indices[i] >= expected.num_tokens - run.first_token) {
        return Corrupt(expected, "a token index lies outside its page");
      }
    }
  } else {
    run.token_weights = reinterpret_cast<const float*>(body.data());
  }
  return {};
}

}  // namespace

size_t PageRecordBytes(std::span<const Section> sections) {
  std::vector<Section> copy(sections.begin(), sections.end());
  return LayOut(copy);
}

size_t MostRecordBytes(size_t record_bytes, size_t num_sections, size_t section_bytes) {
  return record_bytes + AlignUp(num_sections * sizeof(SectionBytes)) +
         AlignUp(section_bytes + num_sections * (kSectionAlignment - 1));
}

PageRecordWriter::PageRecordWriter(const PageIdentity& identity, std::vector<Section> sections)
    : identity_(identity), sections_(std::move(sections)), bytes_(LayOut(sections_)) {
  VARVE_CHECK(!sections_.empty() && sections_.size() <= kMaxSections);
}

std::span<std::byte> PageRecordWriter::section(size_t index) {
  return std::span(bytes_).subspan(sections_[index].offset, sections_[index].bytes);
}

std::vector<std::byte> PageRecordWriter::Finish() && {
  size_t at = sizeof(HeaderBytes);
  for (const Section& s : sections_) {
    const SectionBytes row{static_cast<uint16_t>(s.kind),
                           s.layer,
                           static_cast<uint16_t>(s.codec),
                           s.codec_version,
                           s.tables_hash,
                           s.first_token,
                           s.num_tokens,
                           s.token_capacity,
                           s.run,
                           s.offset,
                           s.bytes};
    std::memcpy(bytes_.data() + at, &row, sizeof(row));
    at += sizeof(row);
  }
  HeaderBytes header{};
  std::memcpy(header.magic, kMagic, sizeof(kMagic));
  header.format_version = kPageFormatVersion;
  header.num_sections = static_cast<uint16_t>(sections_.size());
  header.kind = static_cast<uint8_t>(identity_.kind);
  header.space = static_cast<uint8_t>(identity_.key.space);
  header.owner = identity_.key.owner;
  header.first_layer = identity_.key.first_layer;
  header.last_layer = identity_.key.last_layer;
  header.num_kv_heads = static_cast<uint16_t>(identity_.num_kv_heads);
  header.head_dim = static_cast<uint16_t>(identity_.head_dim);
  header.page = identity_.key.page;
  header.first_position = identity_.first_position;
  header.num_tokens = identity_.num_tokens;
  header.page_tokens = identity_.page_tokens;
  header.model_hash = identity_.model_hash;
  header.commit_version = identity_.commit_version;
  header.record_bytes = bytes_.size();
  std::memcpy(bytes_.data(), &header, sizeof(header));
  VARVE_CHECK(RewriteChecksum(identity_.key, bytes_));
  return std::move(bytes_);
}

void RebindRecord(const PageKey& key, uint64_t commit_version, std::span<std::byte> record) {
  VARVE_CHECK(record.size() >= sizeof(HeaderBytes));
  std::memcpy(record.data() + offsetof(HeaderBytes, owner), &key.owner, sizeof(key.owner));
  std::memcpy(record.data() + offsetof(HeaderBytes, commit_version),
              &commit_version,
              sizeof(commit_version));
  VARVE_CHECK(RewriteChecksum(key, record));
}

bool RewriteChecksum(const PageKey& key, std::span<std::byte> record) {
  if (record.size() < sizeof(HeaderBytes)) {
    return false;
  }
  const uint64_t checksum = Checksum(key, record);
  std::memcpy(record.data() + kChecksumOffset, &checksum, sizeof(checksum));
  return true;
}

namespace {

// Bounds or centroids of all keys of the record.
Result<void> CheckSummary(const SectionBytes& row,
                          const Section& known,
                          std::string_view name,
                          const PageIdentity& expected) {
  if (row.codec_version != known.codec_version ||
      row.codec_id != static_cast<uint16_t>(known.codec)) {
    return Error{ErrorCode::kVersionSkew,
                 fmt::format("{} has {} of layout {}; this build reads layout {}",
                             DescribeKey(expected.key),
                             name,
                             row.codec_version,
                             known.codec_version)};
  }
  if (row.bytes != known.bytes) {
    return Corrupt(expected, fmt::format("its {} do not have the size of the heads", name));
  }
  return {};
}

Result<void> ParseSection(const SectionBytes& row,
                          size_t index,
                          std::span<const std::byte> body,
                          const PageIdentity& expected,
                          std::span<size_t> run_of_row,
                          PageRecord& record) {
  switch (static_cast<SectionKind>(row.kind)) {
    case SectionKind::kRun: {
      VARVE_TRY(const PageRun run, ParseRun(row, body, expected));
      run_of_row[index] = record.runs.size();
      record.runs.push_back(run);
      return {};
    }
    case SectionKind::kTokenIndices:
      record.is_pruned = true;
      if (row.run == kNoRun && row.bytes == 0) {
        return {};
      }
      [[fallthrough]];
    case SectionKind::kTokenWeights:
      return AttachToRun(row, body, expected, run_of_row, record.runs);
    case SectionKind::kKeyMinMax:
      VARVE_RETURN_IF_ERROR(
          CheckSummary(row, KeyMinMaxSection(expected, row.layer), "key bounds", expected));
      record.key_min_max = body;
      return {};
    case SectionKind::kKeyCentroids:
      VARVE_RETURN_IF_ERROR(
          CheckSummary(row, KeyCentroidsSection(expected, row.layer), "key centroids", expected));
      record.key_centroids = body;
      return {};
  }
  return Error{ErrorCode::kVersionSkew,
               fmt::format("{} has a section of kind {}, which this build does not know",
                           DescribeKey(expected.key),
                           row.kind)};
}

}  // namespace

Result<PageRecord> ParsePageRecord(std::span<const std::byte> bytes, const PageIdentity& expected) {
  VARVE_TRY(const HeaderBytes header, CheckEnvelope(bytes, expected));
  VARVE_RETURN_IF_ERROR(CheckIdentity(header, expected));
  const size_t table_end = sizeof(header) + header.num_sections * sizeof(SectionBytes);
  if (header.num_sections == 0 || header.num_sections > kMaxSections || table_end > bytes.size()) {
    return Corrupt(expected, "its section table does not fit");
  }
  PageRecord record{.identity = expected};
  std::vector<size_t> run_of_row(header.num_sections, SIZE_MAX);
  uint64_t previous_end = table_end;
  for (size_t i = 0; i < header.num_sections; ++i) {
    SectionBytes row;
    std::memcpy(&row, bytes.data() + sizeof(header) + i * sizeof(row), sizeof(row));
    if (row.offset % kSectionAlignment != 0 || row.offset < previous_end ||
        row.offset > bytes.size() || row.bytes > bytes.size() - row.offset ||
        row.layer < header.first_layer || row.layer > header.last_layer) {
      return Corrupt(expected, "a section lies outside the record or its layers");
    }
    previous_end = row.offset + row.bytes;
    VARVE_RETURN_IF_ERROR(
        ParseSection(row, i, bytes.subspan(row.offset, row.bytes), expected, run_of_row, record));
  }
  if (const std::string_view fault = CoverageFault(record); !fault.empty()) {
    return Corrupt(expected, fault);
  }
  return record;
}

}  // namespace varve
