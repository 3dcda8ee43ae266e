// Goal: no bytes crash the reader of page records, and none are taken for a page that was not
// written. Method: seeded mutations of good records; every second one gets a valid checksum again,
// so that the checks behind it are reached too.
#include <cstring>

#include <gtest/gtest.h>

#include "kvstore/page_format.h"
#include "kvstore/sealer.h"
#include "proto/base/rng.h"
#include "tests/kvstore/kv_support.h"
#include "tests/support/result_matchers.h"

namespace varve {
namespace {

PageIdentity Identity(bool tail) {
  PageIdentity identity;
  identity.key = PageKey{PageKey::Space::kContext, 7, 0, 0, 2};
  identity.kind = tail ? RecordKind::kTail : RecordKind::kSealed;
  identity.commit_version = tail ? 4 : 0;
  identity.num_kv_heads = 2;
  identity.head_dim = 8;
  identity.page_tokens = 16;
  identity.first_position = 32;
  identity.num_tokens = 16;
  return identity;
}

std::vector<std::byte> GoodRecord(const PageIdentity& identity) {
  KvPolicy policy;
  policy.page_tokens = 16;
  policy.sink_tokens = 40;
  const ResolvedPolicy resolved = ResolvedPolicy::Resolve(policy, MakeGeometry(2, 8, {0})).value();
  Sealer sealer(MakeGeometry(2, 8, {0}));
  sealer.Reserve(resolved);
  UnsealedRun run;
  run.first_position = 32;
  run.token_capacity = 16;
  run.bytes.resize(resolved.exact->EncodedBytes(sealer.ShapeOf(16)));
  const std::vector<float> values(256, 1.5F);
  resolved.exact->Encode(
      sealer.ShapeOf(16), 0, 16, values.data(), values.data(), 16, {}, run.bytes);
  return identity.kind == RecordKind::kTail ? sealer.WriteTail(resolved, identity, run)
                                            : sealer.Seal(resolved, identity, run);
}

void Mutate(std::vector<std::byte>& record, Rng& rng) {
  const size_t changes = 1 + rng.Below(4);
  for (size_t i = 0; i < changes && !record.empty(); ++i) {
    // Half of the changes hit the header and the table.
    const size_t at =
        rng.Below(rng.Below(2) == 0 ? std::min<size_t>(record.size(), 240) : record.size());
    switch (rng.Below(5)) {
      case 0:
        record[at] ^= static_cast<std::byte>(1 << rng.Below(8));
        break;
      case 1:
        record[at] = static_cast<std::byte>(rng.Below(256));
        break;
      case 2:
        std::fill(record.begin() + static_cast<ptrdiff_t>(at),
                  record.begin() + static_cast<ptrdiff_t>(std::min(record.size(), at + 8)),
                  static_cast<std::byte>(rng.Below(2) == 0 ? 0xff : 0));
        break;
      case 3:
        record.resize(at);
        break;
      default:
        record.insert(record.begin() + static_cast<ptrdiff_t>(at),
                      static_cast<std::byte>(rng.Below(256)));
    }
  }
}

// Touches every byte that a reader of the record would.
void ReadAll(const PageRecord& record) {
  std::vector<float> k(static_cast<size_t>(record.identity.num_tokens) * 16);
  std::vector<float> v(k.size());
  for (const PageRun& run : record.runs) {
    if (run.codec->needs_tables()) {
      continue;  // by the tables' hash, whoever binds them decides whether and how to decode
    }
    run.codec->Decode(
        {2, 8, run.token_capacity}, 0, run.num_tokens, run.encoded, {}, k.data(), v.data());
  }
}

TEST(PageFormatFuzz, MutatedRecordsAreRefusedOrUnchanged) {
  int refused = 0;
  int resealed_accepted = 0;
  for (uint64_t seed = 1; seed <= 20'000; ++seed) {
    Rng rng(seed);
    const PageIdentity identity = Identity(seed % 3 == 0);
    const auto good = GoodRecord(identity);
    auto record = good;
    Mutate(record, rng);
    const bool resealed = seed % 2 == 0 && RewriteChecksum(identity.key, record);
    const auto parsed = ParsePageRecord(record, identity);
    refused += parsed.has_value() ? 0 : 1;
    if (parsed.has_value()) {
      ReadAll(*parsed);
      EXPECT_TRUE(resealed || record == good) << "seed " << seed;
      resealed_accepted += resealed ? 1 : 0;
    } else {
      EXPECT_FALSE(parsed.error().message.empty());
    }
  }
  EXPECT_GT(refused, 10'000);
  EXPECT_GT(resealed_accepted,
            100);  // changed payloads: the checks behind the checksum were reached
}

TEST(PageFormatFuzz, RandomBytesAreRefused) {
  Rng rng(1);
  for (int i = 0; i < 5000; ++i) {
    std::vector<std::byte> bytes(rng.Below(600));
    for (std::byte& byte : bytes) {
      byte = static_cast<std::byte>(rng.Next());
    }
    EXPECT_FALSE(ParsePageRecord(bytes, Identity(false)).has_value());
  }
}

}  // namespace
}  // namespace varve
