// The disk tier over another RocksDB environment: how tests count, fail and lose what it writes.
#pragma once

#include <memory>

#include "kvstore/disk_tier.h"
#include "proto/base/result.h"

namespace rocksdb {
class Env;
}

namespace varve {

// As DiskTier::Open. The directory itself, its LOCK and its FORMAT file are the operating system's.
Result<std::unique_ptr<DiskTier>> OpenDiskTier(const DiskTierOptions& options,
                                               std::shared_ptr<rocksdb::Env> env);

}  // namespace varve
