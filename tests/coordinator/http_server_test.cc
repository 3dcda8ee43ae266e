#include "coordinator/http_server.h"

#include <future>
#include <mutex>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/coordinator/eventually.h"
#include "tests/coordinator/http_client.h"
#include "tests/support/result_matchers.h"

namespace varve {
namespace {

using testing::HasSubstr;

// A server whose handler the test gives.
class Server {
 public:
  explicit Server(HttpHandler handler, HttpServerOptions options = {}) {
    auto started = HttpServer::Start(std::move(options), std::move(handler));
    VARVE_CHECK(started.has_value());
    server_ = *std::move(started);
  }
  HttpClient Client() { return HttpClient(server_->port()); }
  HttpServer& operator*() { return *server_; }

 private:
  std::unique_ptr<HttpServer> server_;
};

void Echo(HttpRequest request, std::shared_ptr<ResponseStream> response) {
  response->Send(HttpResponse{.body = request.method + " " + request.path + " " + request.body});
}

TEST(HttpServer, ServesManyRequestsOnOneConnection) {
  Server server(Echo);
  HttpClient client = server.Client();
  for (int i = 0; i < 20; ++i) {
    EXPECT_EQ(client.Send("POST", "/a?b=c", std::to_string(i)).body,
              "POST /a " + std::to_string(i));
  }
}

TEST(HttpServer, AnswersPipelinedRequestsInOrder) {
  Server server(Echo);
  HttpClient client = server.Client();
  std::string requests;
  for (int i = 0; i < 50; ++i) {
    requests += "GET /" + std::to_string(i) + " HTTP/1.1\r\n\r\n";
  }
  client.Write(requests);
  for (int i = 0; i < 50; ++i) {
    EXPECT_EQ(client.ReadResponse().body, "GET /" + std::to_string(i) + " ");
  }
}

TEST(HttpServer, ReadsAChunkedBody) {
  Server server(Echo);
  HttpClient client = server.Client();
  client.Write(
      "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n");
  EXPECT_EQ(client.ReadResponse().body, "POST / abcde");
}

TEST(HttpServer, ContinuesWhenAsked) {
  Server server(Echo);
  HttpClient client = server.Client();
  client.Write("POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n");
  EXPECT_EQ(client.ReadSome(), "HTTP/1.1 100 Continue\r\n\r\n");
  client.Write("abc");
  EXPECT_EQ(client.ReadResponse().body, "POST / abc");
}

TEST(HttpServer, ClosesWhenTheClientWants) {
  Server server(Echo);
  for (const char* request :
       {"GET / HTTP/1.0\r\n\r\n", "GET / HTTP/1.1\r\nConnection: close\r\n\r\n"}) {
    HttpClient client = server.Client();
    client.Write(request);
    const std::string all = client.ReadUntilClose();
    EXPECT_THAT(all, HasSubstr("Connection: close\r\n"));
    EXPECT_THAT(all, HasSubstr("GET / "));
  }
}

TEST(HttpServer, AnswersHeadWithoutABody) {
  Server server(Echo);
  HttpClient client = server.Client();
  client.Write("HEAD /x HTTP/1.1\r\n\r\n");
  const std::string all = client.ReadUntilClose();
  EXPECT_THAT(all, HasSubstr("Content-Length: 8"));
  EXPECT_THAT(all, testing::EndsWith("\r\n\r\n"));
}

TEST(HttpServer, RefusesWhatIsNotHttp) {
  Server server(Echo);
  for (const char* garbage : {"hello\r\n\r\n",
                              "GET /\r\n\r\n",
                              "POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
                              "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
                              "\x16\x03\x01\x02"}) {
    HttpClient client = server.Client();
    client.Write(garbage);
    client.Write("\r\n\r\n");
    EXPECT_THAT(client.ReadUntilClose(), HasSubstr("HTTP/1.1 400 Bad Request")) << garbage;
  }
}

TEST(HttpServer, RefusesALargeBodyAndALargeHeader) {
  HttpServerOptions options;
  options.max_body_bytes = 1000;
  Server server(Echo, options);
  const ClientResponse large = server.Client().Send("POST", "/", std::string(1001, 'x'));
  EXPECT_EQ(large.status, 413);
  EXPECT_EQ(large.error("code"), "payload_too_large");
  EXPECT_THAT(large.error(), HasSubstr("1000"));
  HttpClient chunked = server.Client();
  chunked.Write("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n7d0\r\n" +
                std::string(2000, 'x') + "\r\n0\r\n\r\n");
  EXPECT_EQ(chunked.ReadResponse().status, 413);
  HttpClient header = server.Client();
  header.Write("GET / HTTP/1.1\r\nX: " + std::string(20000, 'x') + "\r\n\r\n");
  const ClientResponse refused = header.ReadResponse();
  EXPECT_EQ(refused.status, 400);
  EXPECT_THAT(refused.error(), HasSubstr("header"));
  EXPECT_EQ(server.Client().Send("POST", "/", std::string(1000, 'x')).status, 200);
}

TEST(HttpServer, BodiesAreLimitedInSum) {
  HttpServerOptions options;
  options.max_body_bytes = 1000;
  options.max_buffered_body_bytes = 1500;
  Server server(Echo, options);
  HttpClient slow = server.Client();
  slow.Write("POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 1000\r\n\r\n");
  slow.ReadSome();  // now its room is taken
  const ClientResponse refused = server.Client().Send("POST", "/", std::string(600, 'x'));
  EXPECT_EQ(refused.status, 429);
  EXPECT_EQ(server.Client().Send("POST", "/", std::string(500, 'x')).status, 200);
  slow.Write(std::string(1000, 'x'));
  EXPECT_EQ(slow.ReadResponse().status, 200);
  EXPECT_EQ(server.Client().Send("POST", "/", std::string(1000, 'x')).status, 200);
}

TEST(HttpServer, ConnectionsAreLimited) {
  HttpServerOptions options;
  options.max_connections = 2;
  Server server(Echo, options);
  HttpClient first = server.Client();
  HttpClient second = server.Client();
  EXPECT_EQ(first.Get("/").status, 200);
  EXPECT_EQ(second.Get("/").status, 200);
  {
    HttpClient third = server.Client();
    const ClientResponse refused = third.ReadResponse();
    EXPECT_EQ(refused.status, 503);
    EXPECT_THAT(refused.error(), HasSubstr("2 connections"));
  }
  first.Close();
  EXPECT_TRUE(Eventually([&] { return server.Client().Get("/").status == 200; }));
}

TEST(HttpServer, ASilentClientIsClosed) {
  HttpServerOptions options;
  options.idle_timeout_ms = 50;
  options.read_timeout_ms = 50;
  Server server(Echo, options);
  EXPECT_EQ(server.Client().ReadUntilClose(), "");
  HttpClient half = server.Client();
  half.Write("POST / HTTP/1.1\r\nContent-Length: 10\r\n\r\nabc");
  EXPECT_EQ(half.ReadUntilClose(), "");
}

TEST(HttpServer, StreamsEventsAndGoesOn) {
  Server server([](const HttpRequest& request, std::shared_ptr<ResponseStream> response) {
    if (request.path == "/events") {
      response->SendEvent("one");
      response->SendEvent("two");
      response->Finish();
      response->SendEvent("late");
      response->Send(HttpResponse{});
    } else {
      response->Send(HttpResponse{.body = "plain"});
    }
  });
  HttpClient client = server.Client();
  EXPECT_THAT(client.Get("/events").events(), testing::ElementsAre("one", "two"));
  EXPECT_EQ(client.Get("/").body, "plain");
  HttpClient old = server.Client();
  old.Write("GET /events HTTP/1.0\r\n\r\n");
  EXPECT_THAT(old.ReadUntilClose(), testing::EndsWith("\r\n\r\ndata: one\n\ndata: two\n\n"));
}

TEST(HttpServer, TellsThatAClientWentAway) {
  std::promise<void> gone;
  std::promise<void> arrived;
  std::shared_ptr<ResponseStream> kept;
  Server server([&](const HttpRequest&, std::shared_ptr<ResponseStream> response) {
    response->OnDisconnect([&] { gone.set_value(); });
    kept = std::move(response);
    arrived.set_value();
  });
  {
    HttpClient client = server.Client();
    client.Write("GET / HTTP/1.1\r\n\r\n");
    arrived.get_future().get();
  }
  gone.get_future().get();
  std::promise<void> gone_late;
  kept->OnDisconnect([&] { gone_late.set_value(); });
  gone_late.get_future().get();
  kept->Send(HttpResponse{});
  kept.reset();
  (*server).Stop();
}

TEST(HttpServer, AClientThatDoesNotReadIsClosed) {
  HttpServerOptions options;
  options.max_unsent_bytes = 1 << 20;
  std::promise<void> gone;
  Server server(
      [&](const HttpRequest&, const std::shared_ptr<ResponseStream>& response) {
        response->OnDisconnect([&] { gone.set_value(); });
        for (int i = 0; i < 200; ++i) {
          response->SendEvent(std::string(100000, 'x'));
        }
      },
      options);
  HttpClient client = server.Client();
  client.Write("GET / HTTP/1.1\r\n\r\n");
  gone.get_future().get();
}

TEST(HttpServer, AForgottenAnswerClosesTheConnection) {
  Server server([](const HttpRequest&, const std::shared_ptr<ResponseStream>&) {});
  HttpClient client = server.Client();
  client.Write("GET / HTTP/1.1\r\n\r\n");
  EXPECT_EQ(client.ReadUntilClose(), "");
}

TEST(HttpServer, CountsEveryResponse) {
  std::mutex mutex;
  std::vector<std::pair<std::string, int>> seen;
  HttpServerOptions options;
  options.max_body_bytes = 10;
  options.on_response = [&](std::string_view route, int status) {
    const std::lock_guard lock(mutex);
    seen.emplace_back(route, status);
  };
  Server server(
      [](const HttpRequest&, const std::shared_ptr<ResponseStream>& response) {
        response->SetRoute("/route");
        response->Send(HttpResponse{.status = 202});
      },
      options);
  server.Client().Get("/");
  server.Client().Send("POST", "/", std::string(11, 'x'));
  const std::lock_guard lock(mutex);
  EXPECT_THAT(seen,
              testing::ElementsAre(testing::Pair("/route", 202), testing::Pair("other", 413)));
}

TEST(HttpServer, StopClosesConnections) {
  Server server(Echo);
  HttpClient client = server.Client();
  EXPECT_EQ(client.Get("/").status, 200);
  (*server).Stop();
  EXPECT_EQ(client.ReadUntilClose(), "");
}

}  // namespace
}  // namespace varve
