// Rotary position embedding as a configuration describes it, reduced to what the computation needs:
// one frequency for each pair and one factor. The variants (linear, llama3, yarn, dynamic) differ
// only in how these are derived. Next: worker/rope_table.h (the angles of a step's positions).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/rope.h"
#include "proto/base/result.h"

#include <nlohmann/json_fwd.hpp>

namespace varve {

// What a configuration says outside the parameters of the scaling.
struct RopeContext {
  int32_t head_dim = 0;
  double theta = 10000.0;     // used where the parameters name none
  int64_t max_positions = 0;  // max_position_embeddings
};

struct ParsedRope {
  RopeSpec spec;
  // Longest sequence for which these frequencies hold. `dynamic` changes its base with the length
  // of the sequence beyond it, which would make keys stale that were stored before.
  int64_t max_positions = 0;
  bool is_dynamic = false;
};

// The plain frequencies, theta^(-2i/head_dim).
ParsedRope DefaultRope(const RopeContext& context);

// Reads one object of rope parameters: `rope_scaling`, `rope_parameters`, or one layer type's
// object inside the latter. `path` is its name in messages; a null object means the plain
// frequencies. Errors name the field: an unknown rope_type, a field that the type does not have, a
// missing one.
Result<ParsedRope> ParseRopeObject(const nlohmann::json* object,
                                   const std::string& path,
                                   const RopeContext& context);

}  // namespace varve
