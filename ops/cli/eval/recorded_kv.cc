#include "ops/cli/eval/recorded_kv.h"

#include <algorithm>
#include <iterator>

#include <fmt/format.h>

#include "kvstore/disk_tier.h"
#include "kvstore/page_format.h"

#include "ops/cli/eval/lab_plan.h"
#include "ops/cli/table_making.h"
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
  RecordedPage recorded{.layer = key.first_layer,
                        .first_position = static_cast<int64_t>(key.page) * page.token_capacity,
                        .k = std::vector<float>(floats),
                        .v = std::vector<float>(floats)};
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

// The first tokens of a text, up to `count`, as a context begins.
Result<std::vector<int32_t>> TokensOf(const LabText& text, int64_t count, const TextModel& model) {
  VARVE_TRY(const std::vector<int32_t> of_text, model.EncodeDocument(text.bytes, false));
  std::vector<int32_t> tokens;
  if (const auto bos = model.context_bos_id()) {
    tokens.push_back(*bos);
  }
  const size_t own =
      std::min(of_text.size(), static_cast<size_t>(count) - std::min<size_t>(1, tokens.size()));
  tokens.insert(tokens.end(), of_text.begin(), of_text.begin() + static_cast<ptrdiff_t>(own));
  return tokens;
}

// The pages of a layer that begin at `first_position` or behind it.
Result<std::vector<RecordedPage>> ReadPages(DiskTier& disk,
                                            ContextId context,
                                            uint16_t layer,
                                            const RunShape& page,
                                            uint64_t model_hash,
                                            int64_t first_position) {
  std::vector<RecordedPage> pages;
  VARVE_TRY(const std::vector<PageKey> keys, disk.ListLayerPages(context, layer));
  VARVE_TRY(const auto records, disk.GetPages(keys).get());
  for (size_t i = 0; i < keys.size(); ++i) {
    VARVE_TRY(RecordedPage recorded, ReadPage(keys[i], records[i], page, model_hash));
    if (recorded.first_position >= first_position) {
      pages.push_back(std::move(recorded));
    }
  }
  return pages;
}

}  // namespace

RunContext RecordedKv::ContextOf(const Codec& codec, const RecordedPage& recorded) const {
  const auto layer = static_cast<size_t>(recorded.layer);
  return {.tables = codec.needs_tables() ? tables.Find(codec.id(), recorded.layer) : nullptr,
          .rope = layer < ropes.size() ? ropes[layer].get() : nullptr,
          .first_position = recorded.first_position};
}

Result<RecordedKv> RecordKv(const PreparedModel& prepared,
                            int threads,
                            const LabText& text,
                            int64_t tokens,
                            const std::vector<const Codec*>& codecs,
                            LabProgress* progress) {
  VARVE_TRY(const TemporaryDirectory data, TemporaryDirectory::Make());
  RecordedKv recorded{.model = prepared.name(),
                      .outliers = prepared.outliers(),
                      .page = ModelPage(prepared.config()),
                      .pages = {},
                      .ropes = prepared.config().Geometry().layer_ropes,
                      .tables = {}};
  std::vector<int32_t> ids;
  ContextId context;
  uint64_t model_hash = 0;
  {
    VARVE_TRY(const std::unique_ptr<LabModel> model,
              LabModel::Open(prepared, {.threads = threads, .data_dir = data.path()}));
    VARVE_TRY(ids, TokensOf(text, tokens, model->text()));
    VARVE_TRY(context, model->Ingest(ids, ExactKv()));
    model_hash = model->description().model_hash;
  }
  const auto half = static_cast<int64_t>(ids.size() / 2);
  const auto page_tokens = static_cast<int64_t>(recorded.page.token_capacity);
  const int64_t first_position = (half + page_tokens - 1) / page_tokens * page_tokens;
  VARVE_TRY(const std::unique_ptr<DiskTier> disk, DiskTier::Open({.directory = data.path()}));
  const auto& layers = prepared.config().layers;
  for (size_t layer = 0; layer < layers.size(); ++layer) {
    if (layers[layer].window == 0) {
      VARVE_TRY(std::vector<RecordedPage> pages,
                ReadPages(*disk,
                          context,
                          static_cast<uint16_t>(layer),
                          recorded.page,
                          model_hash,
                          first_position));
      std::move(pages.begin(), pages.end(), std::back_inserter(recorded.pages));
    }
  }
  if (recorded.pages.empty()) {
    return Error{ErrorCode::kInvalidArgument,
                 fmt::format("{} tokens of '{}' fill no page of their second half that is older "
                             "than the newest tokens, or no layer of the model has full attention",
                             ids.size(),
                             text.name)};
  }
  TableMaking making{.model_dir = prepared.directory(),
                     .sequences = {{ids.begin(), ids.begin() + half}},
                     .codecs = {},
                     .threads = threads};
  std::copy_if(
      codecs.begin(), codecs.end(), std::back_inserter(making.codecs), [](const Codec* codec) {
        return codec->needs_tables();
      });
  if (!making.codecs.empty()) {
    const std::string label =
        fmt::format("first half, {} x{:g}", prepared.name(), prepared.outliers());
    VARVE_TRY(MadeTables made, MakeCodecTables(making, TableProgressBar(label, progress)));
    recorded.tables = std::move(made.tables);
  }
  return recorded;
}

}  // namespace varve::cli
