// A document that was read into a context of its own, in this process: for `varve ask --doc`. The
// server listens on a free port of 127.0.0.1, its data directory is temporary, and both go away
// with the object.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "proto/base/result.h"

#include "ops/cli/local_server.h"
#include "ops/cli/temporary_directory.h"

namespace varve::cli {

class AskableDocument {
 public:
  // Starts the server and ingests `text`, with progress on stderr. `options` names the model and
  // the threads; host, port and data directory are chosen here.
  static Result<std::unique_ptr<AskableDocument>> Open(LocalServerOptions options,
                                                       std::string_view text);

  const std::string& url() const { return server_->url(); }
  std::string context_name() const { return "document"; }

 private:
  explicit AskableDocument(TemporaryDirectory data_dir) : data_dir_(std::move(data_dir)) {}

  TemporaryDirectory data_dir_;  // goes after the server that uses it
  std::unique_ptr<LocalServer> server_;
};

}  // namespace varve::cli
