// Files of the source tree that are built into the binary (ops/cmake/embed.cmake), so that an
// installed one has them.
#pragma once

#include <string_view>

namespace varve::cli {

std::string_view EmbeddedText();        // Varve's documentation, one file behind the other
std::string_view EmbeddedPlotScript();  // ops/eval/plot.py

}  // namespace varve::cli
