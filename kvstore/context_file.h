// A context as one file: what `varve contexts export` writes. FORMAT.md describes it byte by byte.
// A header, then blocks, each with a checksum that also covers all bytes before it; the last one
// says how many there were. So a file that is cut, damaged, or put together from two is refused.
//
// Writer and reader know blocks, not what is in them: worker/context_transfer.h does.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "proto/base/result.h"
#include "proto/context_manifest.h"

namespace varve {

inline constexpr uint16_t kContextFileVersion = 1;
// Of a block. Text and token ids are cut into blocks of kContextFilePieceBytes.
inline constexpr uint64_t kContextFileBlockBytesMax = uint64_t{64} << 20;
inline constexpr size_t kContextFilePieceBytes = size_t{1} << 20;

// Embedded in files: do not change or reuse a value.
enum class FileBlock : uint32_t {
  kManifest = 1,  // its key 16, then the manifest record; once, first
  kText = 2,      // UTF-8, the next piece
  kTokens = 3,    // int32 each, the next piece
  kPage = 4,      // its key 20, then the page record
  kTail = 5,      // its key 28, then the page record
  kEnd = 6,       // number of blocks before, number of bytes before; 8 each
};

class ContextFileWriter {
 public:
  // The bytes that begin a file.
  std::string Begin();
  std::string Block(FileBlock kind, std::string_view payload);
  std::string End();

 private:
  uint64_t chain_ = 0;
  uint64_t num_blocks_ = 0;
  uint64_t num_bytes_ = 0;
};

class ContextFileReader {
 public:
  using OnBlock = std::function<Result<void>(FileBlock kind, std::string_view payload)>;

  // on_block is called for each whole block whose checksum is right, except the last one.
  explicit ContextFileReader(OnBlock on_block) : on_block_(std::move(on_block)) {}

  // The next bytes of the file, as they come. After an error no more may follow. Errors:
  // kPageCorrupt (damage, or bytes behind the end), kVersionSkew, and those of on_block.
  Result<void> Read(std::string_view bytes);
  // The last block was read.
  bool at_end() const { return at_end_; }
  uint64_t num_bytes() const { return num_bytes_; }

 private:
  Result<void> ReadHeader(std::string_view header);
  // Whether there was a whole block in `bytes`, which then begins behind it.
  Result<bool> ReadBlock(std::string_view& bytes);

  OnBlock on_block_;
  std::string held_;  // of a block that is not whole
  uint64_t chain_ = 0;
  uint64_t num_blocks_ = 0;
  uint64_t num_bytes_ = 0;  // of whole blocks
  bool at_end_ = false;
};

// The first block's payload, and back. Errors: those of DecodeManifest.
std::string ManifestPayload(const ContextManifest& manifest);
Result<ContextManifest> ParseManifestPayload(std::string_view payload);

}  // namespace varve
