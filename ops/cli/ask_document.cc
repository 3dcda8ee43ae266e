#include "ops/cli/ask_document.h"

#include <cstdlib>
#include <filesystem>

#include <fmt/format.h>

#include "proto/base/log.h"

#include "ops/cli/api_client.h"
#include "ops/cli/ingest_session.h"

namespace varve::cli {
namespace {

Result<std::string> MakeTemporaryDirectory() {
  std::error_code failure;
  std::string path = (std::filesystem::temp_directory_path(failure) / "varve-ask-XXXXXX").string();
  if (failure || ::mkdtemp(path.data()) == nullptr) {
    return Error{ErrorCode::kIoError,
                 fmt::format("cannot make the temporary directory {}; set TMPDIR", path)};
  }
  return path;
}

}  // namespace

Result<std::unique_ptr<AskableDocument>> AskableDocument::Open(LocalServerOptions options,
                                                               std::string_view text) {
  InitLogging("warn");
  std::unique_ptr<AskableDocument> document(new AskableDocument());
  VARVE_TRY(document->data_dir_, MakeTemporaryDirectory());
  options.host = "127.0.0.1";
  options.port = 0;
  options.data_dir = document->data_dir_;
  VARVE_TRY(document->server_, LocalServer::Start(options));
  VARVE_TRY(const ApiClient client, ApiClient::Create(document->url()));
  ProgressLine line(stderr, "reading", false);
  IngestProgress last;
  IngestSession session(
      client, {.name = document->context_name()}, text, [&](const IngestProgress& progress) {
        last = progress;
        line.Update(progress);
      });
  const auto summary = session.Run();
  line.Finish(last);
  if (!summary) {
    return summary.error();
  }
  return document;
}

AskableDocument::~AskableDocument() {
  server_.reset();
  std::error_code ignored;
  std::filesystem::remove_all(data_dir_, ignored);
}

}  // namespace varve::cli
