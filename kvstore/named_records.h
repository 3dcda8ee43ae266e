// Which records of the disk tier some manifest names. What none names does not exist: it is garbage
// of a crash, or of a deleted context, and may be deleted. Pages that a sliding window no longer
// reaches count as named here; the stores, which know the windows, delete them.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <span>
#include <string_view>

#include "proto/context_manifest.h"

namespace varve {

class NamedRecords {
 public:
  // All manifests there are, of every context in ascending order of version: the newest one names
  // pages and text; each names the tail of its version.
  explicit NamedRecords(std::span<const ContextManifest> manifests);

  // `row`: the record's key in its column family.
  bool HasPage(std::string_view row) const;
  bool HasTail(std::string_view row) const;
  bool HasText(std::string_view row) const;
  // Whether there is a manifest of the context itself.
  bool IsLive(ContextId context) const;

 private:
  // Under one context's id.
  struct Owner {
    bool is_live = false;
    int64_t end_page = 0;
    uint64_t text_version = 0;
    std::set<uint64_t> tail_versions;
  };
  const Owner* Find(std::string_view row) const;

  std::map<uint64_t, Owner> owners_;
};

}  // namespace varve
