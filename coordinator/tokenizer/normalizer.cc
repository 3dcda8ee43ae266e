#include "coordinator/tokenizer/normalizer.h"

#include <algorithm>
#include <limits>

#include <unicode/bytestream.h>
#include <unicode/normalizer2.h>

#include "proto/base/check.h"

namespace varve {
namespace {

const icu::Normalizer2& IcuNormalizer(UnicodeForm form) {
  UErrorCode status = U_ZERO_ERROR;
  const icu::Normalizer2* normalizer = nullptr;
  switch (form) {
    case UnicodeForm::kNfc:
      normalizer = icu::Normalizer2::getNFCInstance(status);
      break;
    case UnicodeForm::kNfd:
      normalizer = icu::Normalizer2::getNFDInstance(status);
      break;
    case UnicodeForm::kNfkc:
      normalizer = icu::Normalizer2::getNFKCInstance(status);
      break;
    case UnicodeForm::kNfkd:
      normalizer = icu::Normalizer2::getNFKDInstance(status);
      break;
  }
  VARVE_CHECK(U_SUCCESS(status) &&
              normalizer != nullptr);  // the forms are compiled into the library
  return *normalizer;
}

// Bytes below this one only spell text that is in the form already: NFC starts to compose at U+0300
// (lead byte 0xCC), the other forms change Latin-1 letters.
unsigned char FirstInterestingByte(UnicodeForm form) {
  return form == UnicodeForm::kNfc ? 0xCC : 0x80;
}

bool NeedsForm(std::string_view text, UnicodeForm form) {
  const unsigned char first = FirstInterestingByte(form);
  const bool plain = std::all_of(
      text.begin(), text.end(), [first](char c) { return static_cast<unsigned char>(c) < first; });
  if (plain) {
    return false;
  }
  VARVE_CHECK(text.size() <= static_cast<size_t>(std::numeric_limits<int32_t>::max()));
  UErrorCode status = U_ZERO_ERROR;
  const bool normalized = IcuNormalizer(form).isNormalizedUTF8(
      {text.data(), static_cast<int32_t>(text.size())}, status);
  VARVE_CHECK(U_SUCCESS(status));
  return !normalized;
}

void AppendInForm(std::string_view text, UnicodeForm form, std::string* out) {
  UErrorCode status = U_ZERO_ERROR;
  icu::StringByteSink<std::string> sink(out);
  IcuNormalizer(form).normalizeUTF8(
      0, {text.data(), static_cast<int32_t>(text.size())}, sink, nullptr, status);
  VARVE_CHECK(U_SUCCESS(status));
}

bool Changes(const NormalizerStep& step, std::string_view text, bool at_start) {
  if (const auto* form = std::get_if<UnicodeForm>(&step)) {
    return NeedsForm(text, *form);
  }
  if (std::holds_alternative<PrependRule>(step)) {
    return at_start && !text.empty();
  }
  return text.find(std::get<ReplaceRule>(step).from) != std::string_view::npos;
}

void AppendStep(const NormalizerStep& step, std::string_view text, std::string* out) {
  if (const auto* form = std::get_if<UnicodeForm>(&step)) {
    AppendInForm(text, *form, out);
  } else if (const auto* prepend = std::get_if<PrependRule>(&step)) {
    out->append(prepend->text).append(text);
  } else {
    const auto& replace = std::get<ReplaceRule>(step);
    AppendReplaced(text, replace.from, replace.to, out);
  }
}

}  // namespace

void AppendReplaced(std::string_view text,
                    std::string_view from,
                    std::string_view to,
                    std::string* out) {
  size_t position = 0;
  while (true) {
    const size_t found = text.find(from, position);
    if (found == std::string_view::npos) {
      break;
    }
    out->append(text, position, found - position).append(to);
    position = found + from.size();
  }
  out->append(text, position);
}

std::string_view Normalizer::Apply(std::string_view text,
                                   bool at_start,
                                   std::string* buffer) const {
  std::string_view current = text;
  for (const NormalizerStep& step : steps_) {
    if (!Changes(step, current, at_start)) {
      continue;
    }
    std::string next;
    next.reserve(current.size() + current.size() / 2 + 16);
    AppendStep(step, current, &next);
    *buffer = std::move(next);
    current = *buffer;
  }
  return current;
}

}  // namespace varve
