#include "proto/context_manifest.h"

#include <algorithm>

#include <fmt/format.h>

namespace varve {

int64_t ContextManifest::sealed_pages() const {
  const int64_t old_tokens = std::max<int64_t>(0, num_tokens - policy.recent_window_tokens);
  return std::max(shared_pages(), old_tokens / policy.page_tokens);
}

Result<ContextManifest> ForkOf(const ContextManifest& source, const ForkOptions& options) {
  ContextManifest fork = source;
  fork.tail = source.committed_tail();
  const bool has_own = source.lineage.empty() || source.tail.owner.value == 0;
  if (has_own) {
    if (source.lineage.size() >= kLineagePartsMax) {
      return Error{ErrorCode::kResourceExhausted,
                   fmt::format("context '{}' is a fork of forks, {} deep, the limit",
                               source.name,
                               kLineagePartsMax)};
    }
    fork.lineage.push_back({.owner = source.id,
                            .version = source.version,
                            .end_page = source.sealed_pages(),
                            .num_tokens = source.num_tokens,
                            .text_bytes = source.text_bytes});
  }
  fork.id = options.id;
  fork.name = options.name;
  fork.version = 1;
  fork.parent = source.name;
  fork.created_unix_s = fork.updated_unix_s = options.created_unix_s;
  fork.attributes = {.last_used_unix_s = options.created_unix_s};
  return fork;
}

}  // namespace varve
