#include "coordinator/completions_api.h"

#include <algorithm>
#include <utility>

#include <fmt/core.h>

#include "coordinator/completion_format.h"
#include "coordinator/engine.h"
#include "proto/base/hash.h"
#include "proto/base/rng.h"
#include "proto/base/trace.h"

namespace varve {
namespace {

constexpr int64_t kDefaultTextTokens = 16;  // what clients of the OpenAI API expect
constexpr int64_t kDefaultChatTokens = 1024;

// Turns the events of one generation into its answer. I/O thread only, after construction.
class Answer {
 public:
  Answer(CompletionFormat format,
         bool stream,
         bool is_chat,
         bool include_usage,
         CompletionUsage usage,
         std::shared_ptr<ResponseStream> response)
      : format_(std::move(format)),
        stream_(stream),
        is_chat_(is_chat),
        include_usage_(include_usage),
        usage_(usage),
        response_(std::move(response)) {}

  void Take(GenerationEvent event) {
    usage_.completion_tokens = event.completion_tokens;
    usage_.page_reads = event.page_reads;
    if (event.error) {
      Fail(*event.error);
    } else if (stream_) {
      Stream(event);
    } else {
      Collect(std::move(event));
    }
  }

 private:
  void Fail(const Error& error) {
    if (!begun_) {
      response_->Send(ErrorResponse(ApiError{.error = error}));
      return;
    }
    // The status is sent: the error comes as an event, and the stream ends without a finish_reason.
    response_->SendEvent(ErrorBody(ApiError{.error = error}));
    response_->SendEvent("[DONE]");
    response_->Finish();
  }

  void Stream(const GenerationEvent& event) {
    if (!begun_ && is_chat_) {
      response_->SendEvent(format_.RoleChunk());
    }
    begun_ = true;
    if (format_.HasChunk(event)) {
      response_->SendEvent(format_.Chunk(event));
    }
    if (event.finish) {
      if (include_usage_) {
        response_->SendEvent(format_.UsageChunk(usage_));
      }
      response_->SendEvent("[DONE]");
      response_->Finish();
    }
  }

  void Collect(GenerationEvent event) {
    text_ += event.text;
    std::move(event.tokens.begin(), event.tokens.end(), std::back_inserter(tokens_));
    if (event.finish) {
      HttpResponse response;
      response.body = format_.Body(text_, tokens_, *event.finish, usage_);
      response_->Send(std::move(response));
    }
  }

