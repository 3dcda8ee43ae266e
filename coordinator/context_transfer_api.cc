#include "coordinator/context_transfer_api.h"

#include <charconv>
#include <optional>
#include <utility>
#include <vector>

#include <fmt/core.h>

#include "coordinator/context_object.h"
#include "coordinator/openai_error.h"
#include "proto/base/log.h"

#include <nlohmann/json.hpp>

namespace varve {
namespace {

constexpr int64_t kIdleUs = int64_t{600} * 1'000'000;

// "offset=0&last=1".
struct Query {
  std::optional<uint64_t> offset;
  bool last = false;
};
Result<Query> ParseQuery(std::string_view text) {
  Query query;
  while (!text.empty()) {
    const std::string_view field = text.substr(0, text.find('&'));
    text.remove_prefix(std::min(field.size() + 1, text.size()));
    constexpr std::string_view kOffset = "offset=";
    uint64_t offset = 0;
    if (field.starts_with(kOffset)) {
      const char* const end = field.data() + field.size();
      const auto [rest, error] = std::from_chars(field.data() + kOffset.size(), end, offset);
      if (error == std::errc() && rest == end) {
        query.offset = offset;
        continue;
      }
    } else if (field == "last=1") {
      query.last = true;
      continue;
    }
    return Error{ErrorCode::kInvalidArgument,
                 fmt::format("'{}' is neither offset=BYTES nor last=1.", field.substr(0, 64))};
  }
  if (!query.offset) {
    return Error{ErrorCode::kInvalidArgument,
                 "The query must say offset=BYTES: where in the file this part begins."};
  }
  return query;
}

}  // namespace

ContextTransferApi::ContextTransferApi(ContextCatalog* catalog,
                                       WorkerGroup* workers,
                                       const Clock* clock)
    : catalog_(catalog), workers_(workers), clock_(clock) {}

ContextTransferApi::~ContextTransferApi() = default;

void ContextTransferApi::Export(RoutedRequest request) {
  const auto refuse = [&](const Error& error) { request.response->Send(ContextError(error)); };
  // The lease keeps the context from being changed or deleted.
  Result<ContextLease> lease = catalog_->Acquire(request.name);
  if (!lease) {
    refuse(lease.error());
    return;
  }
  const auto source = workers_->ExportContext(lease->id());
  if (!source) {
    refuse(source.error());
    return;
  }
  Result<std::string> piece = (*source)->Next();
  if (!piece) {
    refuse(piece.error());
    return;
  }
  request.response->BeginBody(
      HttpResponse{.content_type = "application/octet-stream",
                   .headers = {{"Content-Disposition",
                                fmt::format("attachment; filename=\"{}.varve\"", request.name)}}});
  while (piece && !piece->empty()) {
    if (!request.response->WriteBody(*std::move(piece))) {
      return;  // the client went away
    }
    piece = (*source)->Next();
  }
  if (!piece) {
    // The status is sent already: closing the connection tells the client that the file is not
    // whole.
    SPDLOG_WARN("export of context '{}': {}", request.name, piece.error().ToString());
    return;
  }
  // Given back before the client can know that it has all.
  *lease = ContextLease();
  request.response->Finish();
}

void ContextTransferApi::Import(RoutedRequest request) {
  const Result<Query> query = ParseQuery(request.http.query);
  if (!query) {
    request.response->Send(ContextError(query.error()));
    return;
  }
  Result<Session> taken = Take(request.name, {*query->offset, query->last});
  if (!taken) {
    request.response->Send(ContextError(taken.error()));
    return;
  }
  Session session = *std::move(taken);
  if (const Result<void> written = session.sink->Write(request.http.body); !written) {
    End(std::move(session), written.error());
    request.response->Send(ContextError(written.error()));
    return;
  }
  session.received_bytes += request.http.body.size();
  if (!query->last) {
    nlohmann::ordered_json object;
    object["id"] = request.name;
    object["object"] = "context.import";
    object["received_bytes"] = session.received_bytes;
    session.last_us = clock_->NowUs();
    {
      const std::lock_guard lock(mutex_);
      sessions_.emplace(request.name, std::move(session));
    }
    request.response->Send(HttpResponse{.status = 202, .body = object.dump()});
    return;
  }
  Result<ContextManifest> finished = session.sink->Finish();
  if (!finished) {
    End(std::move(session), finished.error());
    request.response->Send(ContextError(finished.error()));
    return;
  }
  session.sink.reset();
  const Result<ContextView> view = catalog_->EndImport(session.options, std::move(finished));
  request.response->Send(view ? ContextResponse(201, *view, workers_) : ContextError(view.error()));
}

Result<ContextTransferApi::Session> ContextTransferApi::Take(const std::string& name,
                                                             const Part& part) {
  DropIdle();
  std::optional<Session> session;
  {
    const std::lock_guard lock(mutex_);
    if (const auto found = sessions_.find(name); found != sessions_.end()) {
      if (part.offset != 0 && part.offset != found->second.received_bytes) {
        return Error{ErrorCode::kConflict,
                     fmt::format("{} bytes of the import of '{}' have come; the part begins at {}.",
                                 found->second.received_bytes,
                                 name,
                                 part.offset)};
      }
      session = std::move(found->second);
      sessions_.erase(found);
    }
  }
  if (part.offset == 0) {
    if (session) {
      End(*std::move(session), Error{ErrorCode::kCancelled, "it was begun again"});
    }
    return Begin(name);
  }
  if (!session) {
    return Error{ErrorCode::kConflict,
                 fmt::format("No import of '{}' is under way. Begin at offset 0.", name)};
  }
  return *std::move(session);
}

Result<ContextTransferApi::Session> ContextTransferApi::Begin(const std::string& name) {
  Session session;
  VARVE_TRY(session.options, catalog_->BeginImport(name));
  auto sink = workers_->ImportContext(session.options);
  if (!sink) {
    // Free the name again; the error is the sink's.
    return catalog_->EndImport(session.options, sink.error()).error();
  }
  session.sink = *std::move(sink);
  return session;
}

void ContextTransferApi::End(Session session, const Error& error) {
  session.sink.reset();
  (void)catalog_->EndImport(session.options, error).has_value();
}

void ContextTransferApi::DropIdle() {
  std::vector<Session> idle;
  {
    const std::lock_guard lock(mutex_);
    const int64_t now_us = clock_->NowUs();
    for (auto it = sessions_.begin(); it != sessions_.end();) {
      const bool is_idle = now_us - it->second.last_us >= kIdleUs;
      if (is_idle) {
        idle.push_back(std::move(it->second));
      }
      it = is_idle ? sessions_.erase(it) : std::next(it);
    }
  }
  for (Session& session : idle) {
    SPDLOG_INFO("an import of context '{}' was given up by its client", session.options.name);
    End(std::move(session), Error{ErrorCode::kCancelled, "its client is gone"});
  }
}

}  // namespace varve
