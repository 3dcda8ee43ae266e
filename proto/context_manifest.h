// What a context is, as coordinator and workers tell each other. The manifest is the durable truth
// about a context: what it does not name does not exist.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "proto/base/ids.h"
#include "proto/kv_policy.h"

namespace varve {

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
};

// What one commit adds to the context, stored beside the manifest so that the context can be read
// back, resumed and recomputed: the token ids and the text that they came from.
struct ContextAppend {
  std::vector<int32_t> tokens;
  std::string text;
};

}  // namespace varve
