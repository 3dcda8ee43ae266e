// The keys under which records are stored: big-endian fields, so that the order of the bytes is the
// order of the numbers and the pages of one layer of a context lie together. FORMAT.md lists them
// byte by byte.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "kvstore/disk_tier.h"
#include "proto/base/ids.h"

namespace varve {

// Appends `value` with its most significant byte first.
void AppendBigEndian(std::string& out, uint64_t value, int num_bytes);
// The number in the first num_bytes bytes. REQUIRES: bytes.size() >= num_bytes.
uint64_t ReadBigEndian(std::string_view bytes, int num_bytes);

inline constexpr size_t kPageKeyBytes = 20;  // owner 8, first layer 2, last layer 2, page 8
inline constexpr size_t kTailKeyBytes =
    28;  // context 8, version 8, first layer 2, last layer 2, page 8
inline constexpr size_t kManifestKeyBytes = 16;  // context 8, version 8
inline constexpr size_t kTextKeyBytes = 17;      // context 8, version 8, kind 1

// What a record costs on disk beside its bytes and is counted with it: its key, and its row of the
// index.
inline constexpr uint64_t kRecordRowBytes = kPageKeyBytes + (1 + kPageKeyBytes) + 4;

// Embedded on disk: do not change or reuse a value.
enum class TextKind : uint8_t { kText = 1, kTokens = 2 };

// A page's key within its column family, which says whether it is a context's page or scratch.
std::string PageRowKey(const PageKey& key);
PageKey ParsePageRowKey(PageKey::Space space, std::string_view row);
std::string TailRowKey(uint64_t version, const PageKey& key);
std::string ManifestRowKey(ContextId context, uint64_t version);
std::string TextRowKey(ContextId context, uint64_t version, TextKind kind);
// The first key of an owner in any column family, and of a version in those that have one.
std::string OwnerPrefix(uint64_t owner);

// "context 7 layer 3 page 12", for messages.
std::string DescribeKey(const PageKey& key);

// A page key with its space, as the checksum binds it: space 1, then PageRowKey.
std::string KeyBytes(const PageKey& key);

}  // namespace varve
