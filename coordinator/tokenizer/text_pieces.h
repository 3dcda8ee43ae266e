// Cuts long text into pieces that can be tokenized one by one, for ingest.
#pragma once

#include <cstddef>
#include <string_view>

namespace varve {

// The length of the first piece: all of `text` if it has at most `max_bytes`, else the largest cut
// within `max_bytes` that is, of these, the first kind to be found
//   1. before a single blank between two ASCII letters: encoding the pieces apart (the second as a
//   continuation) gives
//      the ids of the whole, with every kind of tokenizer;
//   2. before a single blank between two characters that are no white space: the same for natural
//   text;
//   3. before a code point; the ids around the cut may differ from those of the whole.
// Deterministic: depends on the arguments only, and on no more of `text` than max_bytes + 2 bytes.
// REQUIRES: max_bytes >= 4.
size_t SafeSplit(std::string_view text, size_t max_bytes);

}  // namespace varve
