// One connection of the HTTP server. Internal to http_server.cc, http_connection.cc and
// posted_response.cc: the only files that see Beast.
//
// States: reading a request -> handling it (the handler has a ResponseStream) -> writing the rest
// of the answer -> reading the next request, or closing. Bytes to send collect in `unsent_` while a
// write runs.
//
// Threads: all members belong to the I/O thread; ResponseStream calls are posted to it.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <unordered_set>

#include "coordinator/http_server.h"

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>

namespace varve {

class HttpConnection;

// What the connections of a server share. I/O thread only, except for `io`.
struct HttpServerState {
  HttpServerOptions options;
  HttpHandler handler;
  boost::asio::io_context io{1};
  std::unordered_set<std::shared_ptr<HttpConnection>> connections;
  uint64_t buffered_body_bytes = 0;
};

class HttpConnection : public std::enable_shared_from_this<HttpConnection> {
 public:
  HttpConnection(boost::asio::ip::tcp::socket socket, HttpServerState* server);
  ~HttpConnection();

  // Serves requests until the connection ends. The server's set of connections keeps it alive.
  void Start();
  // Answers 503 and closes: too many connections.
  void Refuse();
  // Closes now. The handler's OnDisconnect is called if it has not answered.
  void Close();

  // From ResponseStream, on the I/O thread. `exchange` names the request: a late call for an
  // earlier one is dropped.
  void Send(uint64_t exchange, HttpResponse response);
  void SendEvent(uint64_t exchange, const std::string& data);
  void BeginBody(uint64_t exchange, HttpResponse head);
  // Calls `sent(true)` when all bytes are with the operating system, `sent(false)` if they cannot
  // be.
  void WriteBody(uint64_t exchange, const std::string& bytes, std::function<void(bool)> sent);
  void Finish(uint64_t exchange);
  void OnDisconnect(uint64_t exchange, std::function<void()> callback);
  void SetRoute(uint64_t exchange, std::string_view route);
  void Abandon(uint64_t exchange);

 private:
  using ErrorCodeAsio = boost::system::error_code;
  using Parser = boost::beast::http::request_parser<boost::beast::http::string_body>;

  bool Handles(uint64_t exchange) const { return is_handling_ && exchange == exchange_; }
  void ReadHeader();
  void OnHeader(ErrorCodeAsio error);
  void ReadBody();
  void OnReadError(ErrorCodeAsio error);
  void Dispatch();
  void WatchForDisconnect();
  void OnReadable(ErrorCodeAsio error);
  void SendError(ErrorCode code, const std::string& message);
  void Write(std::string bytes);
  void WriteMore();
  void EndExchange();
  void ReleaseBody();
  void LingerThenClose();

  HttpServerState* const server_;
  boost::beast::tcp_stream stream_;
  boost::beast::flat_buffer buffer_;
  std::optional<Parser> parser_;
  uint64_t reserved_body_bytes_ = 0;

  uint64_t exchange_ = 0;
  bool is_handling_ = false;  // between Dispatch and the end of the answer
  bool answer_begun_ = false;
  bool is_http_1_0_ = false;
  bool is_head_ = false;
  bool keep_alive_ = true;
  bool is_watching_ = false;
  bool closed_ = false;
  bool answer_complete_ = false;  // all of the answer is in unsent_ or written
  std::string_view route_;
  std::function<void()> on_disconnect_;
  std::function<void(bool)> on_sent_;

  std::string unsent_;
  std::string writing_;
};

// What a handler answers with: hands its calls to the I/O thread (posted_response.cc).
std::shared_ptr<ResponseStream> MakePostedResponse(HttpServerState* server,
                                                   std::weak_ptr<HttpConnection> connection,
                                                   uint64_t exchange);

}  // namespace varve
