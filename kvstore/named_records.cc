#include "kvstore/named_records.h"

#include <algorithm>

#include "kvstore/record_keys.h"

namespace varve {

NamedRecords::NamedRecords(std::span<const ContextManifest> manifests) {
  std::map<uint64_t, const ContextManifest*> newest;
  for (const ContextManifest& manifest : manifests) {
    newest[manifest.id.value] = &manifest;
    const TailRef tail = manifest.committed_tail();
    owners_[tail.owner.value].tail_versions.insert(tail.version);
  }
  for (const auto& [id, manifest] : newest) {
    Owner& own = owners_[id];
    own.is_live = true;
    own.end_page = std::max(own.end_page, manifest->sealed_pages());
    own.text_version = std::max(own.text_version, manifest->version);
    for (const LineagePart& part : manifest->lineage) {
      Owner& owner = owners_[part.owner.value];
      owner.end_page = std::max(owner.end_page, part.end_page);
      owner.text_version = std::max(owner.text_version, part.version);
    }
  }
}

const NamedRecords::Owner* NamedRecords::Find(std::string_view row) const {
  const auto found = owners_.find(ReadBigEndian(row, 8));
  return found == owners_.end() ? nullptr : &found->second;
}

bool NamedRecords::HasPage(std::string_view row) const {
  const Owner* owner = Find(row);
  const PageKey key = ParsePageRowKey(PageKey::Space::kContext, row);
  return owner != nullptr && static_cast<int64_t>(key.page) < owner->end_page;
}

bool NamedRecords::HasTail(std::string_view row) const {
  const Owner* owner = Find(row);
  return owner != nullptr && owner->tail_versions.contains(ReadBigEndian(row.substr(8), 8));
}

bool NamedRecords::HasText(std::string_view row) const {
  const Owner* owner = Find(row);
  return owner != nullptr && ReadBigEndian(row.substr(8), 8) <= owner->text_version;
}

bool NamedRecords::IsLive(ContextId context) const {
  const auto found = owners_.find(context.value);
  return found != owners_.end() && found->second.is_live;
}

}  // namespace varve
