#include "ops/cli/eval/facts.h"

#include <algorithm>
#include <iterator>
#include <set>
#include <span>

#include <fmt/format.h>

#include "proto/base/check.h"
#include "proto/base/rng.h"

#include <boost/crc.hpp>

namespace varve::cli {
namespace {

using Words = std::span<const std::string_view>;

constexpr std::string_view kAdjectives[] = {
    "amber",  "ancient", "bitter",  "black",   "brave",   "bright", "broken", "bronze", "calm",
    "clear",  "copper",  "crimson", "distant", "dusty",   "empty",  "fallen", "final",  "frozen",
    "gentle", "golden",  "gray",    "green",   "hidden",  "hollow", "iron",   "ivory",  "lonely",
    "lucky",  "marble",  "narrow",  "orange",  "patient", "proud",  "purple", "quiet",  "royal",
    "rusty",  "sacred",  "scarlet", "secret",  "silent",  "silver", "small",  "stone",  "strange",
    "velvet", "violet",  "warm",    "white",   "winter"};
constexpr std::string_view kNouns[] = {
    "anchor",  "apple",   "arrow",   "barrel", "basket",  "bell",   "bird",   "boat",   "bottle",
    "bridge",  "button",  "candle",  "castle", "chain",   "chapel", "clock",  "cloud",  "coat",
    "coin",    "compass", "crown",   "desk",   "diamond", "door",   "drum",   "engine", "falcon",
    "feather", "field",   "flag",    "flower", "forest",  "garden", "gate",   "hammer", "harbor",
    "horse",   "island",  "ladder",  "lake",   "lamp",    "letter", "market", "mirror", "moon",
    "needle",  "orchard", "piano",   "pillar", "queen",   "river",  "rope",   "saddle", "shield",
    "ship",    "spring",  "station", "storm",  "sword",   "table",  "tower",  "valley", "wagon",
    "wheel",   "window",  "wolf"};
constexpr std::string_view kAttributes[] = {"passcode",
                                            "number",
                                            "code",
                                            "price",
                                            "weight",
                                            "address",
                                            "rank",
                                            "signal",
                                            "license",
                                            "permit"};
constexpr std::string_view kOffices[] = {"warden",
                                         "mayor",
                                         "bishop",
                                         "captain",
                                         "doctor",
                                         "governor",
                                         "judge",
                                         "keeper",
                                         "librarian",
                                         "master",
                                         "pilot",
                                         "porter",
                                         "secretary",
                                         "steward",
                                         "teacher",
                                         "treasurer"};
constexpr std::string_view kPlaces[] = {
    "Arden",   "Ashford", "Belmont", "Bristol", "Camden",  "Carlisle", "Chester", "Corwin",
    "Dalton",  "Derby",   "Dover",   "Dunmore", "Durham",  "Elgin",    "Exeter",  "Farley",
    "Gresham", "Halden",  "Harlow",  "Hudson",  "Ilford",  "Jarrow",   "Kelso",   "Kingston",
    "Lanark",  "Lincoln", "Ludlow",  "Malden",  "Marlow",  "Melrose",  "Milton",  "Newark",
    "Norwich", "Oakham",  "Oxford",  "Penrith", "Preston", "Quarley",  "Ripon",   "Salem",
    "Selby",   "Stanton", "Tarbet",  "Truro",   "Upton",   "Vernon",   "Walton",  "Warwick",
    "Weston",  "Winslow", "York"};
constexpr std::string_view kFirstNames[] = {
    "Ada",    "Agnes",  "Alan",   "Albert", "Alice",  "Amos",   "Anna",   "Arthur",
    "Clara",  "Daniel", "David",  "Edgar",  "Edith",  "Emma",   "Felix",  "Frank",
    "George", "Grace",  "Harold", "Helen",  "Henry",  "Hugo",   "Isaac",  "Jacob",
    "James",  "Jane",   "Joseph", "Julia",  "Laura",  "Louis",  "Lucy",   "Martha",
    "Martin", "Mary",   "Miles",  "Nora",   "Oliver", "Oscar",  "Paul",   "Peter",
    "Philip", "Ruth",   "Samuel", "Sarah",  "Simon",  "Thomas", "Victor", "Walter"};
constexpr std::string_view kLastNames[] = {
    "Abbot",  "Archer",  "Baker",  "Barlow", "Becker", "Bishop", "Carter",   "Chandler",
    "Cooper", "Crane",   "Dawson", "Draper", "Ellis",  "Fisher", "Fletcher", "Foster",
    "Fuller", "Gardner", "Gibson", "Grant",  "Green",  "Hale",   "Harper",   "Hawkins",
    "Hayes",  "Holmes",  "Hunter", "Jordan", "Keller", "Knight", "Lambert",  "Lawson",
    "Marsh",  "Mason",   "Mercer", "Miller", "Morgan", "Morris", "Nash",     "Nelson"};
constexpr std::string_view kUpper = "ABCDEFGHJKLMNPQRSTUVWXYZ";
constexpr std::string_view kDigits = "0123456789";
constexpr std::string_view kHex = "0123456789abcdef";
constexpr std::string_view kStatements[] = {"Note that {} is {}.",
                                            "In the ledger, {} is {}.",
                                            "The record says that {} is {}.",
                                            "Remember that {} is {}.",
                                            "It is written that {} is {}.",
                                            "For reference, {} is {}."};

constexpr uint64_t kHeldOutShare = 8;
constexpr size_t kClusterKeys = 8;        // multikey: a key and its neighbours
constexpr size_t kNeighbourTries = 2000;  // then the neighbourhood is taken to be full

bool IsHeldOut(const std::string& key) {
  boost::crc_32_type checksum;
  checksum.process_bytes(key.data(), key.size());
  return checksum.checksum() % kHeldOutShare == 0;
}

class Maker {
 public:
  explicit Maker(uint64_t seed) : rng_(seed) {}

