// Strong identifiers: an id of one kind does not convert to another.
#pragma once

#include <compare>
#include <cstdint>
#include <functional>

namespace varve {

template <typename Tag, typename Rep>
struct StrongId {
  Rep value{};
  auto operator<=>(const StrongId&) const = default;
};

using SequenceId =
    StrongId<struct SequenceTag, uint64_t>;  // one running token sequence: a request or an ingest
using ContextId = StrongId<struct ContextTag, uint64_t>;  // one durable context; never reused
using Epoch = StrongId<struct EpochTag, uint32_t>;  // fences messages of an earlier membership

}  // namespace varve

template <typename Tag, typename Rep>
struct std::hash<varve::StrongId<Tag, Rep>> {
  size_t operator()(const varve::StrongId<Tag, Rep>& id) const noexcept {
    return std::hash<Rep>()(id.value);
  }
};
