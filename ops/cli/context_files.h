// `varve contexts export` and `import`: a context as a file on this side.
#pragma once

#include <string>

#include "proto/base/result.h"

#include "ops/cli/api_client.h"

namespace varve::cli {

// Writes the context's file to `path` ("-": the standard output), by a temporary file beside it
// that is renamed when it is whole. Returns its bytes.
Result<uint64_t> ExportToFile(const ApiClient& client,
                              const std::string& name,
                              const std::string& path,
                              bool quiet);

// Sends the file at `path` ("-": the standard input). An empty name: that which the file says.
Result<ContextInfo> ImportFromFile(const ApiClient& client,
                                   const std::string& path,
                                   const std::string& name,
                                   bool quiet);

}  // namespace varve::cli