  Rng& rng() { return rng_; }

  std::vector<FactQuestion> Make(Task task, size_t count) {
    std::vector<FactQuestion> questions;
    for (size_t i = 0; i < count; ++i) {
      FactQuestion& question = questions.emplace_back(FactQuestion{task, {}});
      switch (task) {
        case Task::kNeedle:
          question.turns = {{NeedleKey(), Number()}};
          break;
        case Task::kMultikey:
          question.turns = {{MultiKey(i), Number()}};
          break;
        case Task::kLines:
          question.turns = {{LineKey(i, count), Number()}};
          break;
        case Task::kTracking:
          question.turns = Tracking();
          break;
      }
    }
    return questions;
  }

  std::string Statement(const Turn& turn) {
    return fmt::format(fmt::runtime(Pick(kStatements)), turn.key, turn.value);
  }

 private:
  std::string_view Pick(Words words) { return words[rng_.Below(words.size())]; }

  std::string Letters(std::string_view alphabet, size_t count) {
    std::string text;
    for (size_t i = 0; i < count; ++i) {
      text.push_back(alphabet[rng_.Below(alphabet.size())]);
    }
    return text;
  }

  std::string Number() { return Letters(kDigits, 5); }

  // Draws until the key is new and held out.
  template <typename Draw>
  std::string NewKey(Draw&& draw) {
    for (;;) {
      std::string key = draw();
      if (IsHeldOut(key) && used_.insert(key).second) {
        return key;
      }
    }
  }

  std::string NeedleKey() {
    // A noun of its own, so that no other needle is near.
    std::string_view noun = Pick(kNouns);
    while (!used_.insert(std::string(noun)).second) {
      noun = Pick(kNouns);
    }
    return NewKey([&] {
      return fmt::format("the {} of the {} {}", Pick(kAttributes), Pick(kAdjectives), noun);
    });
  }

  std::string MultiKey(size_t index) {
    const bool is_file = index / kClusterKeys % 2 == 0;
    if (index % kClusterKeys == 0) {
      cluster_.clear();
    }
    size_t tries = 0;
    const std::string key = NewKey([&] {
      if (cluster_.empty() || ++tries > kNeighbourTries) {
        return is_file ? "file " + Letters(kHex, 6)
                       : "registry entry " + Letters(kUpper, 2) + Letters(kDigits, 3);
      }
      std::string near = cluster_[rng_.Below(cluster_.size())];
      const size_t code = is_file ? 6 : 5;
      char& changed = near[near.size() - code + rng_.Below(code)];
      const bool is_upper = changed >= 'A' && changed <= 'Z';
      const std::string_view alphabet = is_file ? kHex : is_upper ? kUpper : kDigits;
      changed = alphabet[rng_.Below(alphabet.size())];
      return near;
    });
    cluster_.push_back(key);
    return key;
  }

