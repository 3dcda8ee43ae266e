#include "ops/cli/ask_document.h"

#include "proto/base/log.h"

#include "ops/cli/api_client.h"
#include "ops/cli/ingest_session.h"

namespace varve::cli {

Result<std::unique_ptr<AskableDocument>> AskableDocument::Open(LocalServerOptions options,
                                                               std::string_view text) {
  InitLogging("warn");
  VARVE_TRY(TemporaryDirectory data, TemporaryDirectory::Make());
  std::unique_ptr<AskableDocument> document(new AskableDocument(std::move(data)));
  options.host = "127.0.0.1";
  options.port = 0;
  options.data_dir = document->data_dir_.path();
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

}  // namespace varve::cli
