#include <algorithm>
#include <cstring>

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

Result<std::string> RocksDiskTier::ReadTexts(ContextId context, TextKind kind) {
  VARVE_TRY(const ContextManifest manifest, NewestManifest(context));
  VARVE_TRY(const auto rows, ListRows(Table::kText, OwnerPrefix(context.value)));
  std::vector<std::string> keys;
  for (const auto& [row, bytes] : rows) {
    if (row.back() == static_cast<char>(kind) &&
        ReadBigEndian(std::string_view(row).substr(8), 8) <= manifest.version) {
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
  const uint64_t expected = kind == TextKind::kText
                                ? manifest.text_bytes
                                : static_cast<uint64_t>(manifest.num_tokens) * sizeof(int32_t);
  if (whole.size() != expected) {
    return Error{ErrorCode::kPageMissing,
                 fmt::format("{}: the {} of context {} have {} bytes; its manifest names {}",
                             options_.directory,
                             kind == TextKind::kText ? "text records" : "token records",
                             context.value,
                             whole.size(),
                             expected)};
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

Result<void> RocksDiskTier::DropOlderVersions(ContextId context, uint64_t version) {
  const std::lock_guard lock(mutex_);
  VARVE_TRY(const auto tails, ListRows(Table::kTails, OwnerPrefix(context.value)));
  std::vector<Row> old;
  for (const auto& [row, bytes] : tails) {
    if (ReadBigEndian(std::string_view(row).substr(8), 8) < version) {
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

Result<void> RocksDiskTier::DeleteContext(ContextId context) {
  const std::string prefix = OwnerPrefix(context.value);
  const std::string end = PrefixEnd(prefix);
  const std::lock_guard lock(mutex_);
  // 1. The manifest, durably: from here on the context does not exist.
  rocksdb::WriteBatch commit;
  commit.DeleteRange(handle(Table::kManifests), prefix, end).PermitUncheckedError();
  if (const rocksdb::Status status = Write(commit, true); !status.ok()) {
    return WriteError(status, "delete a manifest");
  }
  // 2. The rest; what a crash leaves of it is deleted at the next start.
  for (const Table table : {Table::kPages, Table::kTails, Table::kText}) {
    VARVE_TRY(const auto rows, ListRows(table, prefix));
    std::vector<Row> all;
    for (const auto& [row, bytes] : rows) {
      all.push_back({table, row, {}});
    }
    VARVE_RETURN_IF_ERROR(DeleteRowsLocked(all));
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
