// Answers in the shapes of the OpenAI API: one JSON object, or the chunks of an event stream.
//
// Threads: one per answer.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "coordinator/completion_params.h"
#include "coordinator/request.h"

namespace varve {

struct CompletionUsage {
  int64_t prompt_tokens = 0;  // the context's included
  int64_t cached_tokens = 0;  // of them, served from the context
  int64_t completion_tokens = 0;
  std::optional<PageReads> page_reads;  // of a request that chooses what it reads of the context
};

class CompletionFormat {
 public:
  struct Header {
    CompletionKind kind = CompletionKind::kText;
    std::string id;
    std::string model;
    int64_t created_unix_s = 0;
    bool logprobs = false;
    bool include_usage = false;  // of streams
  };
  CompletionFormat(Header header, const TextModel* text_model);

  // The whole answer.
  std::string Body(const std::string& text,
                   const std::vector<GeneratedToken>& tokens,
                   FinishReason finish,
                   const CompletionUsage& usage);
  // The first chunk of a chat stream, which names the role.
  std::string RoleChunk();
  // What one step brought. Whether there is anything to send: HasChunk.
  std::string Chunk(const GenerationEvent& event);
  bool HasChunk(const GenerationEvent& event) const;
  // The last chunk of a stream with include_usage.
  std::string UsageChunk(const CompletionUsage& usage);

 private:
  Header header_;
  const TextModel* text_model_;
  int64_t text_offset_ = 0;  // of the next token, for the logprobs of text completions
};

}  // namespace varve
