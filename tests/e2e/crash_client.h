// The client of the crash harness: documents that it ingests piece by piece, asks about and
// deletes, and what it may expect of each after the server died, from what the server had said
// before.
//
// Every append is one piece and one commit, and no other ingest runs beside it. So a context of k
// pieces has the same KV whenever, and by whichever process, its pieces were computed, and a server
// that never died tells what it has to answer.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "proto/base/result.h"
#include "proto/base/rng.h"
#include "tests/e2e/server_process.h"

namespace varve {

// The greedy answer to a question about a context with the log-probabilities of every token.
struct Fingerprint {
  std::string all;  // equal only if the KV behind it is equal, to the bit
  std::string text;
  std::vector<double> logprobs;  // [tokens], of each drawn token
};
// Errors: kUnavailable (the server is gone), kInternal (any answer but 200).
Result<Fingerprint> AskFingerprint(const ServerProcess& server,
                                   const std::string& context,
                                   const std::string& question);

// How answers compare with those of a server that never died.
enum class CrashAnswers {
  // To the bit: one worker with room for all, so that sums are taken in the same order.
  kIdentical,
  // By text and up to rounding: pages come in batches as there is room, and sums are taken in that
  // order. Contexts whose pages went down their ladder only have to answer.
  kRounded,
};

struct CrashDocument {
  std::string name;
  std::string kv;  // of POST /v1/contexts, JSON
  // Its pages change over time, by how much room there is.
  bool has_ladder = false;
  std::string question;
  std::vector<std::string> pieces;
  // By number of pieces, as a server that never died has it; [0] is not used.
  struct State {
    uint64_t text_bytes = 0;
    std::string text_hash;
    int64_t tokens = 0;
    int64_t pages = 0;
    Fingerprint fingerprint;
  };
  std::vector<State> states;
};

// The documents, without their states.
std::vector<CrashDocument> MakeCrashDocuments();
// Fills in the states. `server` has no contexts yet. Fails the test where it cannot.
void FillStates(const ServerProcess& server, std::vector<CrashDocument>& documents);

class CrashClient {
 public:
  CrashClient(const std::vector<CrashDocument>* documents, CrashAnswers answers)
      : documents_(documents), answers_(answers), expected_(documents->size()) {}

  // One operation, chosen by `rng`. Errors: kUnavailable: the server is gone. What must not be
  // fails the test.
  Result<void> Act(const ServerProcess& server, Rng& rng);
  // Fails the test unless a restarted server has what it must, and nothing else, and answers as one
  // that never died. Errors: as Act.
  Result<void> Check(const ServerProcess& server);

  // Of commits that the server reported, deletions that it confirmed, and answers.
  struct Counts {
    int commits = 0;
    int deletions = 0;
    int answers = 0;
  };
  const Counts& counts() const { return counts_; }

 private:
  // Pieces that a context must have at least and may have at most; 0: it may be absent.
  struct Expected {
    size_t least = 0;
    size_t most = 0;
    bool may_be_absent = true;
  };

  Result<void> Create(const ServerProcess& server, size_t at);
  Result<void> Append(const ServerProcess& server, size_t at);
  Result<void> Ask(const ServerProcess& server, size_t at);
  Result<void> Delete(const ServerProcess& server, size_t at);
  Result<void> SpillScratch(const ServerProcess& server);
  // Until what was sent is committed.
  Result<void> WaitForCommit(const ServerProcess& server, size_t at);
  // Of every document that was sent and not seen committed.
  Result<void> WaitForCommits(const ServerProcess& server);

  const std::vector<CrashDocument>* const documents_;
  const CrashAnswers answers_;
  std::vector<Expected> expected_;  // [documents]
  Counts counts_;
};

}  // namespace varve
