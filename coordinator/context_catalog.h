// The contexts by name: what is committed, what was received and waits to be ingested, and who uses
// them.
//
// The catalog owns the received text until it is committed. Text of one upload is cut into pieces
// by a rule that looks at the text alone; each piece is tokenised on its own, so a context that is
// resumed at a piece boundary has the tokens it would have had without the interruption. Three
// parties meet here:
//   HTTP        Create, Append, Show, List, Acquire
//   tokeniser   WaitForPiece, AddPiece                    (ingest_tokenizer.h)
//   engine      everything under "For the engine"          (engine.h)
//
// A use is a request, an append, a commit or a change of attributes: times to live count from the
// end of the last one. A pinned context does not expire.
//
// A context is "ingesting" while received text waits; then requests on it are refused and its
// ingest starts as soon as the requests that already use it have ended. An ingest that fails falls
// back to the last commit: text behind it is forgotten, and what the context says it received is
// what is committed, so that the client sends the rest again.
//
// Threads: any; one mutex. WorkerGroup is called outside of it.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "proto/base/clock.h"
#include "proto/base/hash.h"
#include "proto/base/ids.h"
#include "proto/base/result.h"
#include "proto/context_manifest.h"
#include "proto/worker_group.h"

namespace varve {

class ContextCatalog;
class TextModel;

enum class ContextStatus { kIngesting, kReady, kFailed };

// What users see of a context.
struct ContextView {
  ContextManifest manifest;  // as committed
  ContextStatus status = ContextStatus::kReady;
  std::string error;            // why it failed
  int64_t tokens_computed = 0;  // committed, and computed since
  int64_t tokens_pending = 0;   // tokenised or estimated, not computed yet
  uint64_t text_bytes_received = 0;
  uint64_t text_hash_received = 0;
};

// A request's right to read a context as it was when the request came. Released by the destructor.
class ContextLease {
 public:
  ContextLease() = default;
  ContextLease(ContextCatalog* catalog, const ContextManifest& manifest);
  ~ContextLease();
  ContextLease(ContextLease&& other) noexcept;
  ContextLease& operator=(ContextLease&& other) noexcept;

  bool empty() const { return catalog_ == nullptr; }
  ContextId id() const { return id_; }
  int64_t num_tokens() const { return num_tokens_; }
  const KvPolicy& policy() const { return policy_; }

 private:
  void Release();

  ContextCatalog* catalog_ = nullptr;
  ContextId id_;
  int64_t num_tokens_ = 0;
  KvPolicy policy_;
};

// Text cut off for the tokeniser.
struct TextPiece {
  ContextId context;
  std::string text;
  bool is_continuation = false;  // not the first piece of the context
  uint64_t generation =
      0;  // of the context's ingest: a piece of one that failed meanwhile is dropped
};

// A tokenised piece, ready to be computed; or the reason why there is none.
struct IngestPiece {
  std::optional<Error> error;
  std::vector<int32_t> tokens;
  std::string text;
  uint64_t text_hash_after = 0;  // of the context's text up to the end of this piece
};

// An append that does not continue what the server has: where the client has to go on.
struct AppendConflict {
  uint64_t text_bytes = 0;
  uint64_t text_hash = 0;
};

// What a PATCH says; what is absent stays.
struct AttributeChange {
  std::optional<bool> pinned;
  std::optional<int64_t> ttl_s;  // 0: none
};

struct CatalogLimits {
  uint64_t max_pending_bytes = uint64_t{64}
                               << 20;     // received text not yet committed, over all contexts
  size_t piece_bytes = size_t{16} << 10;  // at most 16,384 tokens, also byte by byte
  size_t max_ready_pieces = 16;           // tokenised ahead, per context
  size_t max_contexts = 10000;
};

class ContextCatalog {
 public:
  ContextCatalog(const CatalogLimits& limits,
                 WorkerGroup* workers,
                 const TextModel* text_model,
                 const Clock* clock);

  // Reads the committed contexts. Called once, before anything else.
  Result<void> Load();
  // `listener` is called, without the mutex, when the engine may have new work.
  void SetListener(std::function<void()> listener);

  // --- For HTTP ---
  Result<ContextView> Create(const std::string& name,
                             std::string text,
                             const KvPolicy& policy,
                             const AttributeChange& attributes = {});
  // Continues the text at byte `offset`, whose prefix hashes to `hash`. kConflict with *conflict
  // filled in if this is not where the received text ends.
  Result<ContextView> Append(const std::string& name,
                             uint64_t offset,
                             uint64_t hash,
                             std::string text,
                             std::optional<AppendConflict>* conflict);
  Result<ContextView> Show(const std::string& name) const;
  std::vector<ContextView> List() const;
  // kNotFound; kConflict while it is ingesting, failed or being deleted; kModelMismatch.
  Result<ContextLease> Acquire(const std::string& name);

  // Reserves a name for a context that comes in as a file. kAlreadyExists, kInvalidArgument,
  // kResourceExhausted.
  Result<ImportOptions> BeginImport(const std::string& name);
  // The context is there, or its name is free again.
  Result<ContextView> EndImport(const ImportOptions& options, Result<ContextManifest> imported);

