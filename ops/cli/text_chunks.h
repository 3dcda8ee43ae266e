// Cuts a text into the pieces in which an ingest uploads it.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "proto/base/result.h"

namespace varve::cli {

// End of the piece that byte `from` lies in, when `text` is cut from its beginning into pieces of
// at most `max_bytes`, each after its last line end, else its last space, else its last whole code
// point. The cuts depend on the text alone, so an upload that is resumed anywhere makes the same
// ones. REQUIRES: max_bytes >= 4; from < text.size(), or text is empty.
size_t ChunkEnd(std::string_view text, size_t from, size_t max_bytes);

// Offset of the first byte that is not valid UTF-8.
std::optional<size_t> FindInvalidUtf8(std::string_view text);

// The files' texts, one after the other, each beginning on a line of its own; "-" is the standard
// input. Errors: a file that cannot be read, is not UTF-8, or all of them empty.
Result<std::string> ReadTexts(const std::vector<std::string>& files);

}  // namespace varve::cli
