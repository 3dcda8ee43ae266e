// Byte-pair encoding: turns a word into token ids by joining, again and again, the adjacent pair
// whose merge has the lowest rank (of equal ones the leftmost). Time is n log n in the length of
// the word, whatever the word.
//
// Immutable after construction; a Scratch belongs to one thread at a time.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "coordinator/tokenizer/merge_table.h"
#include "coordinator/tokenizer/word_cache.h"

namespace varve {

inline constexpr int32_t kNoToken = -1;

// What a BPE vocabulary says. Spellings are the bytes of the text that a token stands for.
struct BpeSpec {
  std::vector<std::pair<std::string, int32_t>> vocabulary;
  std::vector<BpeMerge> merges;  // by rank
  bool byte_level = false;       // words start as bytes, else as code points
  bool ignore_merges = false;    // a word that is in the vocabulary is that token
  bool fuse_unk = false;         // adjacent unknown characters are one unknown token
  int32_t unk_id = kNoToken;     // for a character that is not in the vocabulary; without it the
                                 // character is dropped
  std::vector<int32_t> byte_fallback_ids;  // [256] for the bytes of such a character, or empty
};

class BpeModel {
 public:
  class Scratch {
   private:
    friend class BpeModel;
    struct Symbol {
      int32_t id = 0;
      uint32_t previous = 0;
      uint32_t next = 0;  // 0: none; a symbol that was joined to its left neighbour has id kNoToken
    };
    WordCache cache;
    std::vector<Symbol> symbols;
    std::vector<uint64_t> queue;  // min-heap of rank << 32 | index of the left symbol
    std::vector<int32_t> word_ids;
  };

  BpeModel() = default;
  explicit BpeModel(BpeSpec spec);

  // Appends the ids of one pre-tokenized piece. REQUIRES: valid UTF-8, under 4 GB.
  void Encode(std::string_view piece, Scratch* scratch, std::vector<int32_t>* ids) const;

 private:
  struct TransparentHash {
    using is_transparent = void;
    size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
  };

  // Two code points that never stand side by side inside a merged token: no merge reaches across,
  // so the text can be cut there and each part encoded (and cached) alone. A hashed set: a false
  // "may join" costs time, never correctness.
  bool MayJoin(char32_t left, char32_t right) const {
    const uint64_t bit = JunctionBit(left, right);
    return (junctions_[bit / 64] >> (bit % 64) & 1) != 0;
  }
  static uint64_t JunctionBit(char32_t left, char32_t right) {
    const uint64_t key = uint64_t{left} << 32 | right;
    return (key * 0x9E3779B97F4A7C15u) >> (64 - kLog2JunctionBits);
  }
  static constexpr int kLog2JunctionBits = 21;

  void CollectJunctions();
  void EncodeWord(std::string_view word,
                  Scratch* scratch,
                  std::vector<int32_t>* ids,
                  size_t piece_begin) const;
  void AppendFused(std::span<const int32_t> word_ids,
                   std::vector<int32_t>* ids,
                   size_t piece_begin) const;
  void ReadSymbols(std::string_view word, Scratch* scratch) const;
  void AddUnknown(std::string_view character, Scratch* scratch) const;
  void MergeSymbols(Scratch* scratch) const;
  void QueuePair(uint32_t left_index, Scratch* scratch) const;

  BpeSpec spec_;  // without the merges; the vocabulary only if a word is looked up as a whole
  MergeTable merges_;
  std::unordered_map<std::string, int32_t, TransparentHash, std::equal_to<>>
      words_;                                         // if ignore_merges
  size_t max_word_bytes_ = 0;                         // longest key of words_
  std::vector<int32_t> id_of_byte_;                   // [256], if byte_level
  std::vector<int32_t> id_of_ascii_;                  // [128], otherwise
  std::unordered_map<char32_t, int32_t> id_of_char_;  // the characters beyond ASCII
  std::vector<uint64_t> junctions_;                   // empty: pieces are not cut
};

}  // namespace varve
