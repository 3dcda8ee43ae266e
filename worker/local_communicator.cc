#include "worker/local_communicator.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "kernels/dense.h"

namespace varve {
namespace {

size_t SumBefore(std::span<const size_t> counts, int rank) {
  return std::accumulate(counts.begin(), counts.begin() + rank, size_t{0});
}

bool SameCounts(std::span<const size_t> a, std::span<const size_t> b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end());
}

// Whether two ranks mean the same exchange.
bool Agree(const ExchangeRequest& a, const ExchangeRequest& b) {
  if (a.kind != b.kind || !(a.tag == b.tag) || a.width != b.width || a.root != b.root ||
      a.stream->memory_kind() != b.stream->memory_kind() || !SameCounts(a.counts, b.counts) ||
      a.shared.data != b.shared.data || a.shared.rows != b.shared.rows ||
      !SameCounts(a.shared.widths, b.shared.widths) || a.num_sent != b.num_sent) {
    return false;
  }
  for (size_t m = 0; m < a.num_sent; ++m) {
    if (a.sent[m].rows != b.sent[m].rows || !SameCounts(a.sent[m].widths, b.sent[m].widths)) {
      return false;
    }
  }
  return a.kind != ExchangeKind::kBroadcast || a.target == b.target;
}

}  // namespace

// One rank's communicator. Aligned so that two ranks never write to one cache line.
class alignas(128) LocalGroup::Member final : public Communicator {
 public:
  Member(LocalGroup& group, int rank) : group_(group), rank_(rank) {}

  int rank() const override { return rank_; }
  int size() const override { return group_.size(); }
  Result<void> Status() const override { return {}; }

  std::span<float> AllocateReplicated(size_t count, MemoryKind kind) override {
    VARVE_CHECK(kind == MemoryKind::kHost);
    if (num_replicated_ == group_.replicated_.size()) {
      group_.replicated_.emplace_back(count);
    }
    std::vector<float>& buffer = group_.replicated_[num_replicated_++];
    VARVE_CHECK(buffer.size() == count);
    return buffer;
  }

  // The coroutine to run in the next superstep.
  void set_next(std::coroutine_handle<> next) { next_ = next; }
  void Resume() { next_.resume(); }

 protected:
  bool Start(const ExchangeRequest& request) override {
    VARVE_CHECK(request.stream->memory_kind() == MemoryKind::kHost);
    // Two slots: while a slow rank still reads this exchange's requests, a fast one may already
    // state its next.
    ++num_exchanges_;
    requests_[num_exchanges_ % 2] = request;
    return size() == 1;
  }

  void Suspend(std::coroutine_handle<> waiting) override { next_ = waiting; }

  void Finish(const ExchangeRequest& request) override {
    for (int other = 0; other < size(); ++other) {
      VARVE_CHECK(Agree(request, RequestOf(other)));
    }
    switch (request.kind) {
      case ExchangeKind::kAllGather:
      case ExchangeKind::kBroadcast:
      case ExchangeKind::kBarrier:
        break;  // all ranks share the memory
      case ExchangeKind::kAllToAll:
        Receive(request);
        break;
      case ExchangeKind::kReduceScatter: {
        const size_t rows = request.counts[static_cast<size_t>(rank_)];
        AddUp(request, SumBefore(request.counts, rank_), rows);
        break;
      }
      case ExchangeKind::kAllReduce:
        AddUp(request, 0, 1);
        break;
    }
  }

 private:
  const ExchangeRequest& RequestOf(int other) const {
    return group_.members_[static_cast<size_t>(other)]->requests_[num_exchanges_ % 2];
  }

  // Points into the senders' memory.
  void Receive(const ExchangeRequest& request) {
    const auto ranks = static_cast<size_t>(size());
    for (size_t m = 0; m < request.num_sent; ++m) {
      const size_t column = SumBefore(request.sent[m].widths, rank_);
      for (size_t r = 0; r < ranks; ++r) {
        const SentColumns& sent = RequestOf(static_cast<int>(r)).sent[m];
        request.received[m * ranks + r] = {.data = sent.data + column, .stride = sent.stride};
      }
    }
  }

  // target = rows [first_row, first_row + rows) of the sum of all sources, row by row so that a sum
  // stays in cache.
  void AddUp(const ExchangeRequest& request, size_t first_row, size_t rows) {
    const size_t width = request.width;
    for (size_t row = 0; row < rows; ++row) {
      float* target = request.target + row * width;
      const size_t offset = (first_row + row) * width;
      const float* first = RequestOf(0).source + offset;
      if (target != first) {
        std::memcpy(target, first, width * sizeof(float));
      }
      for (int other = 1; other < size(); ++other) {
        AddInPlace(target, RequestOf(other).source + offset, width);
      }
    }
  }

  LocalGroup& group_;
  const int rank_;
  std::coroutine_handle<> next_;
  size_t num_replicated_ = 0;
  uint64_t num_exchanges_ = 0;
  ExchangeRequest requests_[2];
};

LocalGroup::LocalGroup(int num_ranks, int num_threads)
    : team_(std::clamp(num_threads, 1, num_ranks)) {
  VARVE_CHECK(num_ranks >= 1);
  for (int rank = 0; rank < num_ranks; ++rank) {
    members_.push_back(std::make_unique<Member>(*this, rank));
  }
}

LocalGroup::~LocalGroup() = default;

Communicator& LocalGroup::communicator(int rank) {
  return *members_[static_cast<size_t>(rank)];
}

void LocalGroup::Run(std::span<Task> tasks) {
  VARVE_CHECK(tasks.size() == members_.size());
  for (size_t rank = 0; rank < members_.size(); ++rank) {
    members_[rank]->set_next(tasks[rank].handle());
  }
  size_t num_done = 0;
  while (num_done == 0) {
    team_.ParallelFor(members_.size(),
                      [this](size_t rank, int /*thread*/) { members_[rank]->Resume(); });
    for (const Task& task : tasks) {
      num_done += task.done() ? 1 : 0;
    }
  }
  // Every rank makes the same exchanges, so all end in the same superstep.
  VARVE_CHECK(num_done == tasks.size());
}

}  // namespace varve
