#include "worker/communicator.h"

namespace varve {
namespace {

class Host final : public Stream {
 public:
  MemoryKind memory_kind() const override { return MemoryKind::kHost; }
};

}  // namespace

Stream& HostStream() {
  static Host stream;
  return stream;
}

bool Exchange::await_ready() {
  return communicator_.Start(request_);
}
void Exchange::await_suspend(std::coroutine_handle<> waiting) {
  communicator_.Suspend(waiting);
}
void Exchange::await_resume() {
  communicator_.Finish(request_);
}

Exchange Communicator::AllGather(Stream& stream, ExchangeTag tag, const SharedColumns& shared) {
  VARVE_DCHECK(shared.widths.size() == static_cast<size_t>(size()));
  return {*this,
          {.kind = ExchangeKind::kAllGather, .tag = tag, .stream = &stream, .shared = shared}};
}

Exchange Communicator::AllToAll(Stream& stream,
                                ExchangeTag tag,
                                std::span<const SentColumns> sent,
                                std::span<ReceivedRows> received) {
  VARVE_CHECK(sent.size() <= kMaxSentMatrices);
  VARVE_CHECK(received.size() == sent.size() * static_cast<size_t>(size()));
  ExchangeRequest request{
      .kind = ExchangeKind::kAllToAll, .tag = tag, .stream = &stream, .received = received};
  for (const SentColumns& matrix : sent) {
    request.sent[request.num_sent++] = matrix;
  }
  return {*this, request};
}

Exchange Communicator::ReduceScatter(Stream& stream,
                                     ExchangeTag tag,
                                     const float* source,
                                     std::span<const size_t> counts,
                                     size_t width,
                                     float* target) {
  VARVE_CHECK(counts.size() == static_cast<size_t>(size()));
  return {*this,
          {.kind = ExchangeKind::kReduceScatter,
           .tag = tag,
           .stream = &stream,
           .source = source,
           .width = width,
           .counts = counts,
           .target = target}};
}

Exchange Communicator::AllReduce(Stream& stream,
                                 ExchangeTag tag,
                                 const float* source,
                                 size_t width,
                                 float* target) {
  VARVE_CHECK(source != target);
  return {*this,
          {.kind = ExchangeKind::kAllReduce,
           .tag = tag,
           .stream = &stream,
           .source = source,
           .width = width,
           .target = target}};
}

Exchange Communicator::Broadcast(Stream& stream,
                                 ExchangeTag tag,
                                 float* data,
                                 size_t width,
                                 int root) {
  VARVE_CHECK(root >= 0 && root < size());
  return {*this,
          {.kind = ExchangeKind::kBroadcast,
           .tag = tag,
           .stream = &stream,
           .width = width,
           .target = data,
           .root = root}};
}

Exchange Communicator::Barrier(Stream& stream, ExchangeTag tag) {
  return {*this, {.kind = ExchangeKind::kBarrier, .tag = tag, .stream = &stream}};
}

}  // namespace varve
