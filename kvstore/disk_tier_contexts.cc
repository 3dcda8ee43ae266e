#include <algorithm>
#include <cstring>
#include <set>

#include <fmt/format.h>
#include <rocksdb/write_batch.h>

#include "kvstore/context_format.h"
#include "kvstore/disk_tier_rocks.h"

namespace varve {
namespace {

// The first key behind every key that begins with `prefix`.
std::string PrefixEnd(std::string prefix) {
  while (!prefix.empty()) {
    if (static_cast<uint8_t>(prefix.back()) != 0xff) {
      prefix.back() = static_cast<char>(static_cast<uint8_t>(prefix.back()) + 1);
      return prefix;
    }
    prefix.pop_back();
  }
  return prefix;
}

}  // namespace

Result<void> RocksDiskTier::CommitManifest(const ContextManifest& manifest,
                                           const ContextAppend& append) {
  // 1. Text and token ids of this commit, without a log, like the pages before them.
  const std::string text_row = TextRowKey(manifest.id, manifest.version, TextKind::kText);
  const std::string token_row = TextRowKey(manifest.id, manifest.version, TextKind::kTokens);
  const std::string text = EncodeText(text_row, append.text);
  const std::string tokens = EncodeText(token_row,
                                        {reinterpret_cast<const char*>(append.tokens.data()),
                                         append.tokens.size() * sizeof(int32_t)});
  const Row rows[] = {{Table::kText, text_row, std::as_bytes(std::span(text))},
                      {Table::kText, token_row, std::as_bytes(std::span(tokens))}};
  VARVE_RETURN_IF_ERROR(PutRows(rows));
  // 2. Everything that the manifest will name becomes durable.
  VARVE_RETURN_IF_ERROR(Flush());
  // 3. The commit point.
  return WriteManifest(manifest);
}

Result<void> RocksDiskTier::PutAppend(ContextId context,
                                      uint64_t version,
                                      const ContextAppend& append) {
  const std::string_view tokens(reinterpret_cast<const char*>(append.tokens.data()),
                                append.tokens.size() * sizeof(int32_t));
  for (const auto& [kind, payload] : {std::pair(TextKind::kText, std::string_view(append.text)),
                                      std::pair(TextKind::kTokens, tokens)}) {
    if (!payload.empty()) {
      const std::string row = TextRowKey(context, version, kind);
      const std::string record = EncodeText(row, payload);
      const Row one{Table::kText, row, std::as_bytes(std::span(record))};
      VARVE_RETURN_IF_ERROR(PutRows({&one, 1}));
    }
  }
  return {};
}

Result<void> RocksDiskTier::WriteManifest(const ContextManifest& manifest) {
  rocksdb::WriteBatch batch;
  const std::string record = EncodeManifest(manifest);
  batch.Put(handle(Table::kManifests), ManifestRowKey(manifest.id, manifest.version), record)
      .PermitUncheckedError();
  const rocksdb::Status status = Write(batch, true);
  return status.ok() ? Result<void>() : WriteError(status, "write a manifest");
}

Result<std::vector<ContextManifest>> RocksDiskTier::AllManifests() const {
  const std::unique_ptr<rocksdb::Iterator> rows(
      db_->NewIterator(rocksdb::ReadOptions(), handle(Table::kManifests)));
  std::vector<ContextManifest> manifests;
  for (rows->SeekToFirst(); rows->Valid(); rows->Next()) {
    auto manifest = DecodeManifest(ToView(rows->key()), ToView(rows->value()));
    if (!manifest) {
      return Error{manifest.error().code, options_.directory + ": " + manifest.error().message};
    }
    manifests.push_back(std::move(manifest).value());
  }
  if (!rows->status().ok()) {
    return ReadError(rows->status(), "list the manifests");
  }
  return manifests;
}

Result<std::vector<ContextManifest>> RocksDiskTier::ListManifests() {
  VARVE_TRY(const auto all, AllManifests());
  std::vector<ContextManifest> newest;
  for (const ContextManifest& manifest : all) {
    if (!newest.empty() && newest.back().id == manifest.id) {
      newest.back() = manifest;
    } else {
      newest.push_back(manifest);
    }
  }
  return newest;
}

Result<ContextManifest> RocksDiskTier::NewestManifest(ContextId context) const {
  VARVE_TRY(const auto all, AllManifests());
  const auto found = std::find_if(
      all.rbegin(), all.rend(), [&](const auto& manifest) { return manifest.id == context; });
  if (found == all.rend()) {
    return Error{ErrorCode::kNotFound, fmt::format("context {} has no manifest", context.value)};
  }
  return *found;
}

Result<std::string> RocksDiskTier::ReadOwnTexts(ContextId owner, uint64_t version, TextKind kind) {
  VARVE_TRY(const auto rows, ListRows(Table::kText, OwnerPrefix(owner.value)));
  std::vector<std::string> keys;
  for (const auto& [row, bytes] : rows) {
    if (row.back() == static_cast<char>(kind) &&
        ReadBigEndian(std::string_view(row).substr(8), 8) <= version) {
      keys.push_back(row);
    }
  }
  VARVE_TRY(const Records records, GetRecords(Table::kText, keys).get());
  std::string whole;
  for (size_t i = 0; i < records.size(); ++i) {
    VARVE_TRY(
        const std::string_view part,
        DecodeText(keys[i], {reinterpret_cast<const char*>(records[i].data()), records[i].size()}));
    whole.append(part);
  }
  return whole;
}

Result<std::string> RocksDiskTier::ReadTexts(ContextId context, TextKind kind) {
  VARVE_TRY(const ContextManifest manifest, NewestManifest(context));
  const auto bytes_of = [kind](int64_t num_tokens, uint64_t text_bytes) {
    return kind == TextKind::kText ? text_bytes
                                   : static_cast<uint64_t>(num_tokens) * sizeof(int32_t);
  };
  std::vector<LineagePart> parts = manifest.lineage;
  parts.push_back({manifest.id, manifest.version, 0, manifest.num_tokens, manifest.text_bytes});
  std::string whole;
  for (const LineagePart& part : parts) {
    const uint64_t end = bytes_of(part.num_tokens, part.text_bytes);
    if (whole.size() == end) {
      continue;
    }
    VARVE_TRY(std::string own, ReadOwnTexts(part.owner, part.version, kind));
    const uint64_t expected = end - whole.size();
    const bool may_be_cut = part.owner != manifest.id;
    if (own.size() < expected || (own.size() > expected && !may_be_cut)) {
      return Error{ErrorCode::kPageMissing,
                   fmt::format("{}: the {} of context {} have {} bytes; its manifest names {}",
                               options_.directory,
                               kind == TextKind::kText ? "text records" : "token records",
                               part.owner.value,
                               own.size(),
                               expected)};
    }
    own.resize(expected);
    whole = whole.empty() ? std::move(own) : whole + own;
  }
  return whole;
}

Result<std::string> RocksDiskTier::ReadText(ContextId context) {
  return ReadTexts(context, TextKind::kText);
}

Result<std::vector<int32_t>> RocksDiskTier::ReadTokens(ContextId context) {
  VARVE_TRY(const std::string bytes, ReadTexts(context, TextKind::kTokens));
  std::vector<int32_t> tokens(bytes.size() / sizeof(int32_t));
  std::memcpy(tokens.data(), bytes.data(), bytes.size());
  return tokens;
}

Result<void> RocksDiskTier::DropOlderVersions(ContextId context,
                                              uint64_t version,
                                              std::span<const uint64_t> kept_tails) {
  const std::lock_guard lock(mutex_);
  VARVE_TRY(const auto tails, ListRows(Table::kTails, OwnerPrefix(context.value)));
  std::vector<Row> old;
  for (const auto& [row, bytes] : tails) {
    const uint64_t found = ReadBigEndian(std::string_view(row).substr(8), 8);
    if (found < version &&
        std::find(kept_tails.begin(), kept_tails.end(), found) == kept_tails.end()) {
      old.push_back({Table::kTails, row, {}});
    }
  }
  rocksdb::WriteBatch batch;
  batch
      .DeleteRange(
          handle(Table::kManifests), ManifestRowKey(context, 0), ManifestRowKey(context, version))
      .PermitUncheckedError();
  if (const rocksdb::Status status = Write(batch, false); !status.ok()) {
    return WriteError(status, "drop old versions");
  }
  return DeleteRowsLocked(old);
}

bool RocksDiskTier::IsNamed(const NamedRecords& named, Table table, std::string_view row) {
  switch (table) {
    case Table::kPages:
      return named.HasPage(row);
    case Table::kTails:
      return named.HasTail(row);
    case Table::kText:
      return named.HasText(row);
    default:
      return false;
  }
}

Result<void> RocksDiskTier::DeleteUnnamedLocked(const NamedRecords& named, ContextId owner) {
  for (const Table table : {Table::kPages, Table::kTails, Table::kText}) {
    VARVE_TRY(const auto rows, ListRows(table, OwnerPrefix(owner.value)));
    std::vector<Row> unnamed;
    for (const auto& [row, bytes] : rows) {
      if (!IsNamed(named, table, row)) {
        unnamed.push_back({table, row, {}});
      }
    }
    VARVE_RETURN_IF_ERROR(DeleteRowsLocked(unnamed));
  }
  return {};
}

Result<void> RocksDiskTier::DeleteContext(ContextId context) {
  const std::string prefix = OwnerPrefix(context.value);
  const std::lock_guard lock(mutex_);
  VARVE_TRY(const auto before, AllManifests());
  // 1. The manifest, durably: from here on the context does not exist.
  rocksdb::WriteBatch commit;
  commit.DeleteRange(handle(Table::kManifests), prefix, PrefixEnd(prefix)).PermitUncheckedError();
  if (const rocksdb::Status status = Write(commit, true); !status.ok()) {
    return WriteError(status, "delete a manifest");
  }
  // 2. The rest; what a crash leaves of it is deleted at the next start. A live owner keeps all it
  // has: its ingest may have sealed pages that no manifest names yet.
  std::set<ContextId> owners = {context};
  std::vector<ContextManifest> left;
  for (const ContextManifest& manifest : before) {
    if (manifest.id != context) {
      left.push_back(manifest);
      continue;
    }
    for (const LineagePart& part : manifest.lineage) {
      owners.insert(part.owner);
    }
    owners.insert(manifest.committed_tail().owner);
  }
  const NamedRecords named(left);
  for (const ContextId owner : owners) {
    if (!named.IsLive(owner)) {
      VARVE_RETURN_IF_ERROR(DeleteUnnamedLocked(named, owner));
    }
  }
  return {};
}

Result<void> RocksDiskTier::DeleteScratch(SequenceId sequence) {
  const std::lock_guard lock(mutex_);
  VARVE_TRY(const auto rows, ListRows(Table::kScratch, OwnerPrefix(sequence.value)));
  std::vector<Row> all;
  for (const auto& [row, bytes] : rows) {
    all.push_back({Table::kScratch, row, {}});
  }
  return DeleteRowsLocked(all);
}

}  // namespace varve
