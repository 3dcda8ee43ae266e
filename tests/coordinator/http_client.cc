#include "tests/coordinator/http_client.h"

#include <cctype>

#include <boost/asio/connect.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/string_body.hpp>

namespace varve {
namespace {

namespace net = boost::asio;
namespace http = boost::beast::http;

}  // namespace

std::string ClientResponse::error(const std::string& field) const {
  const nlohmann::json parsed = json();
  if (!parsed.is_object() || !parsed.contains("error") || !parsed["error"].contains(field) ||
      !parsed["error"][field].is_string()) {
    return "";
  }
  return parsed["error"][field];
}

std::vector<std::string> ClientResponse::events() const {
  std::vector<std::string> result;
  size_t begin = 0;
  for (size_t end = body.find("\n\n"); end != std::string::npos; end = body.find("\n\n", begin)) {
    const std::string event = body.substr(begin, end - begin);
    result.push_back(event.rfind("data: ", 0) == 0 ? event.substr(6) : "BAD FRAME: " + event);
    begin = end + 2;
  }
  if (begin != body.size()) {
    result.push_back("BAD END: " + body.substr(begin));
  }
  return result;
}

struct HttpClient::Impl {
  net::io_context io;
  net::ip::tcp::socket socket{io};
  boost::beast::flat_buffer buffer;
};

HttpClient::HttpClient(uint16_t port) : impl_(std::make_unique<Impl>()) {
  impl_->socket.connect({net::ip::make_address("127.0.0.1"), port});
}

HttpClient::~HttpClient() = default;

ClientResponse HttpClient::Get(const std::string& path) {
  return Send("GET", path, "");
}
ClientResponse HttpClient::Delete(const std::string& path) {
  return Send("DELETE", path, "");
}
ClientResponse HttpClient::Post(const std::string& path, const nlohmann::json& body) {
  return Send("POST", path, body.dump());
}

ClientResponse HttpClient::Send(const std::string& method,
                                const std::string& path,
                                const std::string& body,
                                const std::string& content_type) {
  std::string request = method + " " + path + " HTTP/1.1\r\nHost: test\r\n";
  if (!body.empty() || method == "POST") {
    request += "Content-Type: " + content_type +
               "\r\nContent-Length: " + std::to_string(body.size()) + "\r\n";
  }
  Write(request + "\r\n" + body);
  return ReadResponse();
}

void HttpClient::Write(const std::string& bytes) {
  boost::system::error_code ignored;
  net::write(impl_->socket, net::buffer(bytes), ignored);
}

std::string HttpClient::ReadSome() {
  std::string bytes(64 << 10, '\0');
  boost::system::error_code error;
  bytes.resize(impl_->socket.read_some(net::buffer(bytes), error));
  return bytes;
}

std::string HttpClient::ReadUntilClose() {
  std::string all;
  for (std::string some = ReadSome(); !some.empty(); some = ReadSome()) {
    all += some;
  }
  return all;
}

ClientResponse HttpClient::ReadResponse(bool body_allowed) {
  http::response_parser<http::string_body> parser;
  parser.body_limit(uint64_t{1} << 30);
  parser.skip(!body_allowed);
  boost::system::error_code error;
  http::read(impl_->socket, impl_->buffer, parser, error);
  ClientResponse response;
  if (error) {
    response.body = "client: " + error.message();
    return response;
  }
  response.status = static_cast<int>(parser.get().result_int());
  for (const auto& field : parser.get()) {
    std::string name(field.name_string());
    for (char& c : name) {
      c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    }
    response.headers[name] = std::string(field.value());
  }
  response.body = std::move(parser.get().body());
  return response;
}

void HttpClient::Close() {
  impl_->socket.close();
}

}  // namespace varve
