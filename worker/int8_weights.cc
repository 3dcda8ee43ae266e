#include "worker/int8_weights.h"

#include <cstdlib>
#include <new>
#include <vector>

#include <fmt/format.h>
#include <sys/mman.h>

#include "proto/base/hash.h"
#include "worker/weights.h"

namespace varve {
namespace {

constexpr size_t kHugePageBytes = size_t{2} << 20;
// Changes with the meaning of the blocks.
constexpr const char* kFormat = "weights int8 v1";

std::vector<WeightView*> Matrices(ModelWeights& weights) {
  std::vector<WeightView*> matrices;
  for (LayerWeights& layer : weights.layers) {
    for (WeightView* matrix :
         {&layer.q, &layer.k, &layer.v, &layer.o, &layer.gate, &layer.up, &layer.down}) {
      matrices.push_back(matrix);
    }
  }
  matrices.push_back(&weights.lm_head);
  return matrices;
}

}  // namespace

WeightBlocks::WeightBlocks(size_t count) : count_(count) {
  const size_t bytes =
      (count * sizeof(WeightBlock) + kHugePageBytes - 1) / kHugePageBytes * kHugePageBytes;
  void* memory = ::operator new (bytes, std::align_val_t{kHugePageBytes});
  // Advice: without huge pages all is the same, only slower.
  (void)madvise(memory, bytes, MADV_HUGEPAGE);
  data_.reset(static_cast<WeightBlock*>(memory));
}

void WeightBlocks::Free::operator()(WeightBlock* data) const {
  ::operator delete (data, std::align_val_t{kHugePageBytes});
}

void HoldInInt8(ModelWeights& weights, ThreadTeam& team) {
  const std::vector<WeightView*> matrices = Matrices(weights);
  size_t num_blocks = 0;
  for (const WeightView* matrix : matrices) {
    num_blocks += NumWeightBlocks(matrix->rows, matrix->cols);
  }
  weights.blocks = WeightBlocks(num_blocks);
  WeightBlock* blocks = weights.blocks.data();
  for (WeightView* matrix : matrices) {
    // A tied lm_head stays in memory in both forms.
    if (matrix->data != weights.embedding.data) {
      weights.bytes -= matrix->rows * matrix->cols * DTypeBytes(matrix->dtype);
    }
    const size_t count = NumWeightBlocks(matrix->rows, matrix->cols);
    *matrix = QuantiseWeights(*matrix, blocks, team);
    blocks += count;
    weights.bytes += count * sizeof(WeightBlock);
  }
  Hasher64 hasher;
  hasher.Update(fmt::format("{} {:016x}\n", kFormat, weights.model_hash));
  weights.model_hash = hasher.Digest();
}

}  // namespace varve
