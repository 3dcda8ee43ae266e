#include "tests/kvstore/kv_support.h"

#include <algorithm>
#include <thread>

#include "kernels/codec/codec.h"
#include "proto/base/hash.h"
#include "proto/base/rng.h"

namespace varve {

KvGeometry MakeGeometry(int32_t num_kv_heads,
                        int32_t head_dim,
                        std::vector<int64_t> layer_windows) {
  return KvGeometry{num_kv_heads, head_dim, std::move(layer_windows)};
}

namespace {

// A multiple of 1/64 in [-2, 2): exact in bf16, which has 8 significant bits.
float NumberAt(uint64_t salt, int32_t layer, int64_t position, int32_t channel) {
  const uint64_t place = static_cast<uint64_t>(position) << 24 ^
                         static_cast<uint64_t>(layer) << 16 ^ static_cast<uint64_t>(channel);
  return static_cast<float>(static_cast<int64_t>(Mix64(Mix64(salt) ^ place) % 256) - 128) / 64.0F;
}

}  // namespace

float CodecSlack(CodecId codec) {
  switch (codec) {
    case CodecId::kInt8:
      return 2.0F / 127;
    case CodecId::kInt4:
      return 0.35F;
    case CodecId::kInt2:
      return 2.1F;
    default:
      return 0.0F;
  }
}

float KeyAt(uint64_t salt, int32_t layer, int64_t position, int32_t channel) {
  return NumberAt(2 * salt, layer, position, channel);
}

float ValueAt(uint64_t salt, int32_t layer, int64_t position, int32_t channel) {
  return NumberAt(2 * salt + 1, layer, position, channel);
}

float QueryAt(uint64_t salt, int32_t layer, int64_t position, int32_t channel) {
  return NumberAt(~salt, layer, position, channel);
}

Result<std::vector<SeenToken>> ReadStore(KvStore& store,
                                         const KvGeometry& geometry,
                                         SequenceId sequence,
                                         int32_t layer,
                                         int64_t first_query,
                                         int64_t last_query,
                                         int rank) {
  std::vector<SeenToken> seen;
  auto cursor = store.Read(sequence, layer, first_query, last_query, nullptr, 0);
  const auto channels = static_cast<size_t>(geometry.num_kv_heads * geometry.head_dim);
  while (true) {
    VARVE_TRY(const auto views, cursor->Next());
    if (views.empty()) {
      return seen;
    }
    for (const KvView& view : views) {
      VARVE_TRY(const Codec* codec, FindCodec(view.codec));
      std::vector<float> k(static_cast<size_t>(view.num_tokens) * channels);
      std::vector<float> v(k.size());
      codec->Decode({geometry.num_kv_heads, geometry.head_dim, view.token_capacity},
                    view.first_token,
                    view.num_tokens,
                    view.encoded,
                    view.context(),
                    k.data(),
                    v.data());
      for (int32_t t = 0; t < view.num_tokens; ++t) {
        const auto at = static_cast<ptrdiff_t>(static_cast<size_t>(t) * channels);
        const auto end = at + static_cast<ptrdiff_t>(channels);
        seen.push_back({view.first_position + view.first_token + t,
                        rank,
                        view.codec,
                        {k.begin() + at, k.begin() + end},
                        {v.begin() + at, v.begin() + end}});
      }
    }
  }
}

StoreGroup::StoreGroup(const KvGeometry& geometry,
                       int num_workers,
                       uint64_t host_budget_bytes,
                       DiskTier* disk,
                       uint64_t device_budget_bytes)
    : geometry_(geometry), disk_(disk) {
  for (int rank = 0; rank < num_workers; ++rank) {
    const KvStoreOptions options{.geometry = geometry,
                                 .shard = {rank, num_workers},
                                 .host_budget_bytes = host_budget_bytes,
                                 .device_budget_bytes = device_budget_bytes,
                                 .demotion_cpu_share = 1.0};
    auto store = KvStore::Open(options, disk);
    VARVE_CHECK(store.has_value());
    stores_.push_back(std::move(store).value());
  }
}

Result<void> StoreGroup::OpenSequence(SequenceId sequence, const OpenSequenceOptions& options) {
  for (size_t i = 0; i < stores_.size(); ++i) {
    if (auto opened = stores_[i]->OpenSequence(sequence, options); !opened) {
      while (i-- > 0) {
        VARVE_RETURN_IF_ERROR(stores_[i]->CloseSequence(sequence));
      }
      return opened;
    }
  }
  return {};
}

Result<void> StoreGroup::CloseSequence(SequenceId sequence) {
  Result<void> closed;
  for (auto& store : stores_) {
    Result<void> one = store->CloseSequence(sequence);
    closed = closed ? std::move(one) : std::move(closed);
  }
  return closed;
}

Result<void> StoreGroup::Step(SequenceId sequence,
                              uint64_t salt,
                              int32_t num_tokens,
                              const std::function<void()>& within) {
  const int64_t first = Length(sequence);
  const int32_t channels = geometry_.num_kv_heads * geometry_.head_dim;
  for (size_t i = 0; i < stores_.size(); ++i) {
    if (auto begun = stores_[i]->BeginStep(sequence, first, num_tokens); !begun) {
      while (i-- > 0) {
        stores_[i]->AbortStep(sequence);
      }
      return begun;
    }
  }
  std::vector<float> k(static_cast<size_t>(num_tokens) * static_cast<size_t>(channels));
  std::vector<float> v(k.size());
  for (int32_t layer = 0; layer < geometry_.num_layers(); ++layer) {
    for (int32_t t = 0; t < num_tokens; ++t) {
      for (int32_t c = 0; c < channels; ++c) {
        const auto at =
            static_cast<size_t>(t) * static_cast<size_t>(channels) + static_cast<size_t>(c);
        k[at] = KeyAt(salt, layer, first + t, c);
        v[at] = ValueAt(salt, layer, first + t, c);
      }
    }
    for (auto& store : stores_) {
      store->Append(
          sequence, layer, first, num_tokens, k.data(), v.data(), static_cast<size_t>(channels));
    }
    if (stores_[0]->ObservesQueries(sequence)) {
      ShowQueries(sequence, salt, layer, first, num_tokens);
    }
  }
  if (within) {
    within();
  }
  Result<void> ended;
  for (auto& store : stores_) {
    Result<void> one = store->EndStep(sequence);
    ended = ended ? std::move(one) : std::move(ended);
  }
  return ended;
}

void StoreGroup::ShowQueries(SequenceId sequence,
                             uint64_t salt,
                             int32_t layer,
                             int64_t first,
                             int32_t count) {
  const int32_t channels = geometry_.num_qo_heads * geometry_.head_dim;
  std::vector<float> q;
  for (int64_t position = first; position < first + count; ++position) {
    for (int32_t c = 0; c < channels; ++c) {
      q.push_back(query_ ? query_(layer, position, c) : QueryAt(salt, layer, position, c));
    }
  }
  for (auto& store : stores_) {
    store->Observe(sequence, layer, first, count, q.data(), static_cast<size_t>(channels));
  }
}

Result<void> StoreGroup::CreateContext(const ContextManifest& manifest) {
  for (auto& store : stores_) {
    VARVE_RETURN_IF_ERROR(store->CreateContext(manifest));
  }
  return {};
}

Result<void> StoreGroup::RecoverContext(const ContextManifest& manifest) {
  for (auto& store : stores_) {
    VARVE_RETURN_IF_ERROR(store->RecoverContext(manifest));
  }
  return {};
}

Result<void> StoreGroup::FinishRecovery() {
  for (auto& store : stores_) {
    VARVE_RETURN_IF_ERROR(store->FinishRecovery());
  }
  return {};
}

Result<void> StoreGroup::ForkContext(const ContextManifest& source, uint64_t fork) {
  VARVE_TRY(
      const ContextManifest manifest,
      ForkOf(
          source,
          {.source = source.id, .id = ContextId{fork}, .name = "context-" + std::to_string(fork)}));
  for (auto& store : stores_) {
    VARVE_RETURN_IF_ERROR(store->ForkContext(source.id, manifest));
  }
  return disk_ == nullptr ? Result<void>() : disk_->WriteManifest(manifest);
}

Result<void> StoreGroup::Prepare(SequenceId sequence, const ContextManifest& manifest) {
  for (auto& store : stores_) {
    VARVE_RETURN_IF_ERROR(store->PrepareCommit(sequence, manifest));
  }
  return {};
}

Result<void> StoreGroup::Finish(const ContextManifest& manifest) {
  for (auto& store : stores_) {
    VARVE_RETURN_IF_ERROR(store->FinishCommit(manifest));
  }
  return {};
}

Result<void> StoreGroup::Commit(SequenceId sequence, const ContextManifest& manifest) {
  VARVE_RETURN_IF_ERROR(Prepare(sequence, manifest));
  if (disk_ != nullptr) {
    VARVE_TRY(const auto manifests, disk_->ListManifests());
    int64_t before = 0;
    for (const ContextManifest& old : manifests) {
      before = old.id == manifest.id ? old.num_tokens : before;
    }
    VARVE_RETURN_IF_ERROR(disk_->CommitManifest(manifest, MakeAppend(before, manifest.num_tokens)));
  }
  return Finish(manifest);
}

Result<void> StoreGroup::DeleteContext(ContextId context) {
  for (auto& store : stores_) {
    VARVE_RETURN_IF_ERROR(store->DeleteContext(context));
  }
  return {};
}

Result<std::vector<SeenToken>> StoreGroup::Read(SequenceId sequence,
                                                int32_t layer,
                                                int64_t first_query,
                                                int64_t last_query) {
  std::vector<SeenToken> all;
  for (int rank = 0; rank < num_workers(); ++rank) {
    VARVE_TRY(auto seen,
              ReadStore(store(rank), geometry_, sequence, layer, first_query, last_query, rank));
    EXPECT_TRUE(std::is_sorted(
        seen.begin(),
        seen.end(),
        [](const SeenToken& a, const SeenToken& b) { return a.position < b.position; }))
        << "a store's views are not in page order";
    std::move(seen.begin(), seen.end(), std::back_inserter(all));
  }
  std::sort(all.begin(), all.end(), [](const SeenToken& a, const SeenToken& b) {
    return a.position < b.position;
  });
  for (size_t i = 1; i < all.size(); ++i) {
    EXPECT_LT(all[i - 1].position, all[i].position) << "a position is seen twice";
  }
  return all;
}

void StoreGroup::SettleLadders() {
  for (auto& store : stores_) {
    while (store->Maintain()) {
      ExpectWithinBudget();
      std::this_thread::yield();
    }
  }
}

void StoreGroup::ExpectWithinBudget() {
  for (auto& store : stores_) {
    const WorkerStats stats = store->Stats();
    if (stats.device.budget != 0) {
      EXPECT_LE(stats.device.used, stats.device.budget);
    }
    if (stats.host.budget != 0) {
      EXPECT_LE(stats.host.used, stats.host.budget);
    }
    if (stats.disk.budget != 0) {
      EXPECT_LE(stats.disk.used, stats.disk.budget);
    }
  }
}

ContextManifest MakeManifest(uint64_t id, const KvPolicy& policy) {
  ContextManifest manifest;
  manifest.id = ContextId{id};
  manifest.name = "context-" + std::to_string(id);
  manifest.model_hash = 0x1122334455667788;
  manifest.tokenizer_hash = 0x99aabbccddeeff00;
  manifest.created_unix_s = 1700000000;
  manifest.updated_unix_s = 1700000001;
  manifest.policy = policy;
  return manifest;
}

ContextAppend MakeAppend(int64_t first_token, int64_t end_token) {
  ContextAppend append;
  for (int64_t t = first_token; t < end_token; ++t) {
    append.tokens.push_back(static_cast<int32_t>(t));
    append.text.push_back(static_cast<char>('a' + t % 26));
  }
  return append;
}

}  // namespace varve
