// A real model, SmolLM2-135M-Instruct: what `varve` says equals what transformers says, and a
// document is ingested, asked and reopened. Needs the directory that `ops/models/fetch smollm2`
// prints, in VARVE_SMOLLM2_DIR, and in VARVE_SMOLLM2_REFERENCE what `ops/models/reference_logits`
// made of it.
#include <cstdlib>
#include <cstring>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "coordinator/text_model.h"
#include "proto/base/file.h"
#include "tests/e2e/server_process.h"
#include "tests/support/result_matchers.h"
#include "tests/worker/group_rig.h"
#include "worker/safetensors.h"

#include "ops/cli/exit_code.h"
#include "ops/cli/http_client.h"
#include <nlohmann/json.hpp>

namespace varve {
namespace {

using Json = nlohmann::json;
using testing::HasSubstr;

class SmolLm2Test : public testing::Test {
 protected:
  void SetUp() override {
    const char* directory = std::getenv("VARVE_SMOLLM2_DIR");
    if (directory == nullptr) {
      GTEST_SKIP() << "VARVE_SMOLLM2_DIR is not set; `ops/models/fetch smollm2` prints it";
    }
    model_dir_ = directory;
    Restart();
  }

  void Restart() {
    server_.reset();
    server_ = std::make_unique<ServerProcess>(
        data_.path(), std::vector<std::string>{"--workers", "2"}, model_dir_);
  }

