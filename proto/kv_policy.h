// How a context keeps its KV. Chosen when the context is created, stored with it, immutable
// afterwards.
#pragma once

#include <cstdint>
#include <string>

namespace varve {

struct KvPolicy {
  std::string codec = "int8";  // codec of sealed pages, a name of the registry (kernels/codec)
  std::string exact_codec = "bf16";  // codec of sinks and of the unsealed tail: "bf16" or "f32"
  int32_t page_tokens = 128;         // tokens per page
  int32_t sink_tokens = 4;           // first tokens of a context, exact for ever
  int32_t recent_window_tokens =
      128;  // newest tokens, exact: a page is sealed when all its tokens are older
  // Which tokens stay when a page is sealed: "all", or a token policy (kvstore/tokens).
  std::string tokens = "all";
  double keep = 1.0;  // share of a sealed page's tokens or bytes that stays: see the policy's file

  bool operator==(const KvPolicy&) const = default;
};

}  // namespace varve
