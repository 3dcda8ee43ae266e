#include "coordinator/tokenizer/pre_tokenizer.h"

#include <algorithm>

#include "coordinator/tokenizer/normalizer.h"
#include "proto/base/check.h"

namespace varve {
namespace {

void RemoveMatches(std::vector<TextRange>* ranges) {
  std::erase_if(*ranges, [](const TextRange& range) { return range.is_match; });
}

// Each match joins the piece before it, unless that is a match itself.
void MergeWithPrevious(std::vector<TextRange>* ranges) {
  size_t num_kept = 0;
  bool previous_is_match = false;
  for (const TextRange& range : *ranges) {
    if (range.is_match && !previous_is_match && num_kept > 0) {
      (*ranges)[num_kept - 1].end = range.end;
    } else {
      (*ranges)[num_kept++] = range;
    }
    previous_is_match = range.is_match;
  }
  ranges->resize(num_kept);
}

// The mirror image of MergeWithPrevious.
void MergeWithNext(std::vector<TextRange>* ranges) {
  size_t kept_begin = ranges->size();
  bool next_is_match = false;
  for (size_t i = ranges->size(); i-- > 0;) {
    const TextRange range = (*ranges)[i];
    if (range.is_match && !next_is_match && kept_begin < ranges->size()) {
      (*ranges)[kept_begin].begin = range.begin;
    } else {
      (*ranges)[--kept_begin] = range;
    }
    next_is_match = range.is_match;
  }
  ranges->erase(ranges->begin(), ranges->begin() + static_cast<ptrdiff_t>(kept_begin));
}

void MergeContiguous(std::vector<TextRange>* ranges) {
  size_t num_kept = 0;
  for (const TextRange& range : *ranges) {
    if (num_kept > 0 && (*ranges)[num_kept - 1].is_match == range.is_match) {
      (*ranges)[num_kept - 1].end = range.end;
    } else {
      (*ranges)[num_kept++] = range;
    }
  }
  ranges->resize(num_kept);
}

void ApplyBehavior(SplitBehavior behavior, std::vector<TextRange>* ranges) {
  switch (behavior) {
    case SplitBehavior::kIsolated:
      return;
    case SplitBehavior::kRemoved:
      return RemoveMatches(ranges);
    case SplitBehavior::kMergedWithPrevious:
      return MergeWithPrevious(ranges);
    case SplitBehavior::kMergedWithNext:
      return MergeWithNext(ranges);
    case SplitBehavior::kContiguous:
      return MergeContiguous(ranges);
  }
}

}  // namespace

void PreTokenizer::Split(std::string_view text,
                         Position position,
                         Scratch* scratch,
                         const Emit& emit) const {
  scratch->steps.resize(steps_.size());
  RunStep(0, text, position, scratch, emit);
}

void PreTokenizer::RunStep(size_t index,
                           std::string_view text,
                           Position position,
                           Scratch* scratch,
                           const Emit& emit) const {
  if (text.empty()) {
    return;
  }
  if (index == steps_.size()) {
    return emit(text);
  }
  if (std::holds_alternative<SplitRule>(steps_[index])) {
    return RunSplit(index, text, position, scratch, emit);
  }

  const bool may_prepend = !(position.is_text_start && position.is_continuation);
  std::string& changed = scratch->steps[index].text;
  changed.clear();
  if (std::holds_alternative<PrefixSpaceRule>(steps_[index])) {
    if (text.front() == ' ' || !may_prepend) {
      return RunStep(index + 1, text, position, scratch, emit);
    }
    changed.append(" ").append(text);
    return RunStep(index + 1, changed, position, scratch, emit);
  }

  const auto& rule = std::get<MetaspaceRule>(steps_[index]);
  const bool starts_word = text.front() == ' ' || text.starts_with(rule.replacement);
  const bool wanted = rule.prepend == MetaspaceRule::Prepend::kAlways ||
                      (rule.prepend == MetaspaceRule::Prepend::kFirst && position.is_text_start);
  if (wanted && may_prepend && !starts_word) {
    changed = rule.replacement;
  }
  AppendReplaced(text, " ", rule.replacement, &changed);
  if (!rule.split) {
    return RunStep(index + 1, changed, position, scratch, emit);
  }
  RunSplit(index, changed, position, scratch, emit);
}

void PreTokenizer::RunSplit(size_t index,
                            std::string_view text,
                            Position position,
                            Scratch* scratch,
                            const Emit& emit) const {
  std::vector<TextRange>& ranges = scratch->steps[index].ranges;
  if (const auto* rule = std::get_if<SplitRule>(&steps_[index])) {
    rule->regex.Partition(text, &scratch->regex, &ranges);
    if (rule->invert) {
      for (TextRange& range : ranges) {
        range.is_match = !range.is_match;
      }
    }
    ApplyBehavior(rule->behavior, &ranges);
  } else {
    std::get<MetaspaceRule>(steps_[index]).split->Partition(text, &scratch->regex, &ranges);
    MergeWithNext(&ranges);
  }
  for (const TextRange& range : ranges) {
    Position inner = position;
    inner.is_text_start = position.is_text_start && range.begin == 0;
    RunStep(index + 1, text.substr(range.begin, range.end - range.begin), inner, scratch, emit);
  }
}

}  // namespace varve
