// The ResponseStream that handlers get: their calls, made on the I/O thread.
#include <chrono>
#include <future>
#include <utility>

#include "coordinator/http_connection.h"

#include <boost/asio/dispatch.hpp>

namespace varve {
namespace {

namespace net = boost::asio;

constexpr int kStopPollMs = 50;

// Hands the handler's calls to the I/O thread. A call that is made there runs at once: were it
// posted, it would wait in a queue of that thread, and a later call of another thread could
// overtake it.
class PostedResponse final : public ResponseStream {
 public:
  PostedResponse(HttpServerState* server,
                 std::weak_ptr<HttpConnection> connection,
                 uint64_t exchange)
      : io_(server->io), connection_(std::move(connection)), exchange_(exchange) {}
  ~PostedResponse() override {
    Post([](HttpConnection* connection, uint64_t exchange) { connection->Abandon(exchange); });
  }

  void SetRoute(std::string_view route) override {
    Post([route](HttpConnection* connection, uint64_t exchange) {
      connection->SetRoute(exchange, route);
    });
  }
  void Send(HttpResponse response) override {
    Post([response = std::move(response)](HttpConnection* connection, uint64_t exchange) mutable {
      connection->Send(exchange, std::move(response));
    });
  }
  void SendEvent(std::string data) override {
    Post([data = std::move(data)](HttpConnection* connection, uint64_t exchange) {
      connection->SendEvent(exchange, data);
    });
  }
  void BeginBody(HttpResponse head) override {
    Post([head = std::move(head)](HttpConnection* connection, uint64_t exchange) mutable {
      connection->BeginBody(exchange, std::move(head));
    });
  }
  bool WriteBody(std::string bytes) override {
    auto sent = std::make_shared<std::promise<bool>>();
    std::future<bool> result = sent->get_future();
    net::dispatch(
        io_, [connection = connection_, exchange = exchange_, sent, bytes = std::move(bytes)] {
          if (const auto alive = connection.lock()) {
            alive->WriteBody(exchange, bytes, [sent](bool done) { sent->set_value(done); });
          } else {
            sent->set_value(false);
          }
        });
    // A server that was stopped meanwhile runs nothing any more.
    while (result.wait_for(std::chrono::milliseconds(kStopPollMs)) != std::future_status::ready) {
      if (io_.stopped()) {
        return false;
      }
    }
    return result.get();
  }
  void Finish() override {
    Post([](HttpConnection* connection, uint64_t exchange) { connection->Finish(exchange); });
  }
  void Run(std::function<void()> work) override {
    Post([work = std::move(work)](HttpConnection*, uint64_t) { work(); });
  }
  void OnDisconnect(std::function<void()> callback) override {
    net::dispatch(
        io_,
        [connection = connection_, exchange = exchange_, callback = std::move(callback)]() mutable {
          if (const auto alive = connection.lock()) {
            alive->OnDisconnect(exchange, std::move(callback));
          } else {
            callback();
          }
        });
  }

 private:
  template <typename Call>
  void Post(Call call) {
    net::dispatch(
        io_, [connection = connection_, exchange = exchange_, call = std::move(call)]() mutable {
          if (const auto alive = connection.lock()) {
            call(alive.get(), exchange);
          }
        });
  }

  net::io_context& io_;
  std::weak_ptr<HttpConnection> connection_;
  uint64_t exchange_;
};

}  // namespace

std::shared_ptr<ResponseStream> MakePostedResponse(HttpServerState* server,
                                                   std::weak_ptr<HttpConnection> connection,
                                                   uint64_t exchange) {
  return std::make_shared<PostedResponse>(server, std::move(connection), exchange);
}

}  // namespace varve
