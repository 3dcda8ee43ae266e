// HTTP/1.1 on sockets: bytes become an HttpRequest, what the handler answers becomes bytes. One I/O
// thread serves all connections; the handler is called on it and must hand long work to another
// thread.
//
// Limits are named in HttpServerOptions. A connection over max_connections is answered 503 and
// closed. A body over max_body_bytes is answered 413 without being read; bodies over
// max_buffered_body_bytes in sum, 429. Requests of one connection are answered one after the other
// (keep-alive).
//
// While a request is being answered its connection is watched: when the client goes away, or does
// not read what it asked for (max_unsent_bytes, write_timeout_ms), the connection is closed and the
// response's OnDisconnect is called.
//
// Threads: HttpServer from any thread, ResponseStream from any thread.
//
// Next: coordinator/completions_api.h
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "proto/base/result.h"

namespace varve {

struct HttpRequest {
  std::string method;  // "GET"
  std::string path;    // without the query, as sent
  std::string query;   // behind the '?', as sent; empty: none
  std::string content_type;
  std::string body;
};

struct HttpResponse {
  int status = 200;
  std::string content_type = "application/json";
  std::string body;
  std::vector<std::pair<std::string, std::string>> headers;  // besides type, length and connection
};

// The answer to one request: Send once, or SendEvent any number of times and then Finish, or
// BeginBody, WriteBody any number of times and then Finish. Calls
// after the client went away do nothing. Destroying it without an answer closes the connection.
class ResponseStream {
 public:
  virtual ~ResponseStream() = default;

  // The route that the request took, for metrics; a string literal. Before Send or SendEvent.
  virtual void SetRoute(std::string_view route) = 0;
  virtual void Send(HttpResponse response) = 0;
  // One server-sent event; the first one sends status 200 and the headers.
  virtual void SendEvent(std::string data) = 0;
  // An answer of unknown length: status, headers and the first bytes of the body.
  virtual void BeginBody(HttpResponse head) = 0;
  // Waits until the client has been sent all bytes so far: not to be called on the I/O thread.
  // False if it went away.
  virtual bool WriteBody(std::string bytes) = 0;
  virtual void Finish() = 0;
  // `callback` is called once, on the I/O thread, if the client goes away before the answer is
  // complete; at once if it is already gone.
  virtual void OnDisconnect(std::function<void()> callback) = 0;
  // Runs `work` on the I/O thread, in the order of the calls, while the client is there.
  virtual void Run(std::function<void()> work) = 0;
};

using HttpHandler = std::function<void(HttpRequest, std::shared_ptr<ResponseStream>)>;

struct HttpServerOptions {
  std::string host = "127.0.0.1";  // an address of this machine; "0.0.0.0" for all
  uint16_t port = 0;               // 0: any free one
  size_t max_connections = 1024;
  uint64_t max_body_bytes = uint64_t{64} << 20;
  uint64_t max_buffered_body_bytes = uint64_t{256} << 20;
  uint32_t max_header_bytes = 16 << 10;
  size_t max_unsent_bytes = size_t{4} << 20;  // of an event stream
  int idle_timeout_ms = 75000;   // without a request on an open connection, or within its header
  int read_timeout_ms = 30000;   // without a byte of an expected body
  int write_timeout_ms = 30000;  // without the client reading
  // Called on the I/O thread for every response: route ("other" if none was set) and status.
  std::function<void(std::string_view route, int status)> on_response;
};

class HttpServer {
 public:
  // Listens and starts the I/O thread. kInvalidArgument for a bad host, kIoError if the port cannot
  // be had.
  static Result<std::unique_ptr<HttpServer>> Start(HttpServerOptions options, HttpHandler handler);
  // Stops.
  virtual ~HttpServer() = default;

  virtual uint16_t port() const = 0;
  // Closes the port and all connections, and joins the I/O thread. OnDisconnect is called for what
  // was not answered.
  virtual void Stop() = 0;
};

}  // namespace varve
