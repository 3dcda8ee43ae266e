// Holding a model's dense weights in int8 (`--weights int8`, kernels/weight_block.h).
//
// Converted once, when the model is loaded, into memory of this process: 8.25 bits for each weight
// of q, k, v, o, gate, up, down and the lm_head (also a tied one: the embedding, whose rows are
// looked up, stays as it is stored). Norms and biases stay, too. The ranks of one process share the
// blocks and multiply slices of them, so that the number of workers does not change what a weight
// is. The files stay mapped; of their pages only the rows of the embedding are touched again, the
// rest is cache that the system may take back.
#pragma once

#include <cstdint>
#include <memory>

#include "kernels/thread_team.h"
#include "kernels/weight_block.h"

namespace varve {

struct ModelWeights;

// Uninitialised blocks on huge pages, if there are any: weights are read at the rate of the memory.
class WeightBlocks {
 public:
  WeightBlocks() = default;
  explicit WeightBlocks(size_t count);

  WeightBlock* data() { return data_.get(); }
  size_t count() const { return count_; }

 private:
  struct Free {
    void operator()(WeightBlock* data) const;
  };
  std::unique_ptr<WeightBlock[], Free> data_;
  size_t count_ = 0;
};

// Replaces the views of the matrices by views of int8 blocks, which `weights` owns from then on,
// and its bytes and hash by those of what is held now: KV that other weights computed belongs to
// another model.
void HoldInInt8(ModelWeights& weights, ThreadTeam& team);

}  // namespace varve
