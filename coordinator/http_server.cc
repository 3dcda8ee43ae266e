#include "coordinator/http_server.h"

#include <thread>

#include <fmt/core.h>

#include "coordinator/http_connection.h"
#include "proto/base/log.h"

#include <boost/asio/ip/address.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>

namespace varve {
namespace {

namespace net = boost::asio;
using net::ip::tcp;

// Out of file descriptors: accepting again at once would spin.
constexpr int kAcceptRetryMs = 100;

class AsioHttpServer final : public HttpServer {
 public:
  AsioHttpServer(HttpServerOptions options, HttpHandler handler) : acceptor_(state_.io) {
    state_.options = std::move(options);
    state_.handler = std::move(handler);
  }
  ~AsioHttpServer() override { Stop(); }

  Result<void> Listen() {
    boost::system::error_code error;
    const std::string& host = state_.options.host;
    const net::ip::address address = net::ip::make_address(host, error);
    if (error) {
      return Error{ErrorCode::kInvalidArgument,
                   fmt::format("The host '{}' is not an IP address.", host)};
    }
    const tcp::endpoint endpoint(address, state_.options.port);
    acceptor_.open(endpoint.protocol(), error);
    if (!error) {
      acceptor_.set_option(net::socket_base::reuse_address(true), error);
    }
    if (!error) {
      acceptor_.bind(endpoint, error);
    }
    if (!error) {
      acceptor_.listen(net::socket_base::max_listen_connections, error);
    }
    if (error) {
      return Error{
          ErrorCode::kIoError,
          fmt::format("Cannot listen on {}:{}: {}.", host, state_.options.port, error.message())};
    }
    port_ = acceptor_.local_endpoint().port();
    Accept();
    thread_ = std::thread([this] { state_.io.run(); });
    return {};
  }

  uint16_t port() const override { return port_; }

  void Stop() override {
    if (!thread_.joinable()) {
      return;
    }
    net::post(state_.io, [this] {
      stopped_ = true;
      boost::system::error_code ignored;
      acceptor_.close(ignored);
      accept_retry_.cancel();
      while (!state_.connections.empty()) {
        (*state_.connections.begin())->Close();
      }
    });
    // The loop ends when the last handler of the last connection has run.
    thread_.join();
  }

 private:
  void Accept() {
    acceptor_.async_accept([this](boost::system::error_code error, tcp::socket socket) {
      if (stopped_ || error == net::error::operation_aborted) {
        return;
      }
      if (error) {
        SPDLOG_WARN("accept: {}", error.message());
        accept_retry_.expires_after(std::chrono::milliseconds(kAcceptRetryMs));
        accept_retry_.async_wait([this](boost::system::error_code) {
          if (!stopped_) {
            Accept();
          }
        });
        return;
      }
      boost::system::error_code ignored;
      socket.set_option(tcp::no_delay(true), ignored);
      const bool full = state_.connections.size() >= state_.options.max_connections;
      auto connection = std::make_shared<HttpConnection>(std::move(socket), &state_);
      state_.connections.insert(connection);
      if (full) {
        connection->Refuse();
      } else {
        connection->Start();
      }
      Accept();
    });
  }

  HttpServerState state_;
  tcp::acceptor acceptor_;
  net::steady_timer accept_retry_{state_.io};
  bool stopped_ = false;
  uint16_t port_ = 0;
  std::thread thread_;
};

}  // namespace

Result<std::unique_ptr<HttpServer>> HttpServer::Start(HttpServerOptions options,
                                                      HttpHandler handler) {
  auto server = std::make_unique<AsioHttpServer>(std::move(options), std::move(handler));
  VARVE_RETURN_IF_ERROR(server->Listen());
  return std::unique_ptr<HttpServer>(std::move(server));
}

}  // namespace varve
