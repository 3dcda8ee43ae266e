#include "coordinator/completions_api.h"

#include <future>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/coordinator/coordinator_rig.h"

namespace varve {
namespace {

using Json = nlohmann::json;
using testing::HasSubstr;

TEST(Completions, AnswersAPrompt) {
  CoordinatorRig rig;
  const ClientResponse response = rig.Complete({{"prompt", "hello"}});
  ASSERT_EQ(response.status, 200) << response.body;
  const Json body = response.json();
  EXPECT_EQ(body["object"], "text_completion");
  EXPECT_EQ(body["model"], "fake");
  EXPECT_THAT(body["id"].get<std::string>(), testing::StartsWith("cmpl-"));
  EXPECT_EQ(body["choices"][0]["text"], "hello");
  EXPECT_EQ(body["choices"][0]["finish_reason"], "stop");
  EXPECT_TRUE(body["choices"][0]["logprobs"].is_null());
  EXPECT_EQ(body["usage"],
            Json::parse(R"({"prompt_tokens":6,"completion_tokens":6,"total_tokens":12,
                            "prompt_tokens_details":{"cached_tokens":0}})"));
}

TEST(Completions, GeneratesSixteenTokensByDefault) {
  CoordinatorRig rig;
  const Json body = rig.Complete({{"prompt", "*ab"}}).json();
  EXPECT_EQ(body["choices"][0]["text"], "*ab*ab*ab*ab*ab*");
  EXPECT_EQ(body["choices"][0]["finish_reason"], "length");
}

TEST(Completions, TakesEveryFormOfOnePrompt) {
  CoordinatorRig rig;
  for (const char* prompt : {R"("hi")", R"(["hi"])", "[104,105]", "[[104,105]]"}) {
    const ClientResponse response = rig.Complete({{"prompt", Json::parse(prompt)}});
    ASSERT_EQ(response.status, 200) << prompt << response.body;
    EXPECT_EQ(response.json()["choices"][0]["text"], "hi") << prompt;
  }
}

TEST(Completions, AnswersAChat) {
  CoordinatorRig rig;
  const ClientResponse response =
      rig.Chat({{"messages", Json::parse(R"([{"role":"developer","content":"be brief"},
                        {"role":"user","name":"me","content":[{"type":"text","text":"a"},
                                                              {"type":"text","text":"b"}]}])")}});
  ASSERT_EQ(response.status, 200) << response.body;
  const Json body = response.json();
  EXPECT_EQ(body["object"], "chat.completion");
  EXPECT_EQ(body["choices"][0]["message"]["role"], "assistant");
  EXPECT_EQ(body["choices"][0]["message"]["content"], "system:be brief;user:a\nb;");
  EXPECT_EQ(body["usage"]["prompt_tokens"], 26);
}

TEST(Completions, SeedMakesItReproducible) {
  CoordinatorRig rig;
  const auto text = [&](Json fields) {
    fields["prompt"] = "x";
    fields["temperature"] = 1;
    return rig.Complete(fields).json()["choices"][0]["text"].get<std::string>();
  };
  EXPECT_EQ(text({{"seed", 7}}), text({{"seed", 7}}));
  EXPECT_NE(text({{"seed", 7}}), text({{"seed", -7}}));
  EXPECT_NE(text({}), text({}));
}

TEST(Completions, ReportsLogprobs) {
  CoordinatorRig rig;
  const Json text = rig.Complete({{"prompt", "ab"}, {"logprobs", 2}}).json();
  EXPECT_EQ(text["choices"][0]["logprobs"],
            Json::parse(R"({"tokens":["a","b"],"token_logprobs":[-1.0,-1.0],
                            "top_logprobs":[{"a":-1.0,"b":-2.0},{"b":-1.0,"c":-2.0}],
                            "text_offset":[0,1]})"));
  const Json chat = rig.Chat({{"logprobs", true}, {"top_logprobs", 1}, {"max_tokens", 1}}).json();
  EXPECT_EQ(chat["choices"][0]["logprobs"],
            Json::parse(R"({"content":[{"token":"u","logprob":-1.0,"bytes":[117],
                            "top_logprobs":[{"token":"u","logprob":-1.0,"bytes":[117]}]}]})"));
}

TEST(Completions, StreamsEvents) {
  CoordinatorRig rig;
  const ClientResponse response = rig.Complete(
      {{"prompt", "hey"}, {"stream", true}, {"stream_options", {{"include_usage", true}}}});
  EXPECT_EQ(response.status, 200);
  EXPECT_EQ(response.headers.at("content-type"), "text/event-stream; charset=utf-8");
  const std::vector<std::string> events = response.events();
  ASSERT_EQ(events.size(), 6U) << response.body;
  std::string text;
  for (size_t i = 0; i < 4; ++i) {
    const Json chunk = Json::parse(events[i]);
    EXPECT_EQ(chunk["object"], "text_completion");
    EXPECT_TRUE(chunk["usage"].is_null());
    EXPECT_EQ(chunk["choices"][0]["finish_reason"], i == 3 ? Json("stop") : Json(nullptr));
    text += chunk["choices"][0]["text"];
  }
  EXPECT_EQ(text, "hey");
  const Json usage = Json::parse(events[4]);
  EXPECT_TRUE(usage["choices"].empty());
  EXPECT_EQ(usage["usage"]["completion_tokens"], 4);
  EXPECT_EQ(events[5], "[DONE]");
}

TEST(Completions, StreamsAChat) {
  CoordinatorRig rig;
  const std::vector<std::string> events = rig.Chat({{"stream", true}}).events();
  ASSERT_GE(events.size(), 3U);
  const Json first = Json::parse(events[0]);
  EXPECT_EQ(first["object"], "chat.completion.chunk");
  EXPECT_EQ(first["choices"][0]["delta"]["role"], "assistant");
  EXPECT_FALSE(first.contains("usage"));
  std::string text;
  for (size_t i = 0; i + 2 < events.size(); ++i) {
    text += Json::parse(events[i])["choices"][0]["delta"]["content"];
  }
  EXPECT_EQ(text, "user:hi;");
  const Json last = Json::parse(events[events.size() - 2]);
  EXPECT_EQ(last["choices"][0]["delta"], Json::object());
  EXPECT_EQ(last["choices"][0]["finish_reason"], "stop");
  EXPECT_EQ(events.back(), "[DONE]");
}

TEST(Completions, StopsAtStopStrings) {
  CoordinatorRig rig;
  EXPECT_EQ(rig.Complete({{"prompt", "one.two"}, {"stop", "."}}).json()["choices"][0]["text"],
            "one");
  const ClientResponse stream =
      rig.Complete({{"prompt", "one END"}, {"stop", {"END", "x"}}, {"stream", true}});
  std::string text;
  for (const std::string& event : stream.events()) {
    if (event != "[DONE]") {
      text += Json::parse(event)["choices"][0]["text"];
    }
  }
  EXPECT_EQ(text, "one ");
}

TEST(Completions, AFailureIsAStatusBeforeTheFirstTokenAndAnEventBehindIt) {
  CoordinatorRig rig;
  rig.workers.FailSequenceAt('!', Error{ErrorCode::kPageCorrupt, "page 7 is damaged"});
  const ClientResponse before = rig.Complete({{"prompt", "bad!"}, {"stream", true}});
  EXPECT_EQ(before.status, 500);
  EXPECT_EQ(before.error("code"), "page_corrupt");
  EXPECT_EQ(before.error("type"), "server_error");
  rig.workers.FailOpen(Error{ErrorCode::kBudgetExceeded, "no room"});
  EXPECT_EQ(rig.Complete({{"prompt", "x"}}).status, 507);
  rig.workers.FailOpen(std::nullopt);

  // The fake repeats the prompt, and fails when '?' comes back as a token to compute.
  rig.workers.HoldSteps(true);
  HttpClient client = rig.Client();
  const std::string body = R"({"model":"fake","prompt":"ab?","stream":true,"temperature":0})";
  client.Write("POST /v1/completions HTTP/1.1\r\nContent-Length: " + std::to_string(body.size()) +
               "\r\n\r\n" + body);
  rig.workers.ReleaseSteps(2);
  ASSERT_TRUE(
      rig.workers.WaitUntil([](const FakeWorkerGroup& w) { return w.plans().size() >= 4; }));
  rig.workers.FailSequenceAt('?', Error{ErrorCode::kPageCorrupt, "page 7 is damaged"});
  rig.workers.HoldSteps(false);
  const std::vector<std::string> events = client.ReadResponse().events();
  ASSERT_GE(events.size(), 3U);
  EXPECT_THAT(events[events.size() - 2], HasSubstr("page 7 is damaged"));
  EXPECT_EQ(events.back(), "[DONE]");
}

TEST(Completions, UsesAContext) {
  CoordinatorRig rig;
  rig.MakeContext("library", "a long document");
  const Json body = rig.Complete({{"prompt", "hello"}, {"context", "library"}}).json();
  EXPECT_EQ(body["choices"][0]["text"], "hello");
  EXPECT_EQ(body["usage"]["prompt_tokens"], 16 + 5);  // the BOS is the context's
  EXPECT_EQ(body["usage"]["prompt_tokens_details"]["cached_tokens"], 16);
  const Json chat = rig.Chat({{"context", "library"}, {"kv", {{"attention", "exact"}}}}).json();
  EXPECT_EQ(chat["usage"]["prompt_tokens"], 16 + 8);
  // Only who says so wants every page.
  std::vector<bool> reads_every_page;
  for (const OpenSequenceOptions& options : rig.workers.opened()) {
    if (options.base) {
      reads_every_page.push_back(options.reads_every_page);
    }
  }
  EXPECT_EQ(reads_every_page, (std::vector<bool>{false, true}));
  EXPECT_EQ(rig.Metric("varve_cached_prompt_tokens_total"), 32);
  EXPECT_EQ(rig.Metric("varve_prefill_tokens_total", "kind=\"document\""), 16);
  EXPECT_EQ(rig.Metric("varve_prefill_tokens_total", "kind=\"request\""), 13);
  EXPECT_EQ(rig.Metric("varve_ingested_tokens_total"), 16);
}

TEST(Completions, RefusesAContextOfAnotherModelOrTokenizer) {
  CoordinatorRig rig;
  const auto add = [&](uint64_t id, const char* name, uint64_t model, uint64_t tokenizer) {
    rig.workers.AddContext({.manifest = {.id = ContextId{id},
                                         .name = name,
                                         .version = 1,
                                         .num_tokens = 2,
                                         .text_bytes = 1,
                                         .text_hash = Hash64("x"),
                                         .model_hash = model,
                                         .tokenizer_hash = tokenizer},
                            .tokens = {kFakeBos, 'x'},
                            .text = "x"});
  };
  add(1, "old-model", 0xdef, 0x70c);
  add(2, "old-tokenizer", 0xabc, 0x1);
  add(3, "good", 0xabc, 0x70c);
  const ClientResponse model = rig.Complete({{"prompt", "q"}, {"context", "old-model"}});
  EXPECT_EQ(model.status, 409);
  EXPECT_EQ(model.error("code"), "model_mismatch");
  EXPECT_THAT(model.error(),
              testing::AllOf(HasSubstr(HashToHex(0xabc)), HasSubstr(HashToHex(0xdef))));
  const ClientResponse tokenizer = rig.Complete({{"prompt", "q"}, {"context", "old-tokenizer"}});
  EXPECT_EQ(tokenizer.status, 409);
  EXPECT_THAT(tokenizer.error(), HasSubstr(HashToHex(0x70c)));
  EXPECT_EQ(rig.Complete({{"prompt", "q"}, {"context", "good"}}).status, 200);
  EXPECT_EQ(rig.Get("/v1/contexts/old-model").json()["status"], "failed");
  EXPECT_EQ(rig.Metric("varve_prefill_tokens_total", "kind=\"document\""), 0);
}

TEST(Completions, ADisconnectStopsTheGeneration) {
  for (const bool stream : {true, false}) {
    CoordinatorRig rig;
    {
      HttpClient client = rig.Client();
      const std::string body = Json{
          {"model", "fake"},
          {"prompt", "*abc"},
          {"temperature", 0},
          {"max_tokens", 90000},
          {"stream", stream}}.dump();
      client.Write("POST /v1/completions HTTP/1.1\r\nContent-Length: " +
                   std::to_string(body.size()) + "\r\n\r\n" + body);
      if (stream) {
        EXPECT_THAT(client.ReadSome(), HasSubstr("200 OK"));
      }
      ASSERT_TRUE(
          rig.workers.WaitUntil([](const FakeWorkerGroup& w) { return w.plans().size() > 3; }));
    }
    EXPECT_TRUE(
        rig.workers.WaitUntil([](const FakeWorkerGroup& w) { return w.num_closed() == 1; }));
    EXPECT_LT(rig.workers.plans().size(), 80000U);
    EXPECT_TRUE(Eventually(
        [&] { return rig.Metric("varve_request_failure_total", "reason=\"abort\"") == 1; }));
  }
}

TEST(Completions, AFullQueueIsAnswered429) {
  CoordinatorOptions options;
  options.engine.max_queue = 1;
  options.engine.scheduler.max_running = 1;
  CoordinatorRig rig(std::move(options));
  rig.coordinator();
  rig.workers.HoldSteps(true);
  auto running = std::async(std::launch::async, [&] { return rig.Complete({{"prompt", "a"}}); });
  ASSERT_TRUE(rig.workers.WaitUntil([](const FakeWorkerGroup& w) { return w.num_open() == 1; }));
  // One place in the queue: of two more requests one waits, the other is refused.
  std::future<ClientResponse> more[2];
  for (auto& request : more) {
    request = std::async(std::launch::async, [&] { return rig.Complete({{"prompt", "b"}}); });
  }
  const auto is_answered = [](const std::future<ClientResponse>& request) {
    return request.wait_for(std::chrono::seconds(0)) == std::future_status::ready;
  };
  ASSERT_TRUE(Eventually([&] { return is_answered(more[0]) || is_answered(more[1]); }));
  const size_t index = is_answered(more[0]) ? 0 : 1;
  const ClientResponse refused = more[index].get();
  EXPECT_EQ(refused.status, 429);
  EXPECT_EQ(refused.headers.at("retry-after"), "1");
  EXPECT_EQ(refused.error("type"), "rate_limit_error");
  EXPECT_EQ(refused.error("code"), "resource_exhausted");
  rig.workers.HoldSteps(false);
  EXPECT_EQ(running.get().status, 200);
  EXPECT_EQ(more[1 - index].get().status, 200);
}

struct BadRequest {
  const char* path;
  const char* body;
  int status;
  const char* param;
  const char* message_part;
};

// Without the braces; "model" and a prompt or messages are put in front where the path needs them.
const BadRequest kBadRequests[] = {
    {"text", R"("n":2)", 400, "n", "1 only"},
    {"text", R"("best_of":3)", 400, "best_of", "1 only"},
    {"text", R"("echo":true)", 400, "echo", "not supported"},
    {"text", R"("suffix":"x")", 400, "suffix", "not supported"},
    {"text", R"("logit_bias":{"5":1})", 400, "logit_bias", "not supported"},
    {"text", R"("presence_penalty":0.5)", 400, "presence_penalty", "not supported"},
    {"text", R"("frequency_penalty":-1)", 400, "frequency_penalty", "not supported"},
    {"text", R"("store":true)", 400, "store", "not supported"},
    {"text", R"("nonsense":1)", 400, "nonsense", "not a field"},
    {"text", R"("temperature":3)", 400, "temperature", "from 0 to 2"},
    {"text", R"("temperature":"hot")", 400, "temperature", "number, not a string"},
    {"text", R"("top_p":0)", 400, "top_p", "greater than 0"},
    {"text", R"("top_p":1.5)", 400, "top_p", "from 0 to 1"},
    {"text", R"("seed":1.5)", 400, "seed", "integer, not a fractional"},
    {"text", R"("seed":18446744073709551615)", 400, "seed", "from"},
    {"text", R"("max_tokens":0)", 400, "max_tokens", "from 1"},
    {"text", R"("max_tokens":"9")", 400, "max_tokens", "integer"},
    {"text", R"("max_completion_tokens":5)", 400, "max_completion_tokens", "not a field"},
    {"text", R"("max_tokens":100000)", 400, "prompt", "100000 positions"},
    {"text", R"("max_tokens":9223372036854775807)", 400, "prompt", "positions"},
    {"text", R"("stop":["a","b","c","d","e"])", 400, "stop", "at most 4"},
    {"text", R"("stop":[1])", 400, "stop", "strings"},
    {"text", R"("stop":"")", 400, "stop", "1 to 1024"},
    {"text", R"("stop":{"a":1})", 400, "stop", "string or an array"},
    {"text", R"("stream":"yes")", 400, "stream", "true or false"},
    {"text", R"("ignore_eos":1)", 400, "ignore_eos", "true or false"},
    {"text", R"("stream_options":{"include_usage":true})", 400, "stream_options", "stream"},
    {"text", R"("stream":true,"stream_options":{"x":1})", 400, "stream_options.x", "not a field"},
    {"text", R"("stream":true,"stream_options":[])", 400, "stream_options", "object"},
    {"text", R"("logprobs":21)", 400, "logprobs", "from 0 to 20"},
    {"text", R"("logprobs":true)", 400, "logprobs", "integer, not a boolean"},
    {"text", R"("context":"missing")", 404, "context", "no context named 'missing'"},
    {"text", R"("context":7)", 400, "context", "must be a string"},
    {"text", R"("prompt":["a","b"])", 400, "prompt", "exactly one"},
    {"text", R"("prompt":[1,"b"])", 400, "prompt", "token ids"},
    {"text", R"("prompt":[-1])", 400, "prompt", "token ids"},
    {"text", R"("prompt":[258])", 400, "prompt", "not in the vocabulary"},
    {"text", R"("prompt":[])", 400, "prompt", "no tokens"},
    {"text", R"("prompt":5)", 400, "prompt", "string or an array"},
    {"text", R"("prompt":null)", 400, "prompt", "is required"},
    {"text", R"("model":"other")", 404, "model", "no model 'other'"},
    {"text", R"("model":null)", 400, "model", "is required"},
    {"chat", R"("tools":[{"type":"function"}])", 400, "tools", "not supported"},
    {"chat", R"("tool_choice":"required")", 400, "tool_choice", "not supported"},
    {"chat", R"("functions":[1])", 400, "functions", "not supported"},
    {"chat", R"("response_format":{"type":"json_object"})", 400, "response_format", "text"},
    {"chat", R"("modalities":["audio"])", 400, "modalities", "text"},
    {"chat", R"("top_logprobs":3)", 400, "top_logprobs", "logprobs"},
    {"chat", R"("logprobs":1)", 400, "logprobs", "true or false"},
    {"chat", R"("messages":[])", 400, "messages", "at least one"},
    {"chat", R"("messages":"hi")", 400, "messages", "array"},
    {"chat", R"("messages":[5])", 400, "messages[0]", "object"},
    {"chat", R"("messages":[{"role":"user"}])", 400, "messages[0].content", "required"},
    {"chat", R"("messages":[{"content":"x"}])", 400, "messages[0].role", "required"},
    {"chat", R"("messages":[{"role":"tool","content":"x"}])", 400, "messages[0].role", "user"},
    {"chat",
     R"("messages":[{"role":"user","content":"x","y":1}])",
     400,
     "messages[0].y",
     "not a field"},
    {"chat",
     R"("messages":[{"role":"assistant","content":"x","tool_calls":[1]}])",
     400,
     "messages[0].tool_calls",
     "not supported"},
    {"chat",
     R"("messages":[{"role":"user","content":[{"type":"image_url","image_url":"x"}]}])",
     400,
     "messages[0].content",
     "type \"text\" only"},
    {"chat",
     R"("messages":[{"role":"user","content":[{"type":"text"}]}])",
     400,
     "messages[0].content",
     "text"},
    {"chat", R"("messages":[{"role":"user","content":9}])", 400, "messages[0].content", "string"},
    {"chat", R"("prompt":"x")", 400, "prompt", "not a field"},
};

TEST(Completions, RefusesByNameWhatIsWrong) {
  CoordinatorRig rig;
  HttpClient client = rig.Client();
  for (const BadRequest& bad : kBadRequests) {
    SCOPED_TRACE(bad.body);
    const bool is_chat = std::string(bad.path) == "chat";
    // The last of two equal names counts.
    const std::string body =
        std::string(R"({"model":"fake",)") +
        (is_chat ? R"("messages":[{"role":"user","content":"hi"}],)" : R"("prompt":"hi",)") +
        bad.body + "}";
    const ClientResponse response =
        client.Send("POST", is_chat ? "/v1/chat/completions" : "/v1/completions", body);
    EXPECT_EQ(response.status, bad.status) << response.body;
    EXPECT_EQ(response.error("param"), bad.param);
    EXPECT_THAT(response.error(), HasSubstr(bad.message_part));
    EXPECT_EQ(response.error("type"), "invalid_request_error");
    EXPECT_NE(response.error("code"), "");
  }
  EXPECT_TRUE(rig.workers.plans().empty()) << "a refused request reached the workers";
  EXPECT_EQ(client.Post("/v1/completions", {{"model", "fake"}, {"prompt", "ok"}}).status, 200);
}

TEST(Completions, UsesTheWordsThatClientsLookFor) {
  CoordinatorRig rig;
  EXPECT_EQ(rig.Complete({{"prompt", "x"}, {"model", "y"}}).error("code"), "model_not_found");
  EXPECT_EQ(rig.Complete({{"prompt", "x"}, {"context", "y"}}).error("code"), "context_not_found");
  EXPECT_EQ(rig.Complete({{"prompt", std::string(100001, 'x')}}).error("code"),
            "context_length_exceeded");
}

TEST(Completions, AcceptsHarmlessFields) {
  CoordinatorRig rig;
  const ClientResponse response = rig.Chat(Json::parse(
      R"({"n":1,"user":"me","metadata":{"a":"b"},"store":false,"tools":[],"tool_choice":"none",
          "response_format":{"type":"text"},"presence_penalty":0,"logit_bias":{},"stop":null,
          "stream":false,"stream_options":null,"seed":null,"modalities":["text"],
          "parallel_tool_calls":true,"service_tier":"auto","max_completion_tokens":3})"));
  EXPECT_EQ(response.status, 200) << response.body;
  EXPECT_EQ(response.json()["usage"]["completion_tokens"], 3);
}

TEST(Completions, RefusesChatWithoutATemplate) {
  CoordinatorRig rig;
  rig.text_model->has_chat_template = false;
  const ClientResponse response = rig.Chat({});
  EXPECT_EQ(response.status, 400);
  EXPECT_THAT(response.error(), HasSubstr("no chat template"));
}

TEST(Completions, SaysWhereJsonIsMalformed) {
  CoordinatorRig rig;
  HttpClient client = rig.Client();
  const auto message = [&](const std::string& body) {
    const ClientResponse response = client.Send("POST", "/v1/completions", body);
    EXPECT_EQ(response.status, 400) << body.substr(0, 40);
    return response.error();
  };
  EXPECT_THAT(message("{\n \"model\": fake}"), HasSubstr("line 2, column 13"));
  EXPECT_THAT(message(""), HasSubstr("not valid JSON"));
  EXPECT_THAT(message("{\"model\":\"\xff\"}"), HasSubstr("UTF-8"));
  EXPECT_THAT(message("{} {}"), HasSubstr("not valid JSON"));
  EXPECT_THAT(message("[1]"), HasSubstr("must be a JSON object, not an array"));
  EXPECT_THAT(message(std::string(100, '[')), HasSubstr("nested deeper than 32"));
  EXPECT_THAT(message("{\"" + std::string(1000, 'x') + "\":1,\"model\":\"fake\",\"prompt\":\"a\"}"),
              testing::SizeIs(testing::Lt(200)));
}

TEST(Completions, RefusesAnotherContentType) {
  CoordinatorRig rig;
  HttpClient client = rig.Client();
  const ClientResponse response =
      client.Send("POST", "/v1/completions", "a=b", "application/x-www-form-urlencoded");
  EXPECT_EQ(response.status, 415);
  EXPECT_EQ(response.error("code"), "unsupported_media_type");
  EXPECT_EQ(client
                .Send("POST",
                      "/v1/completions",
                      R"({"model":"fake","prompt":"a"})",
                      "application/json; charset=utf-8")
                .status,
            200);
}

}  // namespace
}  // namespace varve
