// A small synchronous HTTP/1.1 client for the commands that talk to a Varve server. One connection
// per request, a deadline on every wait, and errors that say what a person can do.
//
// Errors: kUnavailable (no server there, or it stopped answering), kCancelled (Ctrl-C, see
// interrupt.h), kInvalidArgument (the URL). An HTTP error status is a response, not an Error.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "proto/base/result.h"

namespace varve::cli {

struct HttpRequest {
  std::string method = "GET";
  std::string target;                             // "/v1/contexts"
  std::string body;                               // empty for none
  std::string content_type = "application/json";  // of the body
  // Longest silence: from the request to the first byte, and between two pieces of a stream.
  int64_t timeout_ms = 60'000;
};

struct HttpResponse {
  int status = 0;
  std::string body;           // empty if it was a stream
  int64_t retry_after_s = 0;  // 0: the server named none
};

class HttpClient {
 public:
  // "http://host[:port][/prefix]".
  static Result<HttpClient> Create(std::string_view url);

  Result<HttpResponse> Send(const HttpRequest& request) const;

  // Calls `on_event` with each server-sent event of a 200 answer until the stream ends or
  // `on_event` returns false. An answer with another status is returned whole.
  Result<HttpResponse> SendStreaming(
      const HttpRequest& request,
      const std::function<bool(std::string_view data)>& on_event) const;

  // Calls `on_bytes` with the body of a 200 answer, piece by piece, until it returns false. An
  // answer with another status is returned whole. kUnavailable if the body ends early.
  Result<HttpResponse> Download(const HttpRequest& request,
                                const std::function<bool(std::string_view bytes)>& on_bytes) const;

  const std::string& url() const { return url_; }

 private:
  HttpClient() = default;

  std::string url_;
  std::string host_;
  std::string port_;
  std::string prefix_;
};

}  // namespace varve::cli
