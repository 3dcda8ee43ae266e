#include "kvstore/context_format.h"

#include <cstring>
#include <type_traits>

#include <fmt/format.h>

#include "proto/base/hash.h"

namespace varve {
namespace {

constexpr std::string_view kManifestMagic = "VARVMANI";
constexpr std::string_view kTextMagic = "VARVTEXT";
constexpr size_t kMagicBytes = 8;
constexpr size_t kChecksumBytes = 8;

template <typename T>
void Append(std::string& out, T value) {
  static_assert(std::is_arithmetic_v<T>);
  out.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

void AppendString(std::string& out, std::string_view text) {
  VARVE_CHECK(text.size() <= UINT16_MAX);
  Append(out, static_cast<uint16_t>(text.size()));
  out.append(text);
}

// Reads fields in order; once one does not fit, everything reads as zero and ok() is false.
class FieldReader {
 public:
  explicit FieldReader(std::string_view bytes) : bytes_(bytes) {}

  template <typename T>
  void Read(T& value) {
    value = T{};
    if (Has(sizeof(T))) {
      std::memcpy(&value, bytes_.data(), sizeof(T));
      bytes_.remove_prefix(sizeof(T));
    }
  }
  void ReadString(std::string& text) {
    uint16_t size = 0;
    Read(size);
    if (Has(size)) {
      text.assign(bytes_.substr(0, size));
      bytes_.remove_prefix(size);
    }
  }
  bool ok() const { return ok_; }
  bool empty() const { return bytes_.empty(); }

 private:
  bool Has(size_t size) {
    ok_ = ok_ && bytes_.size() >= size;
    return ok_;
  }

  std::string_view bytes_;
  bool ok_ = true;
};

void AppendChecksum(std::string& record, std::string_view row) {
  Append(record, Hash64(std::string_view(record), Hash64(row)));
}

std::string Describe(std::string_view what, std::string_view row) {
  return row.size() < kManifestKeyBytes ? fmt::format("a {}", what)
                                        : fmt::format("the {} of context {} version {}",
                                                      what,
                                                      ReadBigEndian(row, 8),
                                                      ReadBigEndian(row.substr(8), 8));
}

struct Envelope {
  uint16_t version = 0;
  std::string_view body;
};

// Checks magic, version and checksum; returns what stands between them.
Result<Envelope> OpenEnvelope(std::string_view what,
                              std::string_view magic,
                              uint16_t newest_version,
                              std::string_view row,
                              std::string_view record) {
  if (record.size() < kMagicBytes + sizeof(newest_version) + kChecksumBytes ||
      !record.starts_with(magic)) {
    return Error{ErrorCode::kPageCorrupt,
                 Describe(what, row) + " is corrupt: it does not begin as one"};
  }
  uint16_t found = 0;
  std::memcpy(&found, record.data() + kMagicBytes, sizeof(found));
  if (found < 1 || found > newest_version) {
    return Error{ErrorCode::kVersionSkew,
                 fmt::format("{} has format version {}; this build reads versions 1 to {}",
                             Describe(what, row),
                             found,
                             newest_version)};
  }
  const std::string_view body = record.substr(0, record.size() - kChecksumBytes);
  uint64_t checksum = 0;
  std::memcpy(&checksum, record.data() + body.size(), sizeof(checksum));
  if (checksum != Hash64(body, Hash64(row))) {
    return Error{ErrorCode::kPageCorrupt,
                 Describe(what, row) + " is corrupt: its checksum does not match"};
  }
  return Envelope{found, body.substr(kMagicBytes + sizeof(found))};
}

void AppendFork(std::string& record, const ContextManifest& manifest) {
  Append(record, static_cast<uint16_t>(manifest.lineage.size()));
  for (const LineagePart& part : manifest.lineage) {
    Append(record, part.owner.value);
    Append(record, part.version);
    Append(record, part.end_page);
    Append(record, part.num_tokens);
    Append(record, part.text_bytes);
  }
  Append(record, manifest.tail.owner.value);
  Append(record, manifest.tail.version);
  AppendString(record, manifest.parent);
}

void ReadFork(FieldReader& reader, ContextManifest& manifest) {
  uint16_t num_parts = 0;
  reader.Read(num_parts);
  for (uint16_t i = 0; i < num_parts && reader.ok(); ++i) {
    LineagePart part;
    reader.Read(part.owner.value);
    reader.Read(part.version);
    reader.Read(part.end_page);
    reader.Read(part.num_tokens);
    reader.Read(part.text_bytes);
    manifest.lineage.push_back(part);
  }
  reader.Read(manifest.tail.owner.value);
  reader.Read(manifest.tail.version);
  reader.ReadString(manifest.parent);
}

// Parts follow one another and end within the context.
bool LineageFits(const ContextManifest& manifest) {
  LineagePart before;
  for (const LineagePart& part : manifest.lineage) {
    if (part.end_page < before.end_page || part.num_tokens < before.num_tokens ||
        part.text_bytes < before.text_bytes || part.owner.value == 0) {
      return false;
    }
    before = part;
  }
  return before.num_tokens <= manifest.num_tokens && before.text_bytes <= manifest.text_bytes &&
         before.end_page * manifest.policy.page_tokens <= manifest.num_tokens;
}

}  // namespace

std::string EncodeManifest(const ContextManifest& manifest) {
  std::string record(kManifestMagic);
  Append(record, kManifestFormatVersion);
  Append(record, manifest.id.value);
  Append(record, manifest.version);
  Append(record, manifest.num_tokens);
  Append(record, manifest.text_bytes);
  Append(record, manifest.text_hash);
  Append(record, manifest.model_hash);
  Append(record, manifest.tokenizer_hash);
  Append(record, manifest.created_unix_s);
  Append(record, manifest.updated_unix_s);
  Append(record, manifest.policy.page_tokens);
  Append(record, manifest.policy.sink_tokens);
  Append(record, manifest.policy.recent_window_tokens);
  AppendString(record, manifest.policy.codec);
  AppendString(record, manifest.policy.exact_codec);
  AppendString(record, manifest.name);
  Append(record, manifest.policy.keep);
  AppendString(record, manifest.policy.tokens);
  AppendString(record, manifest.policy.warm_codec);
  AppendString(record, manifest.policy.cold_codec);
  AppendFork(record, manifest);
  Append(record, static_cast<uint8_t>(manifest.attributes.pinned));
  Append(record, manifest.attributes.ttl_s);
  Append(record, manifest.attributes.last_used_unix_s);
  AppendChecksum(record, ManifestRowKey(manifest.id, manifest.version));
  return record;
}

Result<ContextManifest> DecodeManifest(std::string_view row, std::string_view record) {
  VARVE_TRY(const Envelope envelope,
            OpenEnvelope("manifest", kManifestMagic, kManifestFormatVersion, row, record));
  ContextManifest manifest;
  FieldReader reader(envelope.body);
  reader.Read(manifest.id.value);
  reader.Read(manifest.version);
  reader.Read(manifest.num_tokens);
  reader.Read(manifest.text_bytes);
  reader.Read(manifest.text_hash);
  reader.Read(manifest.model_hash);
  reader.Read(manifest.tokenizer_hash);
  reader.Read(manifest.created_unix_s);
  reader.Read(manifest.updated_unix_s);
  reader.Read(manifest.policy.page_tokens);
  reader.Read(manifest.policy.sink_tokens);
  reader.Read(manifest.policy.recent_window_tokens);
  reader.ReadString(manifest.policy.codec);
  reader.ReadString(manifest.policy.exact_codec);
  reader.ReadString(manifest.name);
  if (envelope.version >= 2) {
    reader.Read(manifest.policy.keep);
    reader.ReadString(manifest.policy.tokens);
  }
  if (envelope.version >= 3) {
    reader.ReadString(manifest.policy.warm_codec);
    reader.ReadString(manifest.policy.cold_codec);
  }
  if (envelope.version >= 4) {
    ReadFork(reader, manifest);
    uint8_t pinned = 0;
    reader.Read(pinned);
    manifest.attributes.pinned = pinned != 0;
    reader.Read(manifest.attributes.ttl_s);
    reader.Read(manifest.attributes.last_used_unix_s);
  } else {
    manifest.attributes.last_used_unix_s = manifest.updated_unix_s;
  }
  if (!reader.ok() || !reader.empty() || !LineageFits(manifest) ||
      ManifestRowKey(manifest.id, manifest.version) != row) {
    return Error{ErrorCode::kPageCorrupt,
                 Describe("manifest", row) + " is corrupt: its fields do not fit"};
  }
  return manifest;
}

std::string EncodeText(std::string_view row, std::string_view payload) {
  std::string record(kTextMagic);
  record.reserve(payload.size() + kMagicBytes + sizeof(kTextFormatVersion) + kChecksumBytes);
  Append(record, kTextFormatVersion);
  record.append(payload);
  AppendChecksum(record, row);
  return record;
}

Result<std::string_view> DecodeText(std::string_view row, std::string_view record) {
  VARVE_TRY(const Envelope envelope,
            OpenEnvelope("text", kTextMagic, kTextFormatVersion, row, record));
  return envelope.body;
}

}  // namespace varve
