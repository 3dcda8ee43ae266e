// Mutated requests against a live coordinator: whatever comes, the server goes on and nothing stays
// open in the workers. The seed is printed with every failure; VARVE_FUZZ_SEED repeats one.

#include <cstdlib>

#include <gtest/gtest.h>

#include "proto/base/rng.h"
#include "tests/coordinator/coordinator_rig.h"

namespace varve {
namespace {

std::string Framed(const std::string& method, const std::string& path, const std::string& body) {
  return method + " " + path + " HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n" +
         "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body;
}

std::vector<std::string> Corpus() {
  const std::string chat =
      R"({"model":"fake","messages":[{"role":"user","content":"hi"}],"stream":true,"max_tokens":9,)"
      R"("temperature":0.5,"seed":3,"stop":["a","b"],"logprobs":true,"top_logprobs":2})";
  const std::string text =
      R"({"model":"fake","prompt":[104,105],"max_tokens":5,"context":"doc","kv":{"attention":"exact"}})";
  return {
      Framed("POST", "/v1/chat/completions", chat),
      Framed("POST", "/v1/completions", text),
      Framed("POST", "/v1/contexts", R"({"name":"doc2","text":"some text","kv":{"codec":"bf16"}})"),
      Framed("POST",
             "/v1/contexts/doc/append",
             R"({"offset":0,"hash":"2d06800538d394c2","text":"more"})"),
      Framed("DELETE", "/v1/contexts/doc2", ""),
      "GET /v1/contexts HTTP/1.1\r\n\r\nGET /metrics HTTP/1.1\r\nConnection: close\r\n\r\n",
      "POST /v1/completions HTTP/1.1\r\nTransfer-Encoding: "
      "chunked\r\n\r\n5\r\n{\"a\":\r\n0\r\n\r\n",
  };
}

// Flips, removes, repeats or inserts bytes; half of the time inside the body, whose length is then
// corrected.
std::string Mutate(std::string text, Rng* rng) {
  const char kInteresting[] = "\"{}[]:,\\\r\n \0-9e.%u\xff\xc3";
  for (uint64_t n = rng->Below(6); n > 0 && !text.empty(); --n) {
    const size_t at = rng->Below(text.size());
    switch (rng->Below(5)) {
      case 0:
        text[at] = static_cast<char>(rng->Below(256));
        break;
      case 1:
        text.erase(at, 1 + rng->Below(8));
        break;
      case 2:
        text.insert(at, 1 + rng->Below(3), kInteresting[rng->Below(sizeof(kInteresting) - 1)]);
        break;
      case 3:
        text.insert(at, text.substr(at, 1 + rng->Below(40)));
        break;
      default:
        text.insert(at, std::to_string(static_cast<int64_t>(rng->Next())));
    }
  }
  return text;
}

std::string MutatedRequest(const std::vector<std::string>& corpus, Rng* rng) {
  const std::string& request = corpus[rng->Below(corpus.size())];
  const size_t head_end = request.find("\r\n\r\n") + 4;
  if (rng->Below(2) == 0 || head_end == request.size()) {
    return Mutate(request, rng);
  }
  const std::string body = Mutate(request.substr(head_end), rng);
  const size_t method_end = request.find(' ');
  const size_t path_end = request.find(' ', method_end + 1);
  return Framed(request.substr(0, method_end),
                request.substr(method_end + 1, path_end - method_end - 1),
                body);
}

TEST(HttpFuzz, TheServerGoesOn) {
  const char* seed_text = std::getenv("VARVE_FUZZ_SEED");
  const uint64_t first_seed = seed_text == nullptr ? 1 : std::strtoull(seed_text, nullptr, 10);
  const uint64_t num_seeds = seed_text == nullptr ? 600 : 1;
  CoordinatorOptions options;
  options.http.idle_timeout_ms = 100;
  options.http.read_timeout_ms = 100;
  CoordinatorRig rig(std::move(options));
  rig.MakeContext("doc", "a document");
  const std::vector<std::string> corpus = Corpus();
  for (uint64_t seed = first_seed; seed < first_seed + num_seeds; ++seed) {
    Rng rng(seed);
    HttpClient client = rig.Client();
    client.Write(MutatedRequest(corpus, &rng));
    if (rng.Below(2) == 0) {
      client.ReadSome();  // the others leave without an answer
    }
    if (seed % 50 == 0) {
      // A client that the machine holds up for longer than the short timeouts above tries again.
      ASSERT_TRUE(Eventually([&] { return rig.Get("/healthz").status == 200; })) << "seed " << seed;
      ASSERT_TRUE(Eventually([&] { return rig.Get("/readyz").status == 200; })) << "seed " << seed;
    }
  }
  EXPECT_TRUE(rig.workers.WaitUntil([](const FakeWorkerGroup& w) { return w.num_open() == 0; }));
  EXPECT_TRUE(Eventually([&] { return rig.Complete({{"prompt", "fine"}}).status == 200; }));
}

}  // namespace
}  // namespace varve
