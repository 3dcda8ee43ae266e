#include "coordinator/tokenizer/added_tokens.h"

#include <unicode/uchar.h>

#include "coordinator/tokenizer/utf8.h"

namespace varve {
namespace {

bool IsWordCharacter(char32_t c) {
  const auto code = static_cast<UChar32>(c);
  constexpr uint32_t kMarksDigitsConnectors = U_GC_M_MASK | U_GC_ND_MASK | U_GC_PC_MASK;
  return u_isUAlphabetic(code) != 0 || (U_GET_GC_MASK(code) & kMarksDigitsConnectors) != 0 ||
         u_hasBinaryProperty(code, UCHAR_JOIN_CONTROL) != 0;
}

bool TouchesWord(std::string_view text, size_t begin, size_t end) {
  if (begin > 0 && IsWordCharacter(PreviousCodePoint(text, begin))) {
    return true;
  }
  size_t next = end;
  return end < text.size() && IsWordCharacter(NextCodePoint(text, &next));
}

// Start of the white space that ends at `end`, not before `floor`.
size_t SkipSpaceBackward(std::string_view text, size_t floor, size_t end) {
  while (end > floor) {
    const char32_t c = PreviousCodePoint(text, end);
    if (u_isUWhiteSpace(static_cast<UChar32>(c)) == 0) {
      break;
    }
    do {
      --end;
    } while (end > floor && IsUtf8Continuation(text[end]));
  }
  return end;
}

size_t SkipSpaceForward(std::string_view text, size_t position) {
  while (position < text.size()) {
    size_t next = position;
    if (u_isUWhiteSpace(static_cast<UChar32>(NextCodePoint(text, &next))) == 0) {
      break;
    }
    position = next;
  }
  return position;
}

}  // namespace

AddedTokenFinder::AddedTokenFinder() : token_of_node_{-1} {}

void AddedTokenFinder::Add(std::string_view spelling, const AddedToken& token) {
  if (spelling.empty()) {
    return;
  }
  uint32_t node = 0;
  for (const char byte : spelling) {
    const auto [edge, is_new] =
        edges_.try_emplace(EdgeKey(node, byte), static_cast<uint32_t>(token_of_node_.size()));
    if (is_new) {
      token_of_node_.push_back(-1);
    }
    node = edge->second;
  }
  token_of_node_[node] = static_cast<int32_t>(tokens_.size());
  tokens_.push_back(token);
  may_start_[static_cast<unsigned char>(spelling[0])] = true;
}

AddedTokenFinder::Longest AddedTokenFinder::LongestAt(std::string_view text,
                                                      size_t position) const {
  Longest longest;
  uint32_t node = 0;
  for (size_t i = position; i < text.size(); ++i) {
    const auto edge = edges_.find(EdgeKey(node, text[i]));
    if (edge == edges_.end()) {
      break;
    }
    node = edge->second;
    if (token_of_node_[node] >= 0) {
      longest = {i + 1 - position, static_cast<size_t>(token_of_node_[node])};
    }
  }
  return longest;
}

void AddedTokenFinder::Find(std::string_view text,
                            bool parse_special,
                            std::vector<Found>* found) const {
  found->clear();
  if (tokens_.empty()) {
    return;
  }
  size_t taken_end = 0;  // end of the last token, with the white space it took
  for (size_t position = 0; position < text.size();) {
    if (!may_start_[static_cast<unsigned char>(text[position])]) {
      ++position;
      continue;
    }
    const Longest longest = LongestAt(text, position);
    if (longest.length == 0) {
      ++position;
      continue;
    }
    const AddedToken& token = tokens_[longest.token_index];
    size_t begin = position;
    size_t end = position + longest.length;
    position = end;
    if (token.special && !parse_special) {
      continue;
    }
    if (token.single_word && TouchesWord(text, begin, end)) {
      continue;
    }
    if (begin < taken_end) {
      continue;
    }
    if (token.lstrip) {
      begin = SkipSpaceBackward(text, taken_end, begin);
    }
    if (token.rstrip) {
      end = SkipSpaceForward(text, end);
    }
    found->push_back({&token, begin, end});
    taken_end = end;
  }
}

}  // namespace varve
