// A blocking HTTP client for tests: one connection, whole answers or the events of a stream.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

namespace varve {

struct ClientResponse {
  int status = 0;
  std::map<std::string, std::string> headers;  // names in lower case
  std::string body;

  // Null if the body is not JSON.
  nlohmann::json json() const { return nlohmann::json::parse(body, nullptr, false); }
  // error.message, error.code, error.param of an OpenAI-shaped error; "" if absent.
  std::string error(const std::string& field = "message") const;
  // The payloads of an event stream.
  std::vector<std::string> events() const;
};

class HttpClient {
 public:
  explicit HttpClient(uint16_t port);
  ~HttpClient();

  ClientResponse Get(const std::string& path);
  ClientResponse Delete(const std::string& path);
  ClientResponse Post(const std::string& path, const nlohmann::json& body);
  ClientResponse Send(const std::string& method,
                      const std::string& path,
                      const std::string& body,
                      const std::string& content_type = "application/json");

  // Raw bytes out, and what comes until the peer closes or `enough` has come.
  void Write(const std::string& bytes);
  std::string ReadSome();
  std::string ReadUntilClose();
  ClientResponse ReadResponse(bool body_allowed = true);
  void Close();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace varve
