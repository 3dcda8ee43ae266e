#include "tests/e2e/fake_server.h"

#include <atomic>
#include <limits>
#include <thread>

#include <fmt/format.h>

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>

namespace varve {
namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using asio::ip::tcp;

std::string Chunk(const std::string& piece) {
  return fmt::format("{:x}\r\n{}\r\n", piece.size(), piece);
}

std::string HeadOf(const FakeResponse& response) {
  return fmt::format("HTTP/1.1 {} Fake\r\n{}", response.status, response.headers);
}

}  // namespace

struct FakeServer::Impl {
  explicit Impl(Handler h) : handler(std::move(h)) {}

  void Serve() {
    while (true) {
      boost::system::error_code failure;
      tcp::socket socket(io);
      acceptor.accept(socket, failure);
      if (stopping || failure) {
        return;
      }
      Answer(std::move(socket));
    }
  }

  void Answer(tcp::socket socket) {
    boost::system::error_code failure;
    boost::beast::flat_buffer buffer;
    http::request_parser<http::string_body> parser;
    parser.body_limit(
        std::numeric_limits<uint64_t>::max());  // boost::none refuses everything in 1.74
    http::read(socket, buffer, parser, failure);
    if (failure) {
      return;
    }
    const auto& request = parser.get();
    const FakeResponse response = handler(
        {std::string(request.method_string()), std::string(request.target()), request.body()});
    if (response.hang) {
      hanging.push_back(std::move(socket));
      return;
    }
    if (!response.pieces.empty()) {
      Write(socket,
            HeadOf(response) +
                "Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n");
      for (const std::string& piece : response.pieces) {
        Write(socket, Chunk(piece));
      }
      if (!response.hang_up) {
        Write(socket, "0\r\n\r\n");
      }
    } else if (!response.hang_up) {
      Write(socket,
            fmt::format("{}Content-Length: {}\r\n\r\n{}",
                        HeadOf(response),
                        response.body.size(),
                        response.body));
    }
  }

  static void Write(tcp::socket& socket, const std::string& bytes) {
    boost::system::error_code ignored;
    asio::write(socket, asio::buffer(bytes), ignored);
  }

  Handler handler;
  asio::io_context io;
  tcp::acceptor acceptor{io, tcp::endpoint(asio::ip::address_v4::loopback(), 0)};
  std::vector<tcp::socket> hanging;  // the server's thread only
  std::atomic<bool> stopping = false;
  std::thread thread;
};

FakeServer::FakeServer(Handler handler) : impl_(std::make_unique<Impl>(std::move(handler))) {
  impl_->thread = std::thread([this] { impl_->Serve(); });
}

FakeServer::~FakeServer() {
  impl_->stopping = true;
  asio::io_context io;
  tcp::socket wake(io);
  boost::system::error_code ignored;
  wake.connect(impl_->acceptor.local_endpoint(), ignored);
  impl_->thread.join();
}

std::string FakeServer::url() const {
  return fmt::format("http://127.0.0.1:{}", impl_->acceptor.local_endpoint().port());
}

}  // namespace varve
