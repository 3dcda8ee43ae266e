// How the workers of a group exchange data inside a step. Every rank runs the same straight-line
// coroutine; at each exchange it says `co_await communicator.AllGather(...)` and goes on when its
// part has arrived (or, on a device, when the exchange is enqueued on the stream that its kernels
// use).
//
// Collective: every rank makes the same exchanges in the same order. Each carries a tag (epoch,
// step, sequence number) that is verified on arrival, so that a late message of step t is never
// taken for one of step t + 1.
//
// Buffers. Data are floats; memory is of the stream's kind. Two rules let one process share instead
// of copy, and cost the other implementations nothing:
//   - what a rank sends, and the spans that describe it, stay untouched until its *next* exchange
//   has completed;
//   - a replicated buffer has the same content on every rank after an exchange. A rank writes only
//   its own part, and between
//     the last read of the old content by any rank and that write there is another exchange.
// In one process all ranks share one replicated buffer, so a gather moves nothing.
//
// Errors are sticky: after a lost peer or a foreign tag the exchanges complete at once with
// unspecified content, and Status() says why. A step asks once, at its end, as one asks a device
// stream.
//
// Threads: a communicator belongs to its rank.
// Next: worker/local_communicator.h
#pragma once

#include <array>
#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <span>

#include "proto/base/ids.h"
#include "proto/base/result.h"

namespace varve {

enum class MemoryKind : uint8_t { kHost, kDevice };

// An order of work on one device. Kernels and exchanges that are enqueued on the same stream run
// one after the other.
class Stream {
 public:
  virtual ~Stream() = default;
  virtual MemoryKind memory_kind() const = 0;
};

// The stream of the CPU: work is done when the call returns.
Stream& HostStream();

struct ExchangeTag {
  Epoch epoch;
  uint64_t step = 0;
  uint64_t sequence = 0;  // counts the exchanges of the step
  bool operator==(const ExchangeTag&) const = default;
};

enum class ExchangeKind : uint8_t {
  kAllGather,
  kAllToAll,
  kReduceScatter,
  kAllReduce,
  kBroadcast,
  kBarrier
};

// A matrix whose columns belong to the ranks: rank r's begin at the sum of the widths before it.
// Some widths may be 0.
struct SharedColumns {
  float* data = nullptr;  // [rows, sum of widths], in a replicated buffer
  size_t rows = 0;
  size_t stride = 0;               // floats from one row to the next
  std::span<const size_t> widths;  // [size]
};

// What a rank sends to each other rank: columns of a matrix.
struct SentColumns {
  const float* data = nullptr;  // [rows, sum of widths]
  size_t rows = 0;
  size_t stride = 0;
  std::span<const size_t> widths;  // [size]; rank d gets widths[d] columns
};

struct ReceivedRows {
  const float* data = nullptr;  // [rows, widths[own rank]]
  size_t stride = 0;
};

inline constexpr size_t kMaxSentMatrices = 5;

// One exchange as an implementation sees it; which fields count depends on the kind.
struct ExchangeRequest {
  ExchangeKind kind = ExchangeKind::kBarrier;
  ExchangeTag tag;
  Stream* stream = nullptr;
  SharedColumns shared;                            // AllGather
  std::array<SentColumns, kMaxSentMatrices> sent;  // AllToAll
  size_t num_sent = 0;
  std::span<ReceivedRows> received;  // AllToAll: [num_sent, size]
  const float* source = nullptr;     // ReduceScatter: [sum of counts, width]; AllReduce: [width]
  size_t width = 0;                  // also of Broadcast
  std::span<const size_t> counts;    // ReduceScatter: rows for each rank
  float* target = nullptr;  // ReduceScatter: [counts[rank], width]; AllReduce, Broadcast: [width]
  int root = 0;             // Broadcast
};

class Communicator;

// What co_await waits for.
class [[nodiscard]] Exchange {
 public:
  Exchange(Communicator& communicator, const ExchangeRequest& request)
      : communicator_(communicator), request_(request) {}
  bool await_ready();
  void await_suspend(std::coroutine_handle<> waiting);
  void await_resume();

 private:
  Communicator& communicator_;
  ExchangeRequest request_;
};

class Communicator {
 public:
  virtual ~Communicator() = default;

  virtual int rank() const = 0;
  virtual int size() const = 0;
  virtual Result<void> Status() const = 0;

  // Memory whose content is the same on every rank. Every rank asks for the same buffers in the
  // same order, before the first step. Lives as long as the group.
  virtual std::span<float> AllocateReplicated(size_t count, MemoryKind kind) = 0;

  // Each rank has written its columns; afterwards every rank may read all. Rows of a matrix are
  // gathered as one row whose widths are multiples of the matrix's.
  Exchange AllGather(Stream& stream, ExchangeTag tag, const SharedColumns& shared);

  // Each rank sends columns of each matrix to each rank. received[m * size + r]: what rank r sent
  // of matrix m, readable until this rank's next exchange. The spans live until the exchange is
  // over.
  Exchange AllToAll(Stream& stream,
                    ExchangeTag tag,
                    std::span<const SentColumns> sent,
                    std::span<ReceivedRows> received);

  // Each rank has a term [sum of counts, width]; rank r gets rows of the sum, those after the
  // counts before it. Terms are added in rank order, so the result is reproducible. `target` may be
  // `source` in a group of one.
  Exchange ReduceScatter(Stream& stream,
                         ExchangeTag tag,
                         const float* source,
                         std::span<const size_t> counts,
                         size_t width,
                         float* target);

  // The sum over all ranks, added in rank order, to every rank. For short vectors; long ones are a
  // ReduceScatter and an AllGather. `target` is not `source`.
  Exchange AllReduce(Stream& stream,
                     ExchangeTag tag,
                     const float* source,
                     size_t width,
                     float* target);

  // What rank `root` has written into a replicated buffer, to every rank.
  Exchange Broadcast(Stream& stream, ExchangeTag tag, float* data, size_t width, int root);

  // Every rank has come this far.
  Exchange Barrier(Stream& stream, ExchangeTag tag);

 protected:
  friend class Exchange;
  // Begins an exchange. True: it is complete (or enqueued), the rank goes on without suspending.
  virtual bool Start(const ExchangeRequest& request) = 0;
  // The rank is suspended; `waiting` is to be resumed when the exchange can be finished.
  virtual void Suspend(std::coroutine_handle<> waiting) = 0;
  // The rank goes on: brings its part to where it belongs.
  virtual void Finish(const ExchangeRequest& request) = 0;
};

}  // namespace varve
