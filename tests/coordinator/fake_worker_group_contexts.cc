// What the fake knows of contexts.
#include <chrono>
#include <utility>

#include "proto/base/check.h"
#include "proto/base/hash.h"
#include "tests/coordinator/fake_worker_group.h"

namespace varve {
namespace {

constexpr auto kPatience = std::chrono::seconds(60);

}  // namespace

Result<void> FakeWorkerGroup::CreateContext(const ContextManifest& manifest) {
  const std::lock_guard lock(mutex_);
  if (create_error_) {
    return *create_error_;
  }
  VARVE_CHECK(!contexts_.contains(manifest.id.value));
  contexts_[manifest.id.value].manifest = manifest;
  return {};
}

Result<void> FakeWorkerGroup::CommitContext(SequenceId sequence,
                                            const ContextManifest& manifest,
                                            const ContextAppend& append) {
  const std::lock_guard lock(mutex_);
  if (commit_error_) {
    return *commit_error_;
  }
  VARVE_CHECK(sequences_.contains(sequence.value) && contexts_.contains(manifest.id.value));
  StoredContext& context = contexts_[manifest.id.value];
  VARVE_CHECK(sequences_[sequence.value].length == manifest.num_tokens);
  VARVE_CHECK(manifest.version == context.manifest.version + 1);
  context.manifest = manifest;
  context.committed = true;
  context.tokens.insert(context.tokens.end(), append.tokens.begin(), append.tokens.end());
  context.text += append.text;
  context.commits.push_back(manifest.num_tokens);
  VARVE_CHECK(static_cast<int64_t>(context.tokens.size()) == manifest.num_tokens);
  VARVE_CHECK(context.text.size() == manifest.text_bytes);
  changed_.notify_all();
  return {};
}

Result<ContextManifest> FakeWorkerGroup::ForkContext(const ForkOptions& options) {
  const std::lock_guard lock(mutex_);
  if (manifest_error_) {
    return *manifest_error_;
  }
  VARVE_CHECK(contexts_.contains(options.source.value) && !contexts_.contains(options.id.value));
  StoredContext fork = contexts_[options.source.value];
  VARVE_TRY(fork.manifest, ForkOf(fork.manifest, options));
  contexts_[options.id.value] = fork;
  return fork.manifest;
}

Result<void> FakeWorkerGroup::UpdateContext(const ContextManifest& manifest) {
  const std::lock_guard lock(mutex_);
  if (manifest_error_) {
    return *manifest_error_;
  }
  VARVE_CHECK(contexts_.contains(manifest.id.value));
  contexts_[manifest.id.value].manifest.attributes = manifest.attributes;
  return {};
}

namespace {

class FakeSource final : public ContextSource {
 public:
  explicit FakeSource(const std::string& name) : pieces_({"file of ", name, ""}) {}
  Result<std::string> Next() override {
    if (pieces_[next_] == "damaged") {
      return Error{ErrorCode::kPageCorrupt, "a bad page"};
    }
    return pieces_[next_++];
  }

 private:
  std::vector<std::string> pieces_;
  size_t next_ = 0;
};

class FakeSink final : public ContextSink {
 public:
  using Adopt = std::function<void(const FakeWorkerGroup::StoredContext&)>;
  FakeSink(const ImportOptions& options, Adopt adopt)
      : options_(options), adopt_(std::move(adopt)) {}
  Result<void> Write(std::string_view bytes) override {
    bytes_ += bytes;
    return bytes_.find('!') == std::string::npos
               ? Result<void>()
               : Result<void>(Error{ErrorCode::kPageCorrupt, "a damaged file"});
  }
  bool complete() const override { return bytes_.ends_with('.'); }
  Result<ContextManifest> Finish() override {
    if (!complete()) {
      return Error{ErrorCode::kInvalidArgument, "the context file ends early"};
    }
    FakeWorkerGroup::StoredContext context;
    context.manifest.id = options_.id;
    context.manifest.name = options_.name;
    context.manifest.version = 1;
    context.manifest.num_tokens = static_cast<int64_t>(bytes_.size());
    context.manifest.text_bytes = bytes_.size();
    context.manifest.text_hash = Hash64(bytes_);
    context.manifest.tokenizer_hash = options_.tokenizer_hash;
    context.tokens.assign(bytes_.begin(), bytes_.end());
    context.text = bytes_;
    context.committed = true;
    adopt_(context);
    return context.manifest;
  }

