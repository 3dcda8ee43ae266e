#include "kvstore/page_coverage.h"

#include <vector>

namespace varve {
namespace {

bool IsWhole(const PageRecord& record) {
  int32_t covered = 0;
  for (const PageRun& run : record.runs) {
    covered = run.first_token == covered ? covered + run.num_tokens : -1;
  }
  return covered == record.identity.num_tokens;
}

bool HasATokenTwice(const PageRecord& record, size_t head) {
  std::vector<bool> seen(static_cast<size_t>(record.identity.num_tokens));
  for (const PageRun& run : record.runs) {
    const auto num_tokens = static_cast<size_t>(run.num_tokens);
    for (size_t i = 0; i < num_tokens; ++i) {
      const auto offset = run.token_indices == nullptr
                              ? i
                              : static_cast<size_t>(run.token_indices[head * num_tokens + i]);
      const size_t token = static_cast<size_t>(run.first_token) + offset;
      if (seen[token]) {
        return true;
      }
      seen[token] = true;
    }
  }
  return false;
}

}  // namespace

std::string_view CoverageFault(const PageRecord& record) {
  if (record.identity.key.first_layer != record.identity.key.last_layer) {
    return {};
  }
  if (!record.is_pruned) {
    return IsWhole(record) ? std::string_view() : "its runs do not cover its tokens";
  }
  for (size_t head = 0; head < static_cast<size_t>(record.identity.num_kv_heads); ++head) {
    if (HasATokenTwice(record, head)) {
      return "a head has a token twice";
    }
  }
  return {};
}

}  // namespace varve
