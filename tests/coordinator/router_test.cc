#include "coordinator/router.h"

#include <gtest/gtest.h>

namespace varve {
namespace {

Router TestRouter() {
  Router router;
  router.Add("GET", "/a", true, [](RoutedRequest) {});
  router.Add("POST", "/a", false, [](RoutedRequest) {});
  router.Add("GET", "/a/{name}", false, [](RoutedRequest) {});
  router.Add("POST", "/a/{name}/append", false, [](RoutedRequest) {});
  return router;
}

TEST(Router, FindsLiteralPathsByMethod) {
  const Router router = TestRouter();
  EXPECT_TRUE(router.Find("GET", "/a").quick);
  const Router::Match post = router.Find("POST", "/a");
  EXPECT_NE(post.handler, nullptr);
  EXPECT_FALSE(post.quick);
  EXPECT_EQ(post.pattern, "/a");
}

TEST(Router, FindsNames) {
  const Router router = TestRouter();
  EXPECT_EQ(router.Find("GET", "/a/x").name, "x");
  EXPECT_EQ(router.Find("GET", "/a/append").name, "append");
  EXPECT_EQ(router.Find("POST", "/a/x/append").name, "x");
  EXPECT_EQ(router.Find("GET", "/a/a%20b%2F").name, "a b/");
}

TEST(Router, TellsAnUnknownPathFromAWrongMethod) {
  const Router router = TestRouter();
  for (const char* path : {"", "/", "/b", "/a/", "/a/x/y", "/a//append", "/a/%zz", "/a/%2"}) {
    EXPECT_TRUE(router.Find("GET", path).pattern.empty()) << path;
  }
  const Router::Match wrong = router.Find("PATCH", "/a");
  EXPECT_EQ(wrong.handler, nullptr);
  EXPECT_EQ(wrong.allowed_methods, "GET, POST");
}

}  // namespace
}  // namespace varve