 private:
  const ImportOptions options_;
  const Adopt adopt_;
  std::string bytes_;
};

}  // namespace

Result<std::unique_ptr<ContextSource>> FakeWorkerGroup::ExportContext(ContextId context) {
  const std::lock_guard lock(mutex_);
  VARVE_CHECK(contexts_.contains(context.value));
  if (manifest_error_) {
    return *manifest_error_;
  }
  return std::unique_ptr<ContextSource>(
      std::make_unique<FakeSource>(contexts_[context.value].manifest.name));
}

Result<std::unique_ptr<ContextSink>> FakeWorkerGroup::ImportContext(const ImportOptions& options) {
  const std::lock_guard lock(mutex_);
  if (manifest_error_) {
    return *manifest_error_;
  }
  return std::unique_ptr<ContextSink>(
      std::make_unique<FakeSink>(options, [this](const StoredContext& context) {
        const std::lock_guard adopt_lock(mutex_);
        contexts_[context.manifest.id.value] = context;
        contexts_[context.manifest.id.value].manifest.model_hash = model_.model_hash;
      }));
}

Result<void> FakeWorkerGroup::DeleteContext(ContextId context) {
  const std::lock_guard lock(mutex_);
  if (delete_error_) {
    return *delete_error_;
  }
  VARVE_CHECK(contexts_.erase(context.value) == 1);
  for (const auto& [id, sequence] : sequences_) {
    VARVE_CHECK(sequence.options.base != context && sequence.options.context != context);
  }
  return {};
}

Result<std::vector<ContextManifest>> FakeWorkerGroup::ListContexts() {
  std::unique_lock lock(mutex_);
  VARVE_CHECK(changed_.wait_for(lock, kPatience, [&] { return !list_held_; }));
  if (list_error_) {
    return *list_error_;
  }
  std::vector<ContextManifest> manifests;
  for (const auto& [id, context] : contexts_) {
    if (context.committed) {
      manifests.push_back(context.manifest);
    }
  }
  return manifests;
}

Result<std::string> FakeWorkerGroup::ReadContextText(ContextId context) {
  const std::lock_guard lock(mutex_);
  const auto it = contexts_.find(context.value);
  if (it == contexts_.end() || !it->second.committed) {
    return Error{ErrorCode::kNotFound, "no such context"};
  }
  return it->second.text;
}

Result<std::vector<int32_t>> FakeWorkerGroup::ReadContextTokens(ContextId context) {
  const std::lock_guard lock(mutex_);
  const auto it = contexts_.find(context.value);
  if (it == contexts_.end()) {
    return Error{ErrorCode::kNotFound, "no such context"};
  }
  return it->second.tokens;
}

Result<ContextUsage> FakeWorkerGroup::GetContextUsage(ContextId context) {
  const std::lock_guard lock(mutex_);
  const auto it = contexts_.find(context.value);
  if (it == contexts_.end()) {
    return Error{ErrorCode::kNotFound, "no such context"};
  }
  const auto num_tokens = static_cast<uint64_t>(it->second.manifest.num_tokens);
  return ContextUsage{
      .id = context,
      .num_pages = static_cast<int64_t>(num_tokens / 128),
      .host_bytes = num_tokens * 10,
      .disk_bytes = num_tokens * 11,
      .shared_host_bytes = it->second.manifest.lineage.empty() ? 0 : num_tokens * 10,
      .shared_disk_bytes = it->second.manifest.lineage.empty() ? 0 : num_tokens * 11,
      .bf16_bytes = num_tokens * 20,
      .layer_tokens = static_cast<int64_t>(num_tokens) * 2,
      .kept_layer_tokens = static_cast<int64_t>(num_tokens) * 3 / 2};
}

}  // namespace varve