  CompletionFormat format_;
  const bool stream_;
  const bool is_chat_;
  const bool include_usage_;
  CompletionUsage usage_;
  std::shared_ptr<ResponseStream> response_;
  bool begun_ = false;
  std::string text_;
  std::vector<GeneratedToken> tokens_;
};

}  // namespace

CompletionsApi::CompletionsApi(Engine* engine,
                               ContextCatalog* catalog,
                               const WorkerGroup* workers,
                               const TextModel* text_model,
                               const Clock* clock)
    : engine_(engine),
      catalog_(catalog),
      workers_(workers),
      text_model_(text_model),
      clock_(clock),
      random_base_(Mix64(static_cast<uint64_t>(clock->UnixTimeS())) ^
                   Mix64(static_cast<uint64_t>(clock->NowUs()))) {}

uint64_t CompletionsApi::NextRandom() {
  return Mix64(random_base_ + next_random_++);
}

void CompletionsApi::Handle(CompletionKind kind, RoutedRequest request) {
  CompletionParams params;
  auto generation = std::make_unique<GenerationRequest>();
  std::optional<ApiError> error;
  {
    // Ends before the engine has the request: a trace that stops with the answer has this span
    // whole.
    const TraceSpan span("coordinator/completions_api");
    error = ParseCompletion(kind, request.http.body, &params);
    request.http.body = {};
    if (!error) {
      error = Prepare(kind, &params, generation.get());
    }
  }
  if (error) {
    request.response->Send(ErrorResponse(*error));
    return;
  }

  const bool is_chat = kind == CompletionKind::kChat;
  CompletionFormat::Header header{
      .kind = kind,
      .id = (is_chat ? "chatcmpl-" : "cmpl-") + HashToHex(NextRandom()),
      .model = params.model,
      .created_unix_s = clock_->UnixTimeS(),
      .logprobs = params.logprobs,
      .include_usage = params.include_usage,
  };
  const int64_t cached_tokens = generation->context.num_tokens();
  const CompletionUsage usage{
      .prompt_tokens = cached_tokens + static_cast<int64_t>(generation->prompt.size()),
      .cached_tokens = cached_tokens,
  };
  auto answer = std::make_shared<Answer>(CompletionFormat(std::move(header), text_model_),
                                         params.stream,
                                         is_chat,
                                         params.include_usage,
                                         usage,
                                         request.response);
  // Formatting is left to the I/O thread: the engine's next step does not wait for JSON.
  generation->on_event = [answer, response = request.response](GenerationEvent event) {
    response->Run([answer, event = std::move(event)]() mutable { answer->Take(std::move(event)); });
  };
  const Result<RequestId> submitted = engine_->Submit(std::move(generation));
  if (!submitted) {
    request.response->Send(ErrorResponse(ApiError{.error = submitted.error()}));
    return;
  }
  request.response->OnDisconnect([engine = engine_, id = *submitted] { engine->Cancel(id); });
}

std::optional<ApiError> CompletionsApi::Tokenize(CompletionKind kind,
                                                 CompletionParams* params,
                                                 std::vector<int32_t>* tokens) const {
  const bool behind_context = !params->context.empty();
  const bool is_chat = kind == CompletionKind::kChat;
  const char* const param = is_chat ? "messages" : "prompt";
  if (!is_chat && !params->prompt_text) {
    *tokens = std::move(params->prompt_tokens);
    for (const int32_t token : *tokens) {
      if (token >= text_model_->vocab_size()) {
        return ApiError{.error = {ErrorCode::kInvalidArgument,
                                  fmt::format("Token {} is not in the vocabulary of {} tokens.",
                                              token,
                                              text_model_->vocab_size())},
                        .param = param};
      }
    }
  } else {
    Result<std::string> text = is_chat ? text_model_->RenderChat(params->messages, behind_context)
                                       : Result<std::string>(*std::move(params->prompt_text));
    if (!text) {
      return ApiError{.error = text.error(), .param = param};
    }
    Result<std::vector<int32_t>> encoded = text_model_->EncodePrompt(*text, behind_context);
    if (!encoded) {
      return ApiError{.error = encoded.error(), .param = param};
    }
    *tokens = *std::move(encoded);
    // A chat template writes the BOS itself where the model wants one.
    const std::optional<int32_t> bos = text_model_->bos_id();
    if (!is_chat && !behind_context && bos && (tokens->empty() || tokens->front() != *bos)) {
      tokens->insert(tokens->begin(), *bos);
    }
  }
  if (tokens->empty()) {
    return ApiError{.error = {ErrorCode::kInvalidArgument, "The prompt has no tokens."},
                    .param = param};
  }
  return std::nullopt;
}

std::optional<ApiError> CompletionsApi::Prepare(CompletionKind kind,
                                                CompletionParams* params,
                                                GenerationRequest* generation) {
  const ModelDescription& model = workers_->model();
  if (params->model != model.name) {
    return ApiError{
        .error = {ErrorCode::kNotFound,
                  fmt::format(
                      "There is no model '{}'; this server has '{}'.", params->model, model.name)},
        .param = "model",
        .code = "model_not_found"};
  }
  if (!params->context.empty()) {
    Result<ContextLease> lease = catalog_->Acquire(params->context);
    if (!lease) {
      const bool unknown = lease.error().code == ErrorCode::kNotFound;
      return ApiError{
          .error = lease.error(), .param = "context", .code = unknown ? "context_not_found" : ""};
    }
    generation->context = *std::move(lease);
  }
  if (auto error = Tokenize(kind, params, &generation->prompt)) {
    return error;
  }
  const int64_t context_tokens = generation->context.num_tokens();
  const auto prompt_tokens = static_cast<int64_t>(generation->prompt.size());
  const int64_t remaining = model.max_positions - context_tokens - prompt_tokens;
  if (remaining < params->max_tokens.value_or(1)) {
    return ApiError{
        .error = {ErrorCode::kContextLength,
                  fmt::format("The model takes {} positions; {} of the context, {} of the prompt "
                              "and {} to generate are more.",
                              model.max_positions,
                              context_tokens,
                              prompt_tokens,
                              params->max_tokens.value_or(1))},
        .param = kind == CompletionKind::kChat ? "messages" : "prompt"};
  }
  const int64_t default_tokens =
      kind == CompletionKind::kChat ? kDefaultChatTokens : kDefaultTextTokens;
  generation->max_tokens = params->max_tokens.value_or(std::min(remaining, default_tokens));
  generation->sampling = params->sampling;
  if (!params->seed_given) {
    generation->sampling.seed = NextRandom();
  }
  generation->num_top_logprobs = params->num_top_logprobs;
  generation->reads_every_page = params->reads_every_page;
  generation->selective = params->selective;
  if (params->seed_given && generation->selective) {
    // Without a seed the sample is the same each time, so that a request at temperature 0 is.
    generation->selective->seed = params->sampling.seed;
  }
  generation->stop = std::move(params->stop);
  generation->ignore_eos = params->ignore_eos;
  return std::nullopt;
}

}  // namespace varve
