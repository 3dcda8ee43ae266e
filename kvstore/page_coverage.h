// Whether the runs of a parsed record hold its tokens as they must.
#pragma once

#include <string_view>

#include "kvstore/page_format.h"

namespace varve {

// What is wrong, or nothing. Runs of consecutive tokens lie in token order and leave no token out.
// Runs with token indices may leave tokens out, but no head may have a token twice: it would count
// twice in its attention. Records of several layers are not judged. REQUIRES: first tokens and
// indices inside the page.
std::string_view CoverageFault(const PageRecord& record);

}  // namespace varve
