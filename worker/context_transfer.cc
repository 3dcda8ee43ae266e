#include "worker/context_transfer.h"

#include <algorithm>
#include <cstring>
#include <span>

#include <fmt/format.h>

#include "kvstore/page_format.h"
#include "proto/base/log.h"

namespace varve {
namespace {

// Records read or written at a time.
constexpr size_t kBatchRecords = 16;
constexpr uint64_t kBatchBytes = uint64_t{4} << 20;

Error Damaged(std::string_view what) {
  return Error{ErrorCode::kPageCorrupt, fmt::format("the context file is damaged: {}", what)};
}

std::string_view ToView(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// A context's manifest without its lineage: what the file says.
ContextManifest Flattened(const ContextManifest& manifest) {
  ContextManifest flat = manifest;
  flat.lineage.clear();
  flat.tail = {};
  return flat;
}

}  // namespace

ContextExporter::ContextExporter(const ContextManifest& manifest,
                                 const KvGeometry& geometry,
                                 DiskTier* disk)
    : manifest_(manifest), geometry_(geometry), disk_(disk), records_(manifest_, geometry_) {}

Result<std::string> ContextExporter::Next() {
  switch (stage_) {
    case FileBlock::kManifest: {
      std::string bytes = writer_.Begin();
      bytes += writer_.Block(FileBlock::kManifest, ManifestPayload(Flattened(manifest_)));
      VARVE_TRY(content_, disk_->ReadText(manifest_.id));
      stage_ = FileBlock::kText;
      return bytes;
    }
    case FileBlock::kText: {
      if (content_offset_ < content_.size()) {
        return NextText(FileBlock::kText, content_);
      }
      VARVE_TRY(const std::vector<int32_t> tokens, disk_->ReadTokens(manifest_.id));
      content_.assign(reinterpret_cast<const char*>(tokens.data()),
                      tokens.size() * sizeof(int32_t));
      content_offset_ = 0;
      stage_ = FileBlock::kTokens;
      return Next();
    }
    case FileBlock::kTokens:
      if (content_offset_ < content_.size()) {
        return NextText(FileBlock::kTokens, content_);
      }
      content_ = {};
      stage_ = FileBlock::kPage;
      return NextRecords();
    default:
      return ended_ ? Result<std::string>(std::string()) : NextRecords();
  }
}

Result<std::string> ContextExporter::NextText(FileBlock kind, std::string_view whole) {
  const std::string_view piece = whole.substr(content_offset_, kContextFilePieceBytes);
  content_offset_ += piece.size();
  return writer_.Block(kind, piece);
}

Result<std::string> ContextExporter::NextRecords() {
  std::vector<ContextRecords::Record> batch;
  std::vector<PageKey> keys;
  std::optional<ContextRecords::Record> record;
  // Tails are read apart from sealed pages.
  while (batch.size() < kBatchRecords && (record = records_.Next())) {
    const bool same_kind = batch.empty() || batch.back().identity.kind == record->identity.kind;
    batch.push_back(*record);
    if (!same_kind) {
      break;
    }
    keys.push_back(record->id.key);
  }
  if (batch.empty()) {
    ended_ = true;
    return writer_.End();
  }
  const auto read = [&](const ContextRecords::Record& first, std::vector<PageKey> wanted) {
    return first.identity.kind == RecordKind::kTail
               ? disk_->GetTailPages(first.id.tail_version, std::move(wanted)).get()
               : disk_->GetPages(std::move(wanted)).get();
  };
  VARVE_TRY(auto bytes, read(batch.front(), keys));
  if (bytes.size() < batch.size()) {
    VARVE_TRY(auto last, read(batch.back(), {batch.back().id.key}));
    bytes.push_back(std::move(last.at(0)));
  }
  std::string out;
  for (size_t i = 0; i < batch.size(); ++i) {
    const PageIdentity& identity = batch[i].identity;
    if (bytes[i].empty()) {
      return Error{ErrorCode::kPageMissing,
                   DescribeKey(identity.key) + " is not there, although its context names it"};
    }
    VARVE_RETURN_IF_ERROR(ParsePageRecord(bytes[i], identity));
    const bool is_tail = identity.kind == RecordKind::kTail;
    PageKey key = identity.key;
    key.owner = manifest_.id.value;
    RebindRecord(key, is_tail ? manifest_.version : 0, bytes[i]);
    std::string payload = is_tail ? TailRowKey(manifest_.version, key) : PageRowKey(key);
    payload.append(ToView(bytes[i]));
    out += writer_.Block(is_tail ? FileBlock::kTail : FileBlock::kPage, payload);
  }
  return out;
}

ContextImporter::ContextImporter(const ImportOptions& options,
                                 int32_t vocab_size,
                                 const KvGeometry& geometry,
                                 DiskTier* disk,
                                 ImportHooks hooks)
    : options_(options),
      vocab_size_(vocab_size),
      geometry_(geometry),
      disk_(disk),
      hooks_(std::move(hooks)),
      reader_([this](FileBlock kind, std::string_view payload) { return OnBlock(kind, payload); }) {
}

ContextImporter::~ContextImporter() {
  if (!finished_) {
    if (const Result<void> deleted = disk_->DeleteContext(options_.id); !deleted) {
      SPDLOG_WARN("what was imported in vain stays until the next start: {}",
                  deleted.error().ToString());
    }
  }
}

Result<void> ContextImporter::Write(std::string_view bytes) {
  return reader_.Read(bytes);
}

Result<void> ContextImporter::OnBlock(FileBlock kind, std::string_view payload) {
  const bool first = reader_.num_bytes() <= 16;
  if ((kind == FileBlock::kManifest) != first || kind < stage_) {
    return Damaged("its blocks are not in their order");
  }
  stage_ = kind;
  switch (kind) {
    case FileBlock::kManifest:
      return TakeManifest(payload);
    case FileBlock::kText:
      return TakeText(payload);
    case FileBlock::kTokens:
      return TakeTokens(payload);
    default:
      return TakeRecord(kind, payload);
  }
}

Result<void> ContextImporter::TakeManifest(std::string_view payload) {
  VARVE_TRY(source_, ParseManifestPayload(payload));
  if (!source_.lineage.empty() || source_.tail.owner.value != 0) {
    return Damaged("its manifest is that of a fork");
  }
  if (source_.tokenizer_hash != options_.tokenizer_hash) {
    return Error{ErrorCode::kModelMismatch,
                 fmt::format("context '{}' was made with the tokenizer {}, this server has {}",
                             source_.name,
                             HashToHex(source_.tokenizer_hash),
                             HashToHex(options_.tokenizer_hash))};
  }
  VARVE_RETURN_IF_ERROR(hooks_.check(source_));
  manifest_ = source_;
  manifest_.id = options_.id;
  manifest_.name = options_.name;
  manifest_.parent.clear();
  manifest_.created_unix_s = manifest_.updated_unix_s = options_.now_unix_s;
  manifest_.attributes = {.last_used_unix_s = options_.now_unix_s};
  records_.emplace(source_, geometry_);
  return {};
}

Result<void> ContextImporter::TakeText(std::string_view payload) {
  text_bytes_ += payload.size();
  text_hasher_.Update(payload);
  return disk_->PutAppend(options_.id, ++num_text_pieces_, {.text = std::string(payload)});
}

Result<void> ContextImporter::TakeTokens(std::string_view payload) {
  std::vector<int32_t> tokens(payload.size() / sizeof(int32_t));
  std::memcpy(tokens.data(), payload.data(), tokens.size() * sizeof(int32_t));
  const bool known = std::all_of(tokens.begin(), tokens.end(), [this](int32_t token) {
    return token >= 0 && token < vocab_size_;
  });
  if (!known || payload.size() % sizeof(int32_t) != 0) {
    return Damaged("its tokens are not the model's");
  }
  num_tokens_ += std::ssize(tokens);
  return disk_->PutAppend(options_.id, ++num_token_pieces_, {.tokens = std::move(tokens)});
}

Result<void> ContextImporter::TakeRecord(FileBlock kind, std::string_view payload) {
  const auto expected = records_->Next();
  const bool is_tail = kind == FileBlock::kTail;
  const size_t key_bytes = is_tail ? kTailKeyBytes : kPageKeyBytes;
  if (!expected || (expected->identity.kind == RecordKind::kTail) != is_tail ||
      payload.size() < key_bytes ||
      payload.substr(0, key_bytes) != (is_tail
                                           ? TailRowKey(expected->id.tail_version, expected->id.key)
                                           : PageRowKey(expected->id.key))) {
    return Damaged("its pages are not those that its manifest names");
  }
  const auto* begin = reinterpret_cast<const std::byte*>(payload.data());
  std::vector<std::byte> record(begin + key_bytes, begin + payload.size());
  VARVE_TRY(const PageRecord parsed, ParsePageRecord(record, expected->identity));
  VARVE_RETURN_IF_ERROR(hooks_.check_record(parsed));
  ++num_records_;
  // Above the versions of its text, so that its manifest names them all.
  manifest_.version = std::max(num_text_pieces_, num_token_pieces_) + 1;
  PageKey key = expected->id.key;
  key.owner = options_.id.value;
  RebindRecord(key, is_tail ? manifest_.version : 0, record);
  if (is_tail) {
    VARVE_RETURN_IF_ERROR(FlushPages());
    return disk_->PutTail(options_.id, manifest_.version, key, record);
  }
  page_bytes_ += record.size();
  page_keys_.push_back(key);
  pages_.push_back(std::move(record));
  return page_bytes_ >= kBatchBytes ? FlushPages() : Result<void>();
}

Result<void> ContextImporter::FlushPages() {
  const std::vector<std::span<const std::byte>> records(pages_.begin(), pages_.end());
  VARVE_RETURN_IF_ERROR(disk_->PutPages(page_keys_, records));
  page_keys_.clear();
  pages_.clear();
  page_bytes_ = 0;
  return {};
}

Result<ContextManifest> ContextImporter::Finish() {
  if (!reader_.at_end()) {
    return Error{ErrorCode::kInvalidArgument,
                 fmt::format("the context file ends early, behind {} bytes", reader_.num_bytes())};
  }
  if (text_bytes_ != source_.text_bytes || text_hasher_.Digest() != source_.text_hash ||
      num_tokens_ != source_.num_tokens || num_records_ != records_->count()) {
    return Damaged("it does not hold what its manifest names");
  }
  VARVE_RETURN_IF_ERROR(FlushPages());
  manifest_.version = std::max(num_text_pieces_, num_token_pieces_) + 1;
  VARVE_RETURN_IF_ERROR(disk_->CommitManifest(manifest_, {}));
  VARVE_RETURN_IF_ERROR(hooks_.adopt(manifest_));
  finished_ = true;
  return manifest_;
}

}  // namespace varve
