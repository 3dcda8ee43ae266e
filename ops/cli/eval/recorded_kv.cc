#include "ops/cli/eval/recorded_kv.h"

#include <fmt/format.h>

#include "kvstore/disk_tier.h"
#include "kvstore/page_format.h"

#include "ops/cli/eval/candidates.h"
#include "ops/cli/temporary_directory.h"

namespace varve::cli {
namespace {

Result<RecordedPage> ReadPage(const PageKey& key,
                              std::span<const std::byte> record,
                              const RunShape& page,
                              uint64_t model_hash) {
  VARVE_TRY(const PageRecord parsed,
            ParsePageRecord(record,
                            {.key = key,
                             .model_hash = model_hash,
                             .num_kv_heads = page.num_kv_heads,
                             .head_dim = page.head_dim,
                             .page_tokens = page.token_capacity,
                             .first_position = static_cast<int64_t>(key.page) * page.token_capacity,
                             .num_tokens = page.token_capacity}));
  const auto token_floats =
      static_cast<size_t>(page.num_kv_heads) * static_cast<size_t>(page.head_dim);
  const size_t floats = token_floats * static_cast<size_t>(page.token_capacity);
  RecordedPage recorded{
      .layer = key.first_layer, .k = std::vector<float>(floats), .v = std::vector<float>(floats)};
  for (const PageRun& run : parsed.runs) {
    const size_t first = static_cast<size_t>(run.first_token) * token_floats;
    run.codec->Decode({page.num_kv_heads, page.head_dim, run.token_capacity},
                      0,
                      run.num_tokens,
                      run.encoded,
                      {},
                      recorded.k.data() + first,
                      recorded.v.data() + first);
  }
  return recorded;
}

// The tokens of a text as a context begins, repeated or cut to this many.
Result<std::vector<int32_t>> TokensOf(const LabText& text, int64_t count, const TextModel& model) {
  VARVE_TRY(const std::vector<int32_t> of_text, model.EncodeDocument(text.bytes, false));
  std::vector<int32_t> tokens;
  if (const auto bos = model.context_bos_id()) {
    tokens.push_back(*bos);
  }
  for (size_t i = 0; static_cast<int64_t>(tokens.size()) < count; ++i) {
    tokens.push_back(of_text[i % of_text.size()]);
  }
  return tokens;
}

}  // namespace

Result<RecordedKv> RecordKv(LabModel::Options options, const LabText& text, int64_t tokens) {
  VARVE_TRY(const TemporaryDirectory data, TemporaryDirectory::Make());
  options.data_dir = data.path();
  RecordedKv recorded;
  uint64_t model_hash = 0;
  ContextId context;
  std::vector<int32_t> global_layers;
  {
    VARVE_TRY(const std::unique_ptr<LabModel> model, LabModel::Open(options));
    recorded.model = model->name();
    recorded.page = model->PageShape();
    model_hash = model->description().model_hash;
    for (int32_t layer = 0; layer < model->config().num_layers; ++layer) {
      if (model->config().layers[static_cast<size_t>(layer)].window == 0) {
        global_layers.push_back(layer);
      }
    }
    VARVE_TRY(const std::vector<int32_t> ids, TokensOf(text, tokens, model->text()));
    VARVE_TRY(context, model->Ingest(ids, ExactKv()));
  }
  VARVE_TRY(const std::unique_ptr<DiskTier> disk, DiskTier::Open({.directory = data.path()}));
  for (const int32_t layer : global_layers) {
    VARVE_TRY(const std::vector<PageKey> keys,
              disk->ListLayerPages(context, static_cast<uint16_t>(layer)));
    VARVE_TRY(const auto records, disk->GetPages(keys).get());
    for (size_t i = 0; i < keys.size(); ++i) {
      VARVE_TRY(RecordedPage page, ReadPage(keys[i], records[i], recorded.page, model_hash));
      recorded.pages.push_back(std::move(page));
    }
  }
  if (recorded.pages.empty()) {
    return Error{ErrorCode::kInvalidArgument,
                 fmt::format("{} tokens of '{}' fill no page that is older than the newest tokens, "
                             "or no layer of the model has full attention",
                             tokens,
                             text.name)};
  }
  return recorded;
}

}  // namespace varve::cli
