#include "kvstore/record_keys.h"

#include <fmt/format.h>

#include "proto/base/check.h"

namespace varve {
namespace {

void AppendLayersAndPage(std::string& out, const PageKey& key) {
  AppendBigEndian(out, key.first_layer, 2);
  AppendBigEndian(out, key.last_layer, 2);
  AppendBigEndian(out, key.page, 8);
}

}  // namespace

void AppendBigEndian(std::string& out, uint64_t value, int num_bytes) {
  for (int shift = 8 * (num_bytes - 1); shift >= 0; shift -= 8) {
    out.push_back(static_cast<char>(value >> shift));
  }
}

uint64_t ReadBigEndian(std::string_view bytes, int num_bytes) {
  VARVE_CHECK(bytes.size() >= static_cast<size_t>(num_bytes));
  uint64_t value = 0;
  for (int i = 0; i < num_bytes; ++i) {
    value = value << 8 | static_cast<uint8_t>(bytes[static_cast<size_t>(i)]);
  }
  return value;
}

std::string PageRowKey(const PageKey& key) {
  std::string row;
  AppendBigEndian(row, key.owner, 8);
  AppendLayersAndPage(row, key);
  return row;
}

PageKey ParsePageRowKey(PageKey::Space space, std::string_view row) {
  VARVE_CHECK(row.size() == kPageKeyBytes);
  return PageKey{space,
                 ReadBigEndian(row, 8),
                 static_cast<uint16_t>(ReadBigEndian(row.substr(8), 2)),
                 static_cast<uint16_t>(ReadBigEndian(row.substr(10), 2)),
                 ReadBigEndian(row.substr(12), 8)};
}

std::string TailRowKey(uint64_t version, const PageKey& key) {
  std::string row;
  AppendBigEndian(row, key.owner, 8);
  AppendBigEndian(row, version, 8);
  AppendLayersAndPage(row, key);
  return row;
}

std::string ManifestRowKey(ContextId context, uint64_t version) {
  std::string row;
  AppendBigEndian(row, context.value, 8);
  AppendBigEndian(row, version, 8);
  return row;
}

std::string TextRowKey(ContextId context, uint64_t version, TextKind kind) {
  std::string row = ManifestRowKey(context, version);
  row.push_back(static_cast<char>(kind));
  return row;
}

std::string OwnerPrefix(uint64_t owner) {
  std::string row;
  AppendBigEndian(row, owner, 8);
  return row;
}

std::string DescribeKey(const PageKey& key) {
  return fmt::format("{} {} layer {} page {}",
                     key.space == PageKey::Space::kContext ? "context" : "sequence",
                     key.owner,
                     key.first_layer,
                     key.page);
}

std::string KeyBytes(const PageKey& key) {
  std::string bytes(1, static_cast<char>(key.space));
  return bytes + PageRowKey(key);
}

}  // namespace varve
