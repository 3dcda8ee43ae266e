// An HTTP server whose answers a test writes: for what a real server rarely does (stalls, cuts,
// refusals).
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace varve {

struct FakeRequest {
  std::string method;
  std::string target;
  std::string body;
};

struct FakeResponse {
  int status = 200;
  std::string body;
  std::string headers;              // further header lines, each ended by "\r\n"
  std::vector<std::string> pieces;  // instead of a body: an event stream, written piece by piece
  bool hang = false;                // never answer
  bool hang_up = false;             // close the connection: before the answer, or behind the pieces
};

class FakeServer {
 public:
  using Handler = std::function<FakeResponse(const FakeRequest&)>;

  // `handler` is called on the server's thread, one request at a time.
  explicit FakeServer(Handler handler);
  ~FakeServer();

  std::string url() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace varve
