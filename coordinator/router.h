// Which handler a method and a path belong to. Patterns are literal paths; a last segment "{name}"
// stands for one non-empty segment, and may be followed by literal segments.
//
// Threads: immutable after the last Add.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "coordinator/http_server.h"

namespace varve {

// What a handler gets: the request, what stood for "{name}" (percent-decoded), and where to answer.
struct RoutedRequest {
  HttpRequest http;
  std::string name;
  std::shared_ptr<ResponseStream> response;
};

class Router {
 public:
  using Handler = std::function<void(RoutedRequest)>;

  // `pattern` must be a string literal. `quick` handlers run on the I/O thread, the others on the
  // API threads.
  void Add(std::string_view method, std::string_view pattern, bool quick, Handler handler);

  struct Match {
    const Handler* handler = nullptr;  // null: see allowed_methods
    std::string_view pattern;          // empty: no such path (404)
    std::string name;
    bool quick = false;
    std::string allowed_methods;  // of the path, when only the method is wrong (405)
  };
  Match Find(std::string_view method, std::string_view path) const;

 private:
  struct Route {
    std::string_view method;
    std::string_view pattern;
    bool quick;
    Handler handler;
  };
  std::vector<Route> routes_;
};

}  // namespace varve
