#include "kvstore/resolved_policy.h"

#include <algorithm>

#include <fmt/format.h>

#include "kvstore/page_format.h"

namespace varve {
namespace {

Error BadPolicy(std::string what) {
  return Error{ErrorCode::kInvalidArgument, "kv policy: " + std::move(what)};
}

Result<void> CheckTables(const Codec& codec, const KvGeometry& geometry) {
  for (int32_t layer = 0; codec.needs_tables() && layer < geometry.num_layers(); ++layer) {
    if (geometry.codec_tables == nullptr ||
        geometry.codec_tables->Find(codec.id(), layer) == nullptr) {
      return BadPolicy(fmt::format(
          "codec {} needs tables that are calibrated for the model, and this model has none: make "
          "them with `varve calibrate --model DIR --text FILE` and start again",
          codec.name()));
    }
  }
  return {};
}

// Mean over the layers of a full page.
double BitsPerValue(const Codec& codec, int32_t page_tokens, const KvGeometry& geometry) {
  const RunShape shape{geometry.num_kv_heads, geometry.head_dim, page_tokens};
  double bits = 0.0;
  for (int32_t layer = 0; layer < geometry.num_layers(); ++layer) {
    const CodecTables* tables =
        codec.needs_tables() ? geometry.codec_tables->Find(codec.id(), layer) : nullptr;
    bits += codec.BitsPerValue(shape, tables) / geometry.num_layers();
  }
  return bits;
}

// A token that a token policy put into a class of its own is told from the others by its codec.
Result<void> CheckClasses(const ResolvedPolicy& policy) {
  if (policy.tokens == nullptr) {
    return {};
  }
  for (const Codec* codec : policy.rung_codecs) {
    for (const Codec* further : policy.tokens->further_codecs()) {
      if (codec == further) {
        return BadPolicy(
            fmt::format("codec {} is on the ladder, and the token policy {} keeps "
                        "tokens of its own in it",
                        codec->name(),
                        policy.tokens->name()));
      }
    }
  }
  return {};
}

Result<void> ResolveLadder(const KvGeometry& geometry, ResolvedPolicy& resolved) {
  const std::string* names[kNumRungs] = {
      &resolved.policy.codec, &resolved.policy.warm_codec, &resolved.policy.cold_codec};
  resolved.rung_codecs[0] = resolved.codec;
  for (size_t rung = 1; rung < kNumRungs; ++rung) {
    const Codec* above = resolved.rung_codecs[rung - 1];
    resolved.rung_codecs[rung] = above;
    if (names[rung]->empty() || *names[rung] == above->name()) {
      continue;
    }
    const Result<const Codec*> codec = FindCodec(*names[rung]);
    if (!codec) {
      return BadPolicy(fmt::format("{}_codec: {}", kRungNames[rung], codec.error().message));
    }
    VARVE_RETURN_IF_ERROR(CheckTables(**codec, geometry));
    const double bits = BitsPerValue(**codec, resolved.policy.page_tokens, geometry);
    const double bits_above = BitsPerValue(*above, resolved.policy.page_tokens, geometry);
    if (bits >= bits_above) {
      return BadPolicy(fmt::format(
          "{}_codec is {} with {:.2f} bits per value, not fewer than the {:.2f} of {} above it",
          kRungNames[rung],
          (*codec)->name(),
          bits,
          bits_above,
          above->name()));
    }
    resolved.rung_codecs[rung] = *codec;
  }
  return resolved.has_ladder() ? CheckClasses(resolved) : Result<void>();
}

}  // namespace

Rung ResolvedPolicy::EncodedAs(Rung rung) const {
  const auto* found = std::find(rung_codecs.begin(), rung_codecs.end(), &CodecOf(rung));
  return static_cast<Rung>(found - rung_codecs.begin());
}

Result<ResolvedPolicy> ResolvedPolicy::Resolve(const KvPolicy& policy, const KvGeometry& geometry) {
  if (policy.page_tokens < 1 || policy.page_tokens > kMaxPageTokens) {
    return BadPolicy(
        fmt::format("page_tokens is {}; it must be 1 to {}", policy.page_tokens, kMaxPageTokens));
  }
  if (policy.sink_tokens < 0) {
    return BadPolicy(fmt::format("sink_tokens is {}; it must not be negative", policy.sink_tokens));
  }
  if (policy.recent_window_tokens < 0) {
    return BadPolicy(fmt::format("recent_window_tokens is {}; it must not be negative",
                                 policy.recent_window_tokens));
  }
  ResolvedPolicy resolved{.policy = policy};
  VARVE_TRY(resolved.codec, FindCodec(policy.codec));
  VARVE_RETURN_IF_ERROR(CheckTables(*resolved.codec, geometry));
  VARVE_TRY(resolved.exact, FindCodec(policy.exact_codec));
  if (resolved.exact->id() != CodecId::kF32 && resolved.exact->id() != CodecId::kBf16) {
    return BadPolicy(fmt::format("exact_codec is {}; it must be bf16 or f32", policy.exact_codec));
  }
  VARVE_CHECK(resolved.exact->appendable());
  VARVE_TRY(resolved.tokens, FindTokenPolicy(policy));
  resolved.selects_pages = SelectsPages(policy);
  VARVE_RETURN_IF_ERROR(ResolveLadder(geometry, resolved));
  return resolved;
}

}  // namespace varve
