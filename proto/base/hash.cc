#include "proto/base/hash.h"

#include <fmt/format.h>
#include <xxhash.h>

#include "proto/base/check.h"

namespace varve {

struct Hasher64::State {
  XXH3_state_t* xxh = nullptr;
};

uint64_t Hash64(std::span<const std::byte> bytes, uint64_t seed) {
  return XXH3_64bits_withSeed(bytes.data(), bytes.size(), seed);
}

uint64_t Hash64(std::string_view bytes, uint64_t seed) {
  return XXH3_64bits_withSeed(bytes.data(), bytes.size(), seed);
}

Hasher64::Hasher64() : state_(std::make_unique<State>()) {
  state_->xxh = XXH3_createState();
  VARVE_CHECK(state_->xxh != nullptr);
  XXH3_64bits_reset(state_->xxh);
}

Hasher64::~Hasher64() {
  if (state_ != nullptr) {
    XXH3_freeState(state_->xxh);
  }
}

Hasher64::Hasher64(Hasher64&&) noexcept = default;

Hasher64& Hasher64::operator=(Hasher64&& other) noexcept {
  std::swap(state_, other.state_);
  return *this;
}

void Hasher64::Update(std::span<const std::byte> bytes) {
  XXH3_64bits_update(state_->xxh, bytes.data(), bytes.size());
}

void Hasher64::Update(std::string_view bytes) {
  XXH3_64bits_update(state_->xxh, bytes.data(), bytes.size());
}

uint64_t Hasher64::Digest() const {
  return XXH3_64bits_digest(state_->xxh);
}

std::string HashToHex(uint64_t hash) {
  return fmt::format("{:016x}", hash);
}

}  // namespace varve
