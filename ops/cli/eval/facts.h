// Facts to plant in a document and to ask back, in the sentences that the bundled model knows
// (ops/training/facts.py): "Note that {key} is {value}.", asked as "What is {key}?".
//
//   needle     few keys that resemble no other: "the passcode of the warm storm"
//   multikey   keys of six hex digits or of two letters and three digits, most of which have
//              neighbours in the document that differ in one character
//   lines      numbered lockers in ascending order, one behind the other in one place, as the lines
//   of
//              a table
//   tracking   two facts at different places: who holds an office, and that person's badge. Both
//   are
//              asked, the second by the answer to the first; right if both are
//
// Keys are of the eighth that training held out. The same seed gives the same facts on every
// machine.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace varve::cli {

enum class Task { kNeedle, kMultikey, kLines, kTracking };
inline constexpr Task kTasks[] = {Task::kNeedle, Task::kMultikey, Task::kLines, Task::kTracking};
std::string_view TaskName(Task task);

struct Turn {
  std::string key;
  std::string value;
};

// A question, in one turn or more. The answer to a turn is "{key} is {value}.".
struct FactQuestion {
  Task task = Task::kNeedle;
  std::vector<Turn> turns;
};

struct FactDocument {
  std::string text;
  std::vector<FactQuestion> questions;  // in the order of kTasks
};

struct FactDocumentOptions {
  size_t per_task = 20;         // questions of each task; at most kMaxFactsPerTask
  size_t background_bytes = 0;  // of text between the statements
  uint64_t seed = 1;
};
inline constexpr size_t kMaxFactsPerTask = 60;

// `background` is not empty; it is repeated if it is too short, and begins at a place that the seed
// decides.
FactDocument MakeFactDocument(std::string_view background, const FactDocumentOptions& options);

// The key as a question: "What is {key}?", and "Who is {key}?" of a person.
std::string QuestionOf(const Turn& turn);

}  // namespace varve::cli
