// The meaning of Attend in double precision, written for reading: the oracle of the tests. Decodes
// every view with its codec and takes softmax as in a textbook.
#pragma once

#include <vector>

#include "kernels/attend.h"

namespace varve {

struct ReferenceState {
  std::vector<double> o;             // [num_queries, num_qo_heads, head_dim]
  std::vector<double> lse;           // [num_queries, num_qo_heads]
  std::vector<double> lse_per_view;  // [num_views, num_queries, num_qo_heads]
};

// The attention over params.views alone: the state in params.o and params.lse is neither read nor
// written.
ReferenceState ReferenceAttend(const AttendParams& params);

}  // namespace varve
