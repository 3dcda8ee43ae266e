// The contexts of a worker group: their manifests, and for a group without a disk also the text and
// tokens they were made from. What is listed here is committed; a context that was only created is
// known, but not listed.
//
// Threads: any.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "kvstore/disk_tier.h"
#include "proto/base/result.h"
#include "proto/context_manifest.h"

namespace varve {

class ContextManifests {
 public:
  // `disk` may be null; it outlives the catalog.
  explicit ContextManifests(DiskTier* disk) : disk_(disk) {}

  // Registers a recovered context.
  void AddRecovered(const ContextManifest& manifest);
  // Registers an empty context. kAlreadyExists if its id or its name is taken.
  Result<void> Create(const ContextManifest& manifest);
  // Registers a fork of a committed context, with its text and tokens. kAlreadyExists, kNotFound.
  Result<void> CreateFork(ContextId source, const ContextManifest& fork);
  // Makes a manifest the truth that names nothing new: a fork's first one, or the committed one
  // with other values of what changes without a commit. kNotFound.
  Result<void> Update(const ContextManifest& manifest);
  // Makes a version the truth: on disk where there is one (the commit point), else in memory.
  // kNotFound.
  Result<void> Commit(const ContextManifest& manifest, const ContextAppend& append);
  Result<void> Erase(ContextId context);

  // The manifest, committed or not. kNotFound.
  Result<ContextManifest> Find(ContextId context) const;
  std::vector<ContextManifest> ListCommitted() const;  // by id
  Result<std::string> ReadText(ContextId context) const;
  Result<std::vector<int32_t>> ReadTokens(ContextId context) const;

 private:
  struct Entry {
    ContextManifest manifest;
    bool is_committed = false;
    // Without a disk: what each commit added. Forks share it.
    std::vector<std::shared_ptr<const ContextAppend>> content;
  };
  // Of what is not on disk.
  static std::string TextOf(const Entry& entry);
  static std::vector<int32_t> TokensOf(const Entry& entry);

  DiskTier* const disk_;
  mutable std::mutex mutex_;
  std::map<ContextId, Entry> entries_;
};

}  // namespace varve
