// The one hash of Varve: XXH3-64, for page checksums, for model, tokenizer and codec-table
// identity, and for text prefixes. It detects damage and mix-ups; it is no defence against an
// attacker who forges bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace varve {

uint64_t Hash64(std::span<const std::byte> bytes, uint64_t seed = 0);
uint64_t Hash64(std::string_view bytes, uint64_t seed = 0);

// The same hash over bytes that arrive in pieces: Digest() equals Hash64 of all of them in order.
class Hasher64 {
 public:
  Hasher64();
  ~Hasher64();
  Hasher64(Hasher64&&) noexcept;
  Hasher64& operator=(Hasher64&&) noexcept;

  void Update(std::span<const std::byte> bytes);
  void Update(std::string_view bytes);
  uint64_t Digest() const;  // may be called at any time; more bytes may follow

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// 16 lower-case hex digits, as hashes are shown to users.
std::string HashToHex(uint64_t hash);

}  // namespace varve