  // Ascending: line i of n has a number in the i-th n-th of the numbers of four digits.
  std::string LineKey(size_t index, size_t count) {
    const uint64_t width = 9000 / count;
    return NewKey(
        [&] { return fmt::format("locker {}", 1000 + index * width + rng_.Below(width)); });
  }

  std::vector<Turn> Tracking() {
    const std::string badge = NewKey(
        [&] { return fmt::format("the badge of {} {}", Pick(kFirstNames), Pick(kLastNames)); });
    const std::string office =
        NewKey([&] { return fmt::format("the {} of {}", Pick(kOffices), Pick(kPlaces)); });
    return {{office, badge.substr(std::string_view("the badge of ").size())}, {badge, Number()}};
  }

  Rng rng_;
  std::set<std::string> used_;
  std::vector<std::string> cluster_;
};

// About `bytes` of the text from `first` on, from its beginning again at its end, and not cut
// inside a code point.
std::string CutBackground(std::string_view text, size_t first, size_t bytes) {
  std::string cut;
  for (size_t at = first % text.size(); cut.size() <= bytes; at = 0) {
    cut += text.substr(at, bytes + 1 - cut.size());
  }
  const auto is_inside = [&cut](size_t i) {
    return (static_cast<unsigned char>(cut[i]) & 0xc0U) == 0x80U;
  };
  size_t end = bytes;
  while (end > 0 && is_inside(end)) {
    --end;
  }
  size_t begin = 0;
  while (begin < end && is_inside(begin)) {
    ++begin;
  }
  return cut.substr(begin, end - begin);
}

// Inserts the pieces, spread evenly, each in front of a space or a line's end.
std::string Plant(const std::string& background, const std::vector<std::string>& pieces) {
  std::string text;
  size_t done = 0;
  for (size_t i = 0; i < pieces.size(); ++i) {
    const size_t wish = std::max(done, (2 * i + 1) * background.size() / (2 * pieces.size()));
    const size_t place = std::min(background.find_first_of(" \n", wish), background.size());
    text.append(background, done, place - done);
    text += (i % 4 == 3 ? "\n" : " ") + pieces[i];
    done = place;
  }
  return text.append(background, done);
}

}  // namespace

std::string_view TaskName(Task task) {
  switch (task) {
    case Task::kNeedle:
      return "needle";
    case Task::kMultikey:
      return "multikey";
    case Task::kLines:
      return "lines";
    case Task::kTracking:
      return "tracking";
  }
  VARVE_UNREACHABLE("a task without a name");
}

std::string QuestionOf(const Turn& turn) {
  const bool is_person = turn.value[0] >= 'A' && turn.value[0] <= 'Z';
  return fmt::format("{} is {}?", is_person ? "Who" : "What", turn.key);
}

FactDocument MakeFactDocument(std::string_view background, const FactDocumentOptions& options) {
  VARVE_CHECK(!background.empty() && options.per_task <= kMaxFactsPerTask);
  Maker maker(options.seed);
  FactDocument document;
  std::vector<std::string> pieces;
  for (const Task task : kTasks) {
    const std::vector<FactQuestion> questions = maker.Make(task, options.per_task);
    std::string table;
    for (const FactQuestion& question : questions) {
      for (const Turn& turn : question.turns) {
        if (task == Task::kLines) {
          table += "\n" + maker.Statement(turn);
        } else {
          pieces.push_back(maker.Statement(turn));
        }
      }
    }
    if (task == Task::kLines) {
      pieces.push_back(table + "\n");
    }
    document.questions.insert(document.questions.end(), questions.begin(), questions.end());
  }
  for (size_t i = pieces.size(); i > 1; --i) {
    std::swap(pieces[i - 1], pieces[maker.rng().Below(i)]);
  }
  const size_t first = maker.rng().Below(background.size());
  document.text = Plant(CutBackground(background, first, options.background_bytes), pieces);
  return document;
}

}  // namespace varve::cli