  Json Post(const std::string& target, Json body) {
    body["model"] = server_->api().ModelName().value();
    const auto http = cli::HttpClient::Create(server_->url());
    const auto response = http->Send(
        {.method = "POST", .target = target, .body = body.dump(), .timeout_ms = 600'000});
    EXPECT_OK(response);
    EXPECT_EQ(response->status, 200) << response->body;
    return Json::parse(response->body);
  }

  TempDir data_;
  std::string model_dir_;
  std::unique_ptr<ServerProcess> server_;
};

TEST_F(SmolLm2Test, AnswersASimpleQuestionRight) {
  const Json answer =
      Post("/v1/chat/completions",
           {{"messages", {{{"role", "user"}, {"content", "What is the capital of France?"}}}},
            {"temperature", 0},
            {"max_tokens", 32}});
  EXPECT_THAT(answer.at("choices").at(0).at("message").at("content").get<std::string>(),
              HasSubstr("Paris"));
}

// Where two tokens lead by less than this, the float32 reference and KV in bf16 may rightly choose
// differently: 30 layers of 2^-9 relative error move a logit of about 20 by some hundredths,
// measured at most 0.1.
constexpr float kNearTie = 0.1F;

std::vector<int32_t> Ints(const Tensor& tensor) {
  std::vector<int32_t> values(tensor.bytes.size() / sizeof(int32_t));
  std::memcpy(values.data(), tensor.bytes.data(), tensor.bytes.size());
  return values;
}

// How far the likeliest token leads the second after each position.
std::vector<float> Leads(const Tensor& top_logits) {
  const size_t num_top = top_logits.shape.at(1);
  std::vector<float> logits(top_logits.bytes.size() / sizeof(float));
  std::memcpy(logits.data(), top_logits.bytes.data(), top_logits.bytes.size());
  std::vector<float> leads;
  for (size_t row = 0; row < top_logits.shape.at(0); ++row) {
    leads.push_back(logits[row * num_top] - logits[row * num_top + 1]);
  }
  return leads;
}

TEST_F(SmolLm2Test, GreedyTextEqualsTheReference) {
  const char* reference = std::getenv("VARVE_SMOLLM2_REFERENCE");
  if (reference == nullptr) {
    GTEST_SKIP() << "VARVE_SMOLLM2_REFERENCE is not set; `ops/models/reference_logits` makes it";
  }
  const auto text_model = LoadTextModel(model_dir_, &SystemClock());
  ASSERT_OK(text_model);
  const auto prompts = ReadFile(std::string(reference) + "/prompts.json");
  ASSERT_OK(prompts);
  const Json texts = Json::parse(*prompts);
  for (const auto& [name, text] : texts.items()) {
    SCOPED_TRACE(name);
    const auto file =
        SafetensorsModel::OpenFile(std::string(reference) + "/" + name + ".safetensors");
    ASSERT_OK(file);
    const std::vector<int32_t> prompt = Ints(file->tensors().at("input_ids"));
    const std::vector<int32_t> expected = Ints(file->tensors().at("continuation_ids"));
    const std::vector<float> leads = Leads(file->tensors().at("top_logits"));
    const Json answer = Post(
        "/v1/completions",
        {{"prompt", prompt}, {"temperature", 0}, {"max_tokens", expected.size()}, {"logprobs", 1}});
    const Json tokens = answer.at("choices").at(0).at("logprobs").at("tokens");
    size_t same = 0;
    while (same < tokens.size() && same < expected.size() &&
           tokens[same] == (*text_model)->TokenText(expected[same])) {
      ++same;
    }
    const bool complete = same == expected.size() || (*text_model)->IsEos(expected[same]);
    EXPECT_TRUE(complete || leads.at(prompt.size() - 1 + same) < kNearTie)
        << "after " << same << " tokens, which lead by " << leads.at(prompt.size() - 1 + same);
    fmt::print("{}: {} of {} tokens equal\n", name, same, expected.size());
    EXPECT_GT(same, 3U);
  }
}

std::vector<float> Floats(const Tensor& tensor) {
  std::vector<float> values(tensor.bytes.size() / sizeof(float));
  std::memcpy(values.data(), tensor.bytes.data(), tensor.bytes.size());
  return values;
}

// Of the largest logit, with KV in fp32: what is left is the order of sums.
constexpr double kExactTolerance = 1e-4;

TEST(SmolLm2Logits, EqualTheReferenceAtEveryPosition) {
  const char* directory = std::getenv("VARVE_SMOLLM2_DIR");
  const char* reference = std::getenv("VARVE_SMOLLM2_REFERENCE");
  if (directory == nullptr || reference == nullptr) {
    GTEST_SKIP() << "VARVE_SMOLLM2_DIR and VARVE_SMOLLM2_REFERENCE are not both set";
  }
  GroupRig rig(LocalWorkerGroupOptions{.model_dir = directory,
                                       .num_workers = 3,
                                       .num_threads = 2,
                                       .host_budget_bytes = uint64_t{1} << 30,
                                       .max_step_tokens = 512});
  const KvPolicy policy = ExactPolicy(/*page_tokens=*/128);
  const auto prompts = ReadFile(std::string(reference) + "/prompts.json");
  ASSERT_OK(prompts);
  const Json texts = Json::parse(*prompts);
  ASSERT_GT(texts.size(), 3U);
  for (const auto& [name, text] : texts.items()) {
    SCOPED_TRACE(name);
    const auto file =
        SafetensorsModel::OpenFile(std::string(reference) + "/" + name + ".safetensors");
    ASSERT_OK(file);
    const std::vector<int32_t> prompt = Ints(file->tensors().at("input_ids"));
    const std::vector<int32_t> answer = Ints(file->tensors().at("continuation_ids"));
    const std::vector<int32_t> top_ids = Ints(file->tensors().at("top_ids"));
    const std::vector<float> top_logits = Floats(file->tensors().at("top_logits"));
    const std::vector<float> last_logits = Floats(file->tensors().at("last_logits"));
    const size_t num_top = file->tensors().at("top_ids").shape.at(1);
    const size_t vocab = last_logits.size();

    // The prompt as prefill, the answer token by token.
    const SequenceId sequence = rig.OpenPrivate(policy);
    std::vector<float> logits = rig.Feed(sequence, prompt, 200);
    const std::vector<float> decoded =
        rig.Feed(sequence, answer, 1, static_cast<int64_t>(prompt.size()));
    EXPECT_LE(RelativeDifference(std::span(logits).last(vocab), last_logits), kExactTolerance);
    logits.insert(logits.end(), decoded.begin(), decoded.end());
    EXPECT_OK(rig.group().CloseSequence(sequence));
    ASSERT_EQ(logits.size(), (prompt.size() + answer.size()) * vocab);
    std::vector<float> own_top;
    for (size_t i = 0; i < top_ids.size(); ++i) {
      own_top.push_back(logits[i / num_top * vocab + static_cast<size_t>(top_ids[i])]);
    }
    const double difference = RelativeDifference(own_top, top_logits);
    fmt::print("{}: {} positions, largest difference {:.1e} of the largest logit\n",
               name,
               prompt.size() + answer.size(),
               difference);
    EXPECT_LE(difference, kExactTolerance);
  }
}

TEST_F(SmolLm2Test, ReadsADocumentOnceAndAnswersAfterARestart) {
  // About 6,000 tokens. So small a model finds the fact at the beginning, where its KV is the
  // oldest, and not everywhere.
  const std::string text = "The ferry that crosses the lake on Sundays is called the Marigold.\n" +
                           MakeFactDocument(51, 372).text;
  const std::string question = "What is the name of the ferry that crosses the lake on Sundays?";
  const RunResult ingested =
      RunVarve({"ingest", "--name", "doc", "--json", "--server", server_->url(), "-"},
               {.input = text, .timeout_s = 600});
  ASSERT_EQ(ingested.exit_code, cli::kExitOk) << ingested.err;
  EXPECT_GT(Json::parse(ingested.out).at("tokens"), 5999);
  const std::vector<std::string> ask = {
      "ask", "--context", "doc", "--max-tokens", "32", "--server"};
  auto with_url = [&](std::vector<std::string> arguments) {
    arguments.insert(arguments.end(), {server_->url(), question});
    return arguments;
  };
  const RunResult before = RunVarve(with_url(ask), {.timeout_s = 600});
  EXPECT_THAT(before.out, HasSubstr("Marigold"));
  EXPECT_EQ(server_->Terminate(), cli::kExitOk);
  Restart();
  const RunResult after = RunVarve(with_url(ask), {.timeout_s = 600});
  EXPECT_EQ(after.out, before.out);
  EXPECT_EQ(server_->DocumentTokensPrefilled(), 0);
}

}  // namespace
}  // namespace varve
