// How a context keeps its KV. Chosen when the context is created, stored with it, immutable
// afterwards.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace varve {

// The steps of the ladder that a sealed page goes down, never up: by tier (device, host, disk) and
// by the precision that its context's policy has for that tier.
enum class Rung : uint8_t { kHot, kWarm, kCold };
inline constexpr size_t kNumRungs = 3;
inline constexpr std::array<std::string_view, kNumRungs> kRungNames = {"hot", "warm", "cold"};

struct KvPolicy {
  std::string codec = "int8";  // codec of sealed pages, a name of the registry (kernels/codec)
  // Codecs of pages on the lower rungs, each of fewer bits than the one above; empty: as the rung
  // above, pages only move. With any of them a context has a ladder.
  std::string warm_codec;
  std::string cold_codec;
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
