#include "coordinator/http_connection.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include <fmt/core.h>

#include "coordinator/openai_error.h"
#include "proto/base/trace.h"

#include <boost/asio/write.hpp>
#include <boost/beast/core/error.hpp>
#include <boost/beast/http/error.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/status.hpp>

namespace varve {
namespace {

namespace net = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using std::chrono::milliseconds;

// A client that pipelines more than this is no longer watched for going away.
constexpr size_t kMaxPipelinedBytes = 64 << 10;
constexpr int kLingerMs = 2000;

std::string Head(int status, const std::vector<std::pair<std::string, std::string>>& headers) {
  std::string head = fmt::format(
      "HTTP/1.1 {} {}\r\n",
      status,
      std::string(http::obsolete_reason(http::int_to_status(static_cast<unsigned>(status)))));
  for (const auto& [name, value] : headers) {
    head += fmt::format("{}: {}\r\n", name, value);
  }
  return head + "\r\n";
}

}  // namespace

HttpConnection::HttpConnection(net::ip::tcp::socket socket, HttpServerState* server)
    : server_(server), stream_(std::move(socket)) {}

HttpConnection::~HttpConnection() = default;

void HttpConnection::Start() {
  ReadHeader();
}

void HttpConnection::Refuse() {
  keep_alive_ = false;
  is_handling_ = true;
  SendError(
      ErrorCode::kUnavailable,
      fmt::format("The server has {} connections, its limit.", server_->options.max_connections));
}

// --- Reading ---

void HttpConnection::ReadHeader() {
  parser_.emplace();
  parser_->header_limit(server_->options.max_header_bytes);
  parser_->body_limit(server_->options.max_body_bytes);
  stream_.expires_after(milliseconds(server_->options.idle_timeout_ms));
  http::async_read_header(
      stream_, buffer_, *parser_, [self = shared_from_this()](ErrorCodeAsio error, size_t) {
        self->OnHeader(error);
      });
}

void HttpConnection::OnHeader(ErrorCodeAsio error) {
  if (error) {
    OnReadError(error);
    return;
  }
  is_http_1_0_ = parser_->get().version() < 11;
  is_head_ = parser_->get().method() == http::verb::head;
  keep_alive_ = parser_->keep_alive() && !is_head_;
  if (!parser_->is_done()) {
    // A chunked body does not say how long it will be: it may use the whole limit.
    const uint64_t length = parser_->content_length().value_or(server_->options.max_body_bytes);
    if (server_->buffered_body_bytes + length > server_->options.max_buffered_body_bytes) {
      SendError(ErrorCode::kResourceExhausted, "Too many large requests at once. Try again later.");
      return;
    }
    reserved_body_bytes_ = length;
    server_->buffered_body_bytes += length;
    if (beast::iequals(parser_->get()[http::field::expect], "100-continue")) {
      Write("HTTP/1.1 100 Continue\r\n\r\n");
    }
  }
  ReadBody();
}

void HttpConnection::ReadBody() {
  if (parser_->is_done()) {
    Dispatch();
    return;
  }
  stream_.expires_after(milliseconds(server_->options.read_timeout_ms));
  http::async_read_some(
      stream_, buffer_, *parser_, [self = shared_from_this()](ErrorCodeAsio error, size_t) {
        if (error) {
          self->OnReadError(error);
        } else {
          self->ReadBody();
        }
      });
}

void HttpConnection::OnReadError(ErrorCodeAsio error) {
  if (closed_) {
    return;
  }
  if (error == http::error::body_limit) {
    SendError(ErrorCode::kPayloadTooLarge,
              fmt::format("The request body is longer than {} bytes, the limit.",
                          server_->options.max_body_bytes));
  } else if (error == http::error::header_limit) {
    SendError(ErrorCode::kInvalidArgument,
              fmt::format("The request header is longer than {} bytes, the limit.",
                          server_->options.max_header_bytes));
  } else if (error == http::error::end_of_stream || error == http::error::partial_message ||
             error.category() != http::make_error_code(http::error::bad_method).category()) {
    Close();  // the client left, or was silent for too long
  } else {
    SendError(ErrorCode::kInvalidArgument,
              fmt::format("This is not an HTTP request: {}.", error.message()));
  }
}

void HttpConnection::Dispatch() {
  const TraceSpan span("coordinator/http_server");
  stream_.expires_never();
  auto& message = parser_->get();
  const beast::string_view target = message.target();
  HttpRequest request;
  request.method = std::string(message.method_string());
  request.path = std::string(target.substr(0, target.find('?')));
  request.query = std::string(target.substr(std::min(request.path.size() + 1, target.size())));
  request.content_type = std::string(message[http::field::content_type]);
  request.body = std::move(message.body());
  parser_.reset();
  ++exchange_;
  is_handling_ = true;
  WatchForDisconnect();
  server_->handler(std::move(request), MakePostedResponse(server_, weak_from_this(), exchange_));
}

// --- While the handler works ---

void HttpConnection::WatchForDisconnect() {
  if (is_watching_ || closed_) {
    return;
  }
  is_watching_ = true;
  stream_.socket().async_wait(
      net::ip::tcp::socket::wait_read,
      [self = shared_from_this()](ErrorCodeAsio error) { self->OnReadable(error); });
}

void HttpConnection::OnReadable(ErrorCodeAsio error) {
  is_watching_ = false;
  if (error || closed_ || !is_handling_) {
    return;
  }
  const size_t available = stream_.socket().available(error);
  if (error || available == 0) {
    Close();
    return;
  }
  // The client sends its next request already: keep the bytes, and go on watching.
  const size_t room = kMaxPipelinedBytes - std::min(kMaxPipelinedBytes, buffer_.size());
  if (room == 0) {
    return;
  }
  buffer_.commit(stream_.socket().read_some(buffer_.prepare(std::min(available, room)), error));
  if (error) {
    Close();
    return;
  }
  WatchForDisconnect();
}

void HttpConnection::OnDisconnect(uint64_t exchange, std::function<void()> callback) {
  if (Handles(exchange) && !closed_) {
    on_disconnect_ = std::move(callback);
  } else if (closed_) {
    callback();
  }
}

void HttpConnection::SetRoute(uint64_t exchange, std::string_view route) {
  if (Handles(exchange)) {
    route_ = route;
  }
}

void HttpConnection::Abandon(uint64_t exchange) {
  if (Handles(exchange) && !answer_complete_) {
    Close();
  }
}

// --- Writing ---

void HttpConnection::SendError(ErrorCode code, const std::string& message) {
  // What follows on this connection is not understood, or not wanted.
  keep_alive_ = false;
  is_handling_ = true;
  ++exchange_;
  Send(exchange_, ErrorResponse(ApiError{.error = Error{code, message}}));
}

void HttpConnection::Send(uint64_t exchange, HttpResponse response) {
  if (!Handles(exchange) || answer_begun_ || closed_) {
    return;
  }
  answer_begun_ = true;
  answer_complete_ = true;
  if (server_->options.on_response) {
    server_->options.on_response(route_.empty() ? "other" : route_, response.status);
  }
  auto headers = std::move(response.headers);
  headers.emplace_back("Content-Type", response.content_type);
  headers.emplace_back("Content-Length", std::to_string(response.body.size()));
  headers.emplace_back("Connection", keep_alive_ ? "keep-alive" : "close");
  Write(Head(response.status, headers) + (is_head_ ? std::string() : response.body));
}

void HttpConnection::SendEvent(uint64_t exchange, const std::string& data) {
  if (!Handles(exchange) || answer_complete_ || closed_) {
    return;
  }
  std::string bytes;
  if (!answer_begun_) {
    answer_begun_ = true;
    keep_alive_ = keep_alive_ && !is_http_1_0_;
    if (server_->options.on_response) {
      server_->options.on_response(route_.empty() ? "other" : route_, 200);
    }
    std::vector<std::pair<std::string, std::string>> headers = {
        {"Content-Type", "text/event-stream; charset=utf-8"},
        {"Cache-Control", "no-cache"},
        {"X-Accel-Buffering", "no"},
        {"Connection", keep_alive_ ? "keep-alive" : "close"}};
    if (!is_http_1_0_) {
      headers.emplace_back("Transfer-Encoding", "chunked");
    }
    bytes = Head(200, headers);
  }
  const std::string event = "data: " + data + "\n\n";
  bytes += is_http_1_0_ ? event : fmt::format("{:x}\r\n{}\r\n", event.size(), event);
  if (unsent_.size() + bytes.size() > server_->options.max_unsent_bytes) {
    Close();  // the client does not read
    return;
  }
  Write(std::move(bytes));
}

void HttpConnection::BeginBody(uint64_t exchange, HttpResponse head) {
  if (!Handles(exchange) || answer_begun_ || closed_) {
    return;
  }
  answer_begun_ = true;
  keep_alive_ = keep_alive_ && !is_http_1_0_;
  if (server_->options.on_response) {
    server_->options.on_response(route_.empty() ? "other" : route_, head.status);
  }
  auto headers = std::move(head.headers);
  headers.emplace_back("Content-Type", head.content_type);
  headers.emplace_back("Connection", keep_alive_ ? "keep-alive" : "close");
  if (!is_http_1_0_) {
    headers.emplace_back("Transfer-Encoding", "chunked");
  }
  Write(Head(head.status, headers));
}

void HttpConnection::WriteBody(uint64_t exchange,
                               const std::string& bytes,
                               std::function<void(bool)> sent) {
  if (!Handles(exchange) || answer_complete_ || closed_) {
    sent(false);
    return;
  }
  on_sent_ = std::move(sent);
  Write(is_http_1_0_ ? bytes : fmt::format("{:x}\r\n{}\r\n", bytes.size(), bytes));
}

void HttpConnection::Finish(uint64_t exchange) {
  if (!Handles(exchange) || answer_complete_ || closed_) {
    return;
  }
  answer_complete_ = true;
  if (is_http_1_0_) {
    keep_alive_ = false;
    Write("");
  } else {
    Write("0\r\n\r\n");
  }
}

void HttpConnection::Write(std::string bytes) {
  unsent_ += bytes;
  if (writing_.empty()) {
    WriteMore();
  }
}

void HttpConnection::WriteMore() {
  if (unsent_.empty()) {
    if (on_sent_) {
      std::exchange(on_sent_, nullptr)(true);
    }
    if (answer_complete_) {
      EndExchange();
    }
    return;
  }
  writing_ = std::exchange(unsent_, {});
  stream_.expires_after(milliseconds(server_->options.write_timeout_ms));
  net::async_write(
      stream_, net::buffer(writing_), [self = shared_from_this()](ErrorCodeAsio error, size_t) {
        self->writing_.clear();
        if (self->closed_) {
          return;
        }
        if (error) {
          self->Close();
          return;
        }
        self->WriteMore();
      });
}

void HttpConnection::EndExchange() {
  is_handling_ = false;
  answer_begun_ = false;
  answer_complete_ = false;
  route_ = {};
  on_disconnect_ = nullptr;
  ReleaseBody();
  if (keep_alive_) {
    ReadHeader();
  } else {
    LingerThenClose();
  }
}

void HttpConnection::ReleaseBody() {
  server_->buffered_body_bytes -= std::exchange(reserved_body_bytes_, 0);
}

// Closing a socket with unread bytes resets the connection, and the client might lose the answer.
// So the rest of what it sends is read and dropped, for a short while.
void HttpConnection::LingerThenClose() {
  ErrorCodeAsio ignored;
  stream_.socket().shutdown(net::ip::tcp::socket::shutdown_send, ignored);
  stream_.expires_after(milliseconds(kLingerMs));
  auto drop = [self = shared_from_this()](auto&& again) -> void {
    self->buffer_.clear();
    self->stream_.async_read_some(self->buffer_.prepare(64 << 10),
                                  [self, again](ErrorCodeAsio error, size_t) {
                                    if (error) {
                                      self->Close();
                                    } else {
                                      again(again);
                                    }
                                  });
  };
  drop(drop);
}

void HttpConnection::Close() {
  if (closed_) {
    return;
  }
  closed_ = true;
  ReleaseBody();
  ErrorCodeAsio ignored;
  stream_.socket().close(ignored);
  const std::shared_ptr<HttpConnection> self = shared_from_this();
  server_->connections.erase(self);
  if (on_sent_) {
    std::exchange(on_sent_, nullptr)(false);
  }
  if (on_disconnect_) {
    std::exchange(on_disconnect_, nullptr)();
  }
}

}  // namespace varve
