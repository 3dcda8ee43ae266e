#include "coordinator/tokenizer/bpe_model.h"

#include <algorithm>

#include "coordinator/tokenizer/utf8.h"
#include "proto/base/check.h"

namespace varve {

BpeModel::BpeModel(BpeSpec spec) : spec_(std::move(spec)), merges_(std::move(spec_.merges)) {
  VARVE_CHECK(spec_.byte_fallback_ids.empty() || spec_.byte_fallback_ids.size() == 256);
  id_of_byte_.assign(256, kNoToken);
  id_of_ascii_.assign(128, kNoToken);
  for (const auto& [spelling, id] : spec_.vocabulary) {
    if (spec_.ignore_merges) {
      words_[spelling] = id;
      max_word_bytes_ = std::max(max_word_bytes_, spelling.size());
    }
    if (spelling.empty()) {
      continue;
    }
    if (spec_.byte_level) {
      if (spelling.size() == 1) {
        id_of_byte_[static_cast<unsigned char>(spelling[0])] = id;
      }
      continue;
    }
    size_t end = 0;
    const char32_t first = NextCodePoint(spelling, &end);
    if (end != spelling.size()) {
      continue;
    }
    if (first < 128) {
      id_of_ascii_[first] = id;
    } else {
      id_of_char_[first] = id;
    }
  }
  if (!spec_.byte_level) {
    CollectJunctions();
  }
  spec_.vocabulary = {};
}

void BpeModel::CollectJunctions() {
  int32_t max_id = 0;
  for (const auto& [spelling, id] : spec_.vocabulary) {
    max_id = std::max(max_id, id);
  }
  std::vector<std::string_view> spelling_of(static_cast<size_t>(max_id) + 1);
  for (const auto& [spelling, id] : spec_.vocabulary) {
    spelling_of[static_cast<size_t>(id)] = spelling;
  }
  // A merge of byte tokens joins characters that its spelling does not show: then nothing is cut.
  std::vector<bool> is_byte_token(spelling_of.size());
  for (const int32_t id : spec_.byte_fallback_ids) {
    if (id != kNoToken) {
      is_byte_token[static_cast<size_t>(id)] = true;
    }
  }
  std::vector<uint64_t> junctions((size_t{1} << kLog2JunctionBits) / 64);
  for (const BpeMerge& merge : merges_.merges()) {
    if (is_byte_token[static_cast<size_t>(merge.left)] ||
        is_byte_token[static_cast<size_t>(merge.right)]) {
      return;
    }
    const std::string_view spelling = spelling_of[static_cast<size_t>(merge.result)];
    if (spelling.empty()) {
      return;
    }
    size_t position = 0;
    char32_t left = NextCodePoint(spelling, &position);
    while (position < spelling.size()) {
      const char32_t right = NextCodePoint(spelling, &position);
      const uint64_t bit = JunctionBit(left, right);
      junctions[bit / 64] |= uint64_t{1} << (bit % 64);
      left = right;
    }
  }
  junctions_ = std::move(junctions);
}

void BpeModel::Encode(std::string_view piece, Scratch* scratch, std::vector<int32_t>* ids) const {
  VARVE_CHECK(piece.size() < UINT32_MAX);
  const size_t piece_begin = ids->size();
  if (spec_.ignore_merges && piece.size() <= max_word_bytes_) {
    if (const auto word = words_.find(piece); word != words_.end()) {
      ids->push_back(word->second);
      return;
    }
  }
  if (junctions_.empty()) {
    EncodeWord(piece, scratch, ids, piece_begin);
    return;
  }
  size_t word_begin = 0;
  char32_t left = 0;
  for (size_t position = 0; position < piece.size();) {
    const size_t boundary = position;
    const char32_t right = NextCodePoint(piece, &position);
    if (boundary > word_begin && !MayJoin(left, right)) {
      EncodeWord(piece.substr(word_begin, boundary - word_begin), scratch, ids, piece_begin);
      word_begin = boundary;
    }
    left = right;
  }
  EncodeWord(piece.substr(word_begin), scratch, ids, piece_begin);
}

void BpeModel::EncodeWord(std::string_view word,
                          Scratch* scratch,
                          std::vector<int32_t>* ids,
                          size_t piece_begin) const {
  if (word.empty()) {
    return;
  }
  if (const auto cached = scratch->cache.Find(word); !cached.empty()) {
    AppendFused(cached, ids, piece_begin);
    return;
  }
  ReadSymbols(word, scratch);
  MergeSymbols(scratch);
  scratch->word_ids.clear();
  for (const auto& symbol : scratch->symbols) {
    if (symbol.id != kNoToken) {
      scratch->word_ids.push_back(symbol.id);
    }
  }
  scratch->cache.Store(word, scratch->word_ids);
  AppendFused(scratch->word_ids, ids, piece_begin);
}

// Unknown characters on both sides of a cut are as adjacent as any.
void BpeModel::AppendFused(std::span<const int32_t> word_ids,
                           std::vector<int32_t>* ids,
                           size_t piece_begin) const {
  const bool fuse = spec_.fuse_unk && spec_.unk_id != kNoToken && ids->size() > piece_begin &&
                    !word_ids.empty() && ids->back() == spec_.unk_id &&
                    word_ids.front() == spec_.unk_id;
  ids->insert(ids->end(), word_ids.begin() + (fuse ? 1 : 0), word_ids.end());
}

void BpeModel::ReadSymbols(std::string_view word, Scratch* scratch) const {
  auto& symbols = scratch->symbols;
  symbols.clear();
  for (size_t position = 0; position < word.size();) {
    const size_t begin = position;
    int32_t id = kNoToken;
    if (spec_.byte_level) {
      id = id_of_byte_[static_cast<unsigned char>(word[position++])];
    } else {
      const char32_t character = NextCodePoint(word, &position);
      if (character < 128) {
        id = id_of_ascii_[character];
      } else if (const auto known = id_of_char_.find(character); known != id_of_char_.end()) {
        id = known->second;
      }
    }
    if (id != kNoToken) {
      symbols.push_back({id, 0, 0});
    } else {
      AddUnknown(word.substr(begin, position - begin), scratch);
    }
  }
  for (uint32_t i = 0; i < symbols.size(); ++i) {
    symbols[i].previous = i == 0 ? 0 : i - 1;
    symbols[i].next = i + 1 < symbols.size() ? i + 1 : 0;
  }
}

void BpeModel::AddUnknown(std::string_view character, Scratch* scratch) const {
  auto& symbols = scratch->symbols;
  if (!spec_.byte_fallback_ids.empty()) {
    const auto id_of = [this](char byte) {
      return spec_.byte_fallback_ids[static_cast<unsigned char>(byte)];
    };
    if (std::none_of(character.begin(), character.end(), [&](char byte) {
          return id_of(byte) == kNoToken;
        })) {
      for (const char byte : character) {
        symbols.push_back({id_of(byte), 0, 0});
      }
      return;
    }
  }
  if (spec_.unk_id == kNoToken) {
    return;
  }
  if (spec_.fuse_unk && !symbols.empty() && symbols.back().id == spec_.unk_id) {
    return;
  }
  symbols.push_back({spec_.unk_id, 0, 0});
}

void BpeModel::QueuePair(uint32_t left_index, Scratch* scratch) const {
  const auto& left = scratch->symbols[left_index];
  const uint32_t rank = merges_.RankOf(left.id, scratch->symbols[left.next].id);
  if (rank == MergeTable::kNoMerge) {
    return;
  }
  scratch->queue.push_back(uint64_t{rank} << 32 | left_index);
  std::push_heap(scratch->queue.begin(), scratch->queue.end(), std::greater<>());
}

void BpeModel::MergeSymbols(Scratch* scratch) const {
  auto& symbols = scratch->symbols;
  auto& queue = scratch->queue;
  queue.clear();
  for (uint32_t i = 0; i + 1 < symbols.size(); ++i) {
    QueuePair(i, scratch);
  }
  while (!queue.empty()) {
    std::pop_heap(queue.begin(), queue.end(), std::greater<>());
    const uint64_t best = queue.back();
    queue.pop_back();
    const auto index = static_cast<uint32_t>(best);
    const BpeMerge& merge = merges_.merge(static_cast<uint32_t>(best >> 32));
    auto& left = symbols[index];
    // One of the two may have grown or gone since the pair was queued.
    if (left.id != merge.left || left.next == 0 || symbols[left.next].id != merge.right) {
      continue;
    }
    auto& right = symbols[left.next];
    left.id = merge.result;
    left.next = right.next;
    right.id = kNoToken;
    if (left.next != 0) {
      symbols[left.next].previous = index;
      QueuePair(index, scratch);
    }
    if (index != 0) {
      QueuePair(left.previous, scratch);
    }
  }
}

}  // namespace varve