  // --- For the tokeniser ---
  // Waits for text that can be tokenised; nothing after Shutdown.
  std::optional<TextPiece> WaitForPiece();
  // The piece that WaitForPiece returned last, tokenised.
  // An error reaches the engine in place of the piece and fails the ingest there.
  void AddPiece(const TextPiece& piece, Result<std::vector<int32_t>> tokens);
  // Makes WaitForPiece return; received text stays where it is.
  void Shutdown();

  // --- For the engine ---
  // Contexts with tokenised pieces to take, oldest upload first. Contexts that requests still use
  // are left out.
  std::vector<ContextId> ReadyToIngest() const;
  std::vector<IngestPiece> TakePieces(ContextId context);
  ContextManifest Manifest(ContextId context) const;
  // Tells how many tokens behind the commit have been computed and how many are waiting in the
  // engine.
  void SetProgress(ContextId context, int64_t computed_tokens, int64_t waiting_tokens);
  void RecordCommit(const ContextManifest& manifest);
  // Whether received text is left that the engine has not taken.
  bool HasText(ContextId context) const;
  // True if no received text is left: the context is ready and its ingest may be closed. False:
  // more pieces will come.
  bool FinishIngest(ContextId context);
  void FailIngest(ContextId context, const Error& error);
  // Makes `name` a fork of what `source` has committed. kNotFound, kAlreadyExists, kConflict,
  // kModelMismatch and the workers' errors.
  Result<ContextView> Fork(const std::string& source, const std::string& name);
  Result<ContextView> Change(const std::string& name, const AttributeChange& change);
  // Names of the contexts that were not used for as long as they may live, and are not used now.
  // Writes down the last use of the others where what is durable lags behind.
  std::vector<std::string> TakeExpired();
  // Reserves a context for deletion: no request, append or piece passes any more. kConflict if
  // requests use it.
  Result<ContextId> BeginDelete(const std::string& name);
  // After the workers deleted it, or failed to: then the context is failed, and may be deleted
  // again.
  void EndDelete(ContextId context, const Result<void>& result);

 private:
  friend class ContextLease;

  struct Entry {
    ContextManifest manifest;
    ContextStatus status = ContextStatus::kReady;
    std::string error;
    std::optional<Error> mismatch;  // made by another model or tokenizer
    bool deleting = false;
    int num_leases = 0;
    int64_t durable_last_used_s = 0;  // attributes.last_used_unix_s as the workers have it
    uint64_t upload_order = 0;
    uint64_t generation = 0;  // counts falls back to the commit

    uint64_t received_bytes = 0;
    uint64_t received_hash = 0;
    // Running hashes of the received and of the cut text; absent until text is appended after a
    // start or a failure.
    std::unique_ptr<Hasher64> received_hasher;
    std::unique_ptr<Hasher64> cut_hasher;

    std::deque<std::string> uploads;  // received, not cut; the front from front_offset on
    size_t front_offset = 0;
    uint64_t uncut_bytes = 0;
    uint64_t cut_bytes = 0;   // length of the text that was cut into pieces or committed
    bool tokenising = false;  // a piece is out
    std::deque<IngestPiece> pieces;
    int64_t computed_tokens = 0;  // by the engine, not committed
    int64_t waiting_tokens = 0;   // taken by the engine, not computed
  };

  Entry* Find(const std::string& name);
  Entry* Find(ContextId context);
  const Entry* Find(ContextId context) const;
  static bool HasText(const Entry& entry);
  ContextView ViewOf(const Entry& entry) const;
  uint64_t PendingBytes() const;
  Result<void> CheckUsable(const Entry& entry) const;
  Result<void> CheckRoom(size_t text_bytes) const;
  // Reserves a name, with an id that was never used. REQUIRES: mutex_ is held.
  Result<Entry*> NewEntry(const std::string& name);
  // A reserved name becomes a context. REQUIRES: mutex_ is held.
  Entry* SetReady(const std::string& name, ContextManifest manifest);
  void SetUsed(Entry* entry);
  Result<void> EnsureHashers(const std::string& name, std::unique_lock<std::mutex>* lock);
  void Receive(Entry* entry, std::string text);
  void ResetToCommit(Entry* entry);
  void Release(ContextId context);
  void Notify();

  // Constant after construction.
  const CatalogLimits limits_;
  WorkerGroup* const workers_;
  const TextModel* const text_model_;
  const Clock* const clock_;
  std::function<void()> listener_;

  mutable std::mutex mutex_;
  // Guarded by mutex_.
  std::map<std::string, Entry> entries_;
  std::unordered_map<ContextId, Entry*> by_id_;  // into entries_, whose nodes do not move
  std::condition_variable text_arrived_;
  bool shutdown_ = false;
  uint64_t next_upload_ = 0;
  uint64_t last_id_ = 0;
  // For the estimate of tokens_pending.
  uint64_t tokenised_bytes_ = 0;
  uint64_t tokenised_tokens_ = 0;
};

}  // namespace varve
