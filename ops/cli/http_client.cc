#include "ops/cli/http_client.h"

#include <charconv>
#include <chrono>
#include <limits>
#include <optional>

#include <fmt/format.h>

#include "proto/base/clock.h"

#include "ops/cli/interrupt.h"
#include "ops/cli/sse.h"
#include <boost/asio/connect.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>

namespace varve::cli {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using boost::system::error_code;

constexpr int64_t kConnectTimeoutMs = 5'000;
constexpr int64_t kPollMs = 50;  // how soon Ctrl-C and a deadline are noticed

// One connection and its request; used once.
class Exchange {
 public:
  Exchange(const std::string& host, const std::string& port, const std::string& url)
      : host_(host), port_(port), url_(url), resolver_(io_), stream_(io_) {}

  Result<void> Connect();
  Result<void> Write(const HttpRequest& request, const std::string& target);
  Result<void> ReadHeader(int64_t timeout_ms);
  // The next piece of the body; empty at its end.
  Result<std::string> ReadSome(int64_t timeout_ms);

  HttpResponse Head() const;

 private:
  // Runs the operation that was just started until `done` is set. `what` completes "the server at
  // URL ... within 5 s".
  Result<void> Wait(const std::optional<error_code>& done,
                    int64_t timeout_ms,
                    std::string_view what);
  Error Unreachable(const error_code& reason) const;
  Error Broken(const error_code& reason) const;

  std::string host_;
  std::string port_;
  std::string url_;
  asio::io_context io_;
  asio::ip::tcp::resolver resolver_;
  beast::tcp_stream stream_;
  beast::flat_buffer buffer_;
  http::response_parser<http::string_body> parser_;
};

Error Exchange::Unreachable(const error_code& reason) const {
  return Error{
      ErrorCode::kUnavailable,
      fmt::format("cannot reach {} ({}): is `varve serve` running?", url_, reason.message())};
}

Error Exchange::Broken(const error_code& reason) const {
  return Error{
      ErrorCode::kUnavailable,
      fmt::format("lost the connection to {} ({}): did the server stop?", url_, reason.message())};
}

Result<void> Exchange::Wait(const std::optional<error_code>& done,
                            int64_t timeout_ms,
                            std::string_view what) {
  const int64_t deadline_us = SystemClock().NowUs() + timeout_ms * 1000;
  io_.restart();
  std::optional<Error> failure;
  while (!done) {
    io_.run_for(std::chrono::milliseconds(kPollMs));
    if (failure) {
      continue;  // cancelled: wait until the operation says so, its buffers are in use until then
    }
    if (Interrupted()) {
      failure = Error{ErrorCode::kCancelled, "interrupted"};
    } else if (!done && SystemClock().NowUs() > deadline_us) {
      failure = Error{ErrorCode::kUnavailable,
                      fmt::format("the server at {} did not {} within {:g} s",
                                  url_,
                                  what,
                                  static_cast<double>(timeout_ms) / 1000)};
    }
    if (failure) {
      resolver_.cancel();
      stream_.cancel();
    }
  }
  return failure ? Result<void>(*failure) : Result<void>();
}

Result<void> Exchange::Connect() {
  std::optional<error_code> done;
  asio::ip::tcp::resolver::results_type endpoints;
  resolver_.async_resolve(host_, port_, [&](const error_code& result, auto found) {
    endpoints = std::move(found);
    done = result;
  });
  VARVE_RETURN_IF_ERROR(Wait(done, kConnectTimeoutMs, "resolve"));
  if (*done) {
    return Unreachable(*done);
  }
  done.reset();
  stream_.expires_never();
  stream_.async_connect(endpoints, [&](const error_code& result, const auto&) { done = result; });
  VARVE_RETURN_IF_ERROR(Wait(done, kConnectTimeoutMs, "accept the connection"));
  if (*done) {
    return Unreachable(*done);
  }
  error_code ignored;
  stream_.socket().set_option(asio::ip::tcp::no_delay(true), ignored);
  return {};
}

Result<void> Exchange::Write(const HttpRequest& request, const std::string& target) {
  http::request<http::string_body> message(http::string_to_verb(request.method), target, 11);
  message.set(http::field::host, port_ == "80" ? host_ : fmt::format("{}:{}", host_, port_));
  message.set(http::field::user_agent, "varve");
  message.set(http::field::connection, "close");
  if (!request.body.empty()) {
    message.set(http::field::content_type, request.content_type);
    message.body() = request.body;
  }
  message.prepare_payload();
  std::optional<error_code> done;
  http::async_write(stream_, message, [&](const error_code& result, size_t) { done = result; });
  VARVE_RETURN_IF_ERROR(Wait(done, request.timeout_ms, "take the request"));
  // A server that refuses a large body answers and closes before it has read all of it: the answer
  // is still there to read.
  const bool closed_early =
      *done == asio::error::broken_pipe || *done == asio::error::connection_reset;
  return *done && !closed_early ? Result<void>(Broken(*done)) : Result<void>();
}

Result<void> Exchange::ReadHeader(int64_t timeout_ms) {
  parser_.body_limit(
      std::numeric_limits<uint64_t>::max());  // boost::none refuses everything in 1.74
  std::optional<error_code> done;
  http::async_read_header(
      stream_, buffer_, parser_, [&](const error_code& result, size_t) { done = result; });
  VARVE_RETURN_IF_ERROR(Wait(done, timeout_ms, "answer"));
  return *done ? Result<void>(Broken(*done)) : Result<void>();
}

Result<std::string> Exchange::ReadSome(int64_t timeout_ms) {
  while (!parser_.is_done() && parser_.get().body().empty()) {
    std::optional<error_code> done;
    http::async_read_some(
        stream_, buffer_, parser_, [&](const error_code& result, size_t) { done = result; });
    VARVE_RETURN_IF_ERROR(Wait(done, timeout_ms, "send more"));
    if (*done) {
      return Broken(*done);
    }
  }
  std::string piece = std::move(parser_.get().body());
  parser_.get().body().clear();
  return piece;
}

HttpResponse Exchange::Head() const {
  HttpResponse response;
  response.status = static_cast<int>(parser_.get().result_int());
  const auto retry_after = parser_.get()[http::field::retry_after];
  std::from_chars(retry_after.begin(), retry_after.end(), response.retry_after_s);
  return response;
}

Error BadUrl(std::string_view url, std::string_view why) {
  return Error{
      ErrorCode::kInvalidArgument,
      fmt::format(
          "\"{}\" is not a server URL: {}; write for example http://127.0.0.1:8080", url, why)};
}

}  // namespace

