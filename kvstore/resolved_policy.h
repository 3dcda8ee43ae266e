// A context's policy with its names looked up and its numbers checked against the model.
#pragma once

#include <array>

#include "kernels/codec/codec.h"
#include "kvstore/kv_geometry.h"
#include "kvstore/tokens/token_policy.h"
#include "proto/base/result.h"
#include "proto/kv_policy.h"

namespace varve {

struct ResolvedPolicy {
  KvPolicy policy;
  const Codec* codec = nullptr;
  const Codec* exact = nullptr;
  const TokenPolicy* tokens = nullptr;  // null: all tokens stay
  bool selects_pages = false;           // of a context: requests read a share of its sealed pages
  // Of the tokens that the token policy leaves in the context's codec. A rung that has no codec of
  // its own has that of the rung above.
  std::array<const Codec*, kNumRungs> rung_codecs{};

  // Of a class of the token policy; class 0: the context's.
  const Codec& CodecOf(size_t token_class) const {
    return token_class == 0 ? *codec : *tokens->further_codecs()[token_class - 1];
  }
  size_t num_classes() const { return tokens == nullptr ? 1 : 1 + tokens->further_codecs().size(); }

  const Codec& CodecOf(Rung rung) const { return *rung_codecs[static_cast<size_t>(rung)]; }
  // Whether pages are encoded anew on their way down.
  bool has_ladder() const { return &CodecOf(Rung::kCold) != codec; }
  // The highest rung with the codec of this one: what a record says of rungs that only move it.
  Rung EncodedAs(Rung rung) const;

  // Errors: kInvalidArgument naming the field; also for a codec whose tables the model lacks, and
  // for a rung that would not be smaller than the one above.
  static Result<ResolvedPolicy> Resolve(const KvPolicy& policy, const KvGeometry& geometry);
};

}  // namespace varve
