// What a context is, as coordinator and workers tell each other. The manifest is the durable truth
// about a context: what it does not name does not exist.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "proto/base/ids.h"
#include "proto/base/result.h"
#include "proto/kv_policy.h"

namespace varve {

// Of a context that began as a fork: what it reads under another context's id, which may be deleted
// meanwhile. Parts follow one another: each begins where the one before ends.
struct LineagePart {
  ContextId owner;
  uint64_t version = 0;     // its text and token records of versions up to this one
  int64_t end_page = 0;     // sealed pages up to here
  int64_t num_tokens = 0;   // token ids up to here
  uint64_t text_bytes = 0;  // text up to here

  bool operator==(const LineagePart&) const = default;
};

// The unsealed tail of a committed version, by the key under which it is stored.
struct TailRef {
  ContextId owner;
  uint64_t version = 0;

  auto operator<=>(const TailRef&) const = default;
};

// What can change without a commit.
struct ContextAttributes {
  bool pinned = false;           // is not demoted and does not expire
  int64_t ttl_s = 0;             // deleted when it was not used for so long; 0: never
  int64_t last_used_unix_s = 0;  // what is durable may lag behind by a sixteenth of ttl_s

  bool operator==(const ContextAttributes&) const = default;
};

struct ContextManifest {
  ContextId id;
  std::string name;  // unique among live contexts; [A-Za-z0-9._-], 1 to 128 characters
  uint64_t version =
      0;  // counts commits; the newest version that every worker has prepared is the truth
  int64_t num_tokens = 0;       // committed length, the BOS token included
  uint64_t text_bytes = 0;      // committed length of the ingested text
  uint64_t text_hash = 0;       // Hash64 of the first text_bytes bytes of the text
  uint64_t model_hash = 0;      // of the model that computed the KV
  uint64_t tokenizer_hash = 0;  // of the tokenizer that made the tokens
  int64_t created_unix_s = 0;
  int64_t updated_unix_s = 0;
  KvPolicy policy;

  // Of a fork; else empty.
  std::vector<LineagePart> lineage;
  TailRef tail;        // of a fork without a commit of its own; owner 0: {id, version}
  std::string parent;  // the name of the context that it was forked from, as it was then

  ContextAttributes attributes;

  // The context whose id places the pages over the workers: that at the root of the lineage.
  ContextId grid_owner() const { return lineage.empty() ? id : lineage.front().owner; }
  // Pages below are others'; its own begin here.
  int64_t shared_pages() const { return lineage.empty() ? 0 : lineage.back().end_page; }
  // Pages [0, sealed_pages()) of the committed state are sealed.
  int64_t sealed_pages() const;
  TailRef committed_tail() const { return tail.owner.value == 0 ? TailRef{id, version} : tail; }
};

// What one commit adds to the context, stored beside the manifest so that the context can be read
// back, resumed and recomputed: the token ids and the text that they came from.
struct ContextAppend {
  std::vector<int32_t> tokens;
  std::string text;
};

// A name for a fork, and what it is to begin with.
struct ForkOptions {
  ContextId source;
  ContextId id;  // of the fork; never used before
  std::string name;
  int64_t created_unix_s = 0;
};

// Forks of forks of ..., each with something of its own.
inline constexpr size_t kLineagePartsMax = 256;

// The first version of a fork of all that `source` has committed: it shares everything and has
// nothing of its own. Pin and ttl are not inherited. Errors: kResourceExhausted (kLineagePartsMax).
Result<ContextManifest> ForkOf(const ContextManifest& source, const ForkOptions& options);

}  // namespace varve
