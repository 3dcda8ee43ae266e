#include "kvstore/context_file.h"

#include <cstring>

#include <fmt/format.h>

#include "kvstore/context_format.h"
#include "proto/base/hash.h"

namespace varve {
namespace {

constexpr std::string_view kMagic = "VARVFILE";
constexpr size_t kHeaderBytes = 16;       // magic 8, version 2, zero 6
constexpr size_t kBlockHeaderBytes = 16;  // kind 4, zero 4, payload bytes 8
constexpr size_t kChecksumBytes = 8;

template <typename T>
void Append(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

template <typename T>
T ReadAt(std::string_view bytes, size_t at) {
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof(value));
  return value;
}

Error Corrupt(std::string_view what) {
  return Error{ErrorCode::kPageCorrupt, fmt::format("the context file is damaged: {}", what)};
}

}  // namespace

std::string ContextFileWriter::Begin() {
  std::string header(kMagic);
  Append(header, kContextFileVersion);
  header.resize(kHeaderBytes, '\0');
  chain_ = Hash64(header);
  num_bytes_ = header.size();
  return header;
}

std::string ContextFileWriter::Block(FileBlock kind, std::string_view payload) {
  std::string block;
  block.reserve(kBlockHeaderBytes + payload.size() + kChecksumBytes);
  Append(block, static_cast<uint32_t>(kind));
  Append(block, uint32_t{0});
  Append(block, static_cast<uint64_t>(payload.size()));
  block.append(payload);
  chain_ = Hash64(block, chain_);
  Append(block, chain_);
  ++num_blocks_;
  num_bytes_ += block.size();
  return block;
}

std::string ContextFileWriter::End() {
  std::string payload;
  Append(payload, num_blocks_);
  Append(payload, num_bytes_);
  return Block(FileBlock::kEnd, payload);
}

Result<void> ContextFileReader::ReadHeader(std::string_view header) {
  if (!header.starts_with(kMagic)) {
    return Error{ErrorCode::kInvalidArgument, "this is not a context file"};
  }
  const auto version = ReadAt<uint16_t>(header, kMagic.size());
  if (version != kContextFileVersion) {
    return Error{ErrorCode::kVersionSkew,
                 fmt::format("the context file has format version {}; this build reads version {}",
                             version,
                             kContextFileVersion)};
  }
  chain_ = Hash64(header.substr(0, kHeaderBytes));
  num_bytes_ = kHeaderBytes;
  return {};
}

Result<void> ContextFileReader::Read(std::string_view bytes) {
  held_.append(bytes);
  std::string_view rest = held_;
  if (num_bytes_ == 0) {
    if (rest.size() < kHeaderBytes) {
      return {};
    }
    VARVE_RETURN_IF_ERROR(ReadHeader(rest));
    rest.remove_prefix(kHeaderBytes);
  }
  for (bool whole = true; whole;) {
    VARVE_TRY(whole, ReadBlock(rest));
  }
  held_.erase(0, held_.size() - rest.size());
  return {};
}

Result<bool> ContextFileReader::ReadBlock(std::string_view& bytes) {
  if (at_end_ && !bytes.empty()) {
    return Corrupt("there are bytes behind its end");
  }
  if (bytes.size() < kBlockHeaderBytes) {
    return false;
  }
  const auto kind = ReadAt<uint32_t>(bytes, 0);
  const auto payload_bytes = ReadAt<uint64_t>(bytes, 8);
  if (kind < static_cast<uint32_t>(FileBlock::kManifest) ||
      kind > static_cast<uint32_t>(FileBlock::kEnd) || ReadAt<uint32_t>(bytes, 4) != 0 ||
      payload_bytes > kContextFileBlockBytesMax) {
    return Corrupt(fmt::format("at byte {} there is no block", num_bytes_));
  }
  const auto body_bytes = kBlockHeaderBytes + static_cast<size_t>(payload_bytes);
  if (bytes.size() < body_bytes + kChecksumBytes) {
    return false;
  }
  const uint64_t chain = Hash64(bytes.substr(0, body_bytes), chain_);
  if (chain != ReadAt<uint64_t>(bytes, body_bytes)) {
    return Corrupt(fmt::format("the checksum of the block at byte {} does not match", num_bytes_));
  }
  const std::string_view payload = bytes.substr(kBlockHeaderBytes, payload_bytes);
  if (kind == static_cast<uint32_t>(FileBlock::kEnd)) {
    if (payload.size() != 16 || ReadAt<uint64_t>(payload, 0) != num_blocks_ ||
        ReadAt<uint64_t>(payload, 8) != num_bytes_) {
      return Corrupt("its end does not tell of what comes before");
    }
    at_end_ = true;
  } else {
    VARVE_RETURN_IF_ERROR(on_block_(static_cast<FileBlock>(kind), payload));
  }
  chain_ = chain;
  ++num_blocks_;
  num_bytes_ += body_bytes + kChecksumBytes;
  bytes.remove_prefix(body_bytes + kChecksumBytes);
  return true;
}

std::string ManifestPayload(const ContextManifest& manifest) {
  return ManifestRowKey(manifest.id, manifest.version) + EncodeManifest(manifest);
}

Result<ContextManifest> ParseManifestPayload(std::string_view payload) {
  if (payload.size() < kManifestKeyBytes) {
    return Corrupt("its manifest is too short");
  }
  return DecodeManifest(payload.substr(0, kManifestKeyBytes), payload.substr(kManifestKeyBytes));
}

}  // namespace varve