Result<HttpClient> HttpClient::Create(std::string_view url) {
  constexpr std::string_view kScheme = "http://";
  if (url.substr(0, kScheme.size()) != kScheme) {
    return BadUrl(url, "it must begin with http://");
  }
  HttpClient client;
  std::string_view rest = url.substr(kScheme.size());
  while (!rest.empty() && rest.back() == '/') {
    rest.remove_suffix(1);
  }
  client.url_ = fmt::format("{}{}", kScheme, rest);
  const size_t slash = rest.find('/');
  if (slash != std::string_view::npos) {
    client.prefix_ = rest.substr(slash);
    rest = rest.substr(0, slash);
  }
  client.port_ = "80";
  const size_t bracket = rest.rfind(']');  // [::1]:8080
  const size_t colon = rest.find(':', bracket == std::string_view::npos ? 0 : bracket);
  if (colon != std::string_view::npos) {
    client.port_ = rest.substr(colon + 1);
    rest = rest.substr(0, colon);
    int port = 0;
    const char* end = client.port_.data() + client.port_.size();
    const auto [last, status] = std::from_chars(client.port_.data(), end, port);
    if (status != std::errc() || last != end || port < 1 || port > 65535) {
      return BadUrl(url, "the port must be a number from 1 to 65535");
    }
  }
  if (rest.size() > 2 && rest.front() == '[' && rest.back() == ']') {
    rest = rest.substr(1, rest.size() - 2);
  }
  if (rest.empty()) {
    return BadUrl(url, "the host is missing");
  }
  client.host_ = rest;
  return client;
}

Result<HttpResponse> HttpClient::Send(const HttpRequest& request) const {
  Exchange exchange(host_, port_, url_);
  VARVE_RETURN_IF_ERROR(exchange.Connect());
  VARVE_RETURN_IF_ERROR(exchange.Write(request, prefix_ + request.target));
  VARVE_RETURN_IF_ERROR(exchange.ReadHeader(request.timeout_ms));
  HttpResponse response = exchange.Head();
  while (true) {
    VARVE_TRY(const std::string piece, exchange.ReadSome(request.timeout_ms));
    if (piece.empty()) {
      return response;
    }
    response.body += piece;
  }
}

Result<HttpResponse> HttpClient::SendStreaming(
    const HttpRequest& request,
    const std::function<bool(std::string_view data)>& on_event) const {
  SseParser events;
  return Download(request, [&](std::string_view piece) { return events.Feed(piece, on_event); });
}

Result<HttpResponse> HttpClient::Download(
    const HttpRequest& request,
    const std::function<bool(std::string_view bytes)>& on_bytes) const {
  Exchange exchange(host_, port_, url_);
  VARVE_RETURN_IF_ERROR(exchange.Connect());
  VARVE_RETURN_IF_ERROR(exchange.Write(request, prefix_ + request.target));
  VARVE_RETURN_IF_ERROR(exchange.ReadHeader(request.timeout_ms));
  HttpResponse response = exchange.Head();
  while (true) {
    VARVE_TRY(const std::string piece, exchange.ReadSome(request.timeout_ms));
    if (piece.empty()) {
      return response;
    }
    if (response.status != 200) {
      response.body += piece;
    } else if (!on_bytes(piece)) {
      return response;
    }
  }
}

}  // namespace varve::cli
