// Tokens that are found in the text as they are, before any word is looked at: <|im_end|>, runs of
// newlines, ... Immutable after construction; any thread may call it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace varve {

struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool special =
      false;  // a control token: never made from user text (EncodeOptions::parse_special)
  bool single_word = false;  // only where no word character touches it
  bool lstrip = false;       // takes the white space before it along
  bool rstrip = false;       // takes the white space behind it along
  bool normalized = false;   // looked for in the normalized text, else in the text as it came
};

// Finds the leftmost, and of those the longest, added tokens of a text, without overlap.
class AddedTokenFinder {
 public:
  // A token and the bytes of the text that it takes.
  struct Found {
    const AddedToken* token = nullptr;
    size_t begin = 0;
    size_t end = 0;
  };

  AddedTokenFinder();

  // Looks for `spelling` (the content, or its normalized form) from now on. Empty spellings are
  // ignored; of two equal ones the last counts.
  void Add(std::string_view spelling, const AddedToken& token);

  bool empty() const { return tokens_.empty(); }

  // Replaces `found` by the tokens in `text`, in order. Special tokens are passed over unless
  // `parse_special`. REQUIRES: text is valid UTF-8.
  void Find(std::string_view text, bool parse_special, std::vector<Found>* found) const;

 private:
  // Longest spelling at `position`: its length and token index, or length 0.
  struct Longest {
    size_t length = 0;
    size_t token_index = 0;
  };
  Longest LongestAt(std::string_view text, size_t position) const;

  static uint64_t EdgeKey(uint32_t node, char byte) {
    return (uint64_t{node} << 8) | static_cast<unsigned char>(byte);
  }

  std::vector<AddedToken> tokens_;
  std::vector<int32_t> token_of_node_;  // a byte trie; node 0 is the root; -1: no token ends here
  std::unordered_map<uint64_t, uint32_t> edges_;  // EdgeKey -> node
  bool may_start_[256] = {};                      // first bytes of the spellings
};

}  // namespace varve
