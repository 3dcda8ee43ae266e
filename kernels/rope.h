// Rotary position embedding (RoFormer, 2104.09864) of keys that a codec keeps before it: undone
// when a run is encoded, redone when it is decoded.
//
// A rotation by a position is the product of the rotations by its digits to base 256, which are
// tables: no sine is taken behind the constructor, and no angle loses its fraction at position
// 10^7. cos and sin are off by at most 4e-7.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace varve {

// As a configuration describes it, reduced to what the computation needs: one frequency for each
// pair (i, i + head_dim / 2), the Hugging Face convention, and one factor.
struct RopeSpec {
  std::vector<double> inv_freq;   // [head_dim / 2], radians per position
  double attention_factor = 1.0;  // multiplies cos and sin (yarn)

  bool operator==(const RopeSpec&) const = default;
};

// The rotation alone: keys that were also multiplied by the attention factor keep it.
class Rope {
 public:
  explicit Rope(const RopeSpec& spec);

  size_t head_dim() const { return head_dim_; }
  // REQUIRES: 0 <= position < 2^32. out: [head_dim], cos of each pair, then sin of each pair.
  void Turn(int64_t position, float* out) const;

 private:
  static constexpr size_t kDigits = 256;
  static constexpr size_t kLevels = 4;

  const float* Row(size_t level, size_t digit) const {
    return table_.data() + (level * kDigits + digit) * head_dim_;
  }

  size_t head_dim_;
  std::vector<float> table_;  // [kLevels, kDigits, head_dim], each row as Turn
};

// Where the tokens of a run stand.
struct RopePositions {
  int64_t first = 0;
  const int32_t* offsets = nullptr;  // [num_tokens] from `first`; null: 0, 1, 2, ...
};

// Rotates the rows of x, [num_tokens, head_dim], by their positions, or back.
void TurnRows(const Rope& rope, const RopePositions& positions, size_t num_tokens, float* x);
void TurnRowsBack(const Rope& rope, const RopePositions& positions, size_t num_tokens, float* x);

}  // namespace varve
