#include "ops/cli/eval/prepared_model.h"

#include <algorithm>
#include <filesystem>
#include <iterator>
#include <memory>

#include <fmt/format.h>

#include "coordinator/text_model.h"
#include "proto/base/clock.h"
#include "proto/base/file.h"
#include "worker/codec_tables.h"
#include "worker/local_worker_group.h"

#include "ops/cli/eval/outliers.h"

namespace varve::cli {
namespace {

constexpr uint64_t kMaxConfigBytes = uint64_t{1} << 24;
constexpr int64_t kSequenceTokens = 2048;

std::string NameOf(const std::string& directory) {
  const std::filesystem::path path = std::filesystem::path(directory).lexically_normal();
  return path.has_filename() ? path.filename().string() : path.parent_path().filename().string();
}

bool HasAllLayers(const CodecTableSet* tables, const Codec& codec, int32_t num_layers) {
  for (int32_t layer = 0; layer < num_layers; ++layer) {
    if (tables == nullptr || tables->Find(codec.id(), layer) == nullptr) {
      return false;
    }
  }
  return true;
}

}  // namespace

TableProgress TableProgressBar(std::string label, LabProgress* progress) {
  return [label = std::move(label), progress, begun = std::string()](
             std::string_view what, int64_t done, int64_t total) mutable {
    if (begun != what) {
      begun = what;
      progress->Begin(fmt::format("calibration, {}, {}", label, what), total);
    }
    progress->AdvanceTo(done);
  };
}

Result<PreparedModel> PreparedModel::Make(const Options& options) {
  PreparedModel model;
  model.options_ = options;
  model.name_ = NameOf(options.model_dir);
  model.directory_ = options.model_dir;
  VARVE_TRY(const std::string config_text,
            ReadFile(options.model_dir + "/config.json", kMaxConfigBytes));
  VARVE_TRY(model.config_, ParseModelConfig(config_text));
  if (options.outliers != 1) {
    VARVE_RETURN_IF_ERROR(model.MakeScratch());
    VARVE_RETURN_IF_ERROR(InjectOutliers(options.model_dir,
                                         {.scale = options.outliers, .seed = options.seed},
                                         model.scratch_->path()));
    model.directory_ = model.scratch_->path();
  } else {
    model.tables_file_ = options.tables_file;
  }
  return model;
}

Result<void> PreparedModel::MakeScratch() {
  if (!scratch_) {
    VARVE_TRY(scratch_, TemporaryDirectory::Make());
  }
  return {};
}

Result<void> PreparedModel::NeedTables(const std::vector<const Codec*>& codecs,
                                       const std::vector<LabText>& texts,
                                       LabProgress* progress) {
  TableMaking making{
      .model_dir = directory_, .sequences = {}, .codecs = {}, .threads = options_.threads};
  std::copy_if(
      codecs.begin(), codecs.end(), std::back_inserter(making.codecs), [this](const Codec* codec) {
        return codec->needs_tables() && !made_.contains(codec->id());
      });
  if (making.codecs.empty()) {
    return {};
  }
  CodecTableSet all;
  {
    VARVE_TRY(const std::unique_ptr<LocalWorkerGroup> group,
              LocalWorkerGroup::Open(
                  {.model_dir = directory_, .tables_file = tables_file_, .num_threads = 1}));
    const CodecTableSet* const have = group->codec_tables();
    std::erase_if(making.codecs, [&](const Codec* codec) {
      return HasAllLayers(have, *codec, config_.num_layers);
    });
    if (have != nullptr) {
      all = *have;
    }
  }
  if (making.codecs.empty()) {
    return {};
  }
  VARVE_TRY(making.sequences, CalibrationSequences(texts));
  VARVE_TRY(
      MadeTables made,
      MakeCodecTables(
          making, TableProgressBar(fmt::format("{} x{:g}", name_, options_.outliers), progress)));
  for (const auto& [key, tables] : made.tables.all()) {
    all.Add(key.first, key.second, tables);
    made_.insert(key.first);
  }
  VARVE_RETURN_IF_ERROR(MakeScratch());
  tables_file_ = fmt::format("{}/{}", scratch_->path(), kCodecTablesFile);
  return SaveCodecTables(tables_file_, all, made.model_hash);
}

Result<std::vector<std::vector<int32_t>>> PreparedModel::CalibrationSequences(
    const std::vector<LabText>& texts) const {
  VARVE_TRY(const std::unique_ptr<TextModel> text_model, LoadTextModel(directory_, &SystemClock()));
  const auto of_each = static_cast<size_t>(options_.calibration_tokens) / texts.size();
  std::vector<std::vector<int32_t>> sequences;
  size_t total = 0;
  for (const LabText& text : texts) {
    VARVE_TRY(const std::vector<int32_t> tokens,
              text_model->EncodeDocument(text.held_apart, false));
    const auto own = std::span(tokens).first(std::min(of_each, tokens.size()));
    auto cut = CutSequences(own, text_model->context_bos_id(), kSequenceTokens);
    std::move(cut.begin(), cut.end(), std::back_inserter(sequences));
    total += own.size();
  }
  if (total < static_cast<size_t>(kLeastCalibrationTokens)) {
    return Error{ErrorCode::kInvalidArgument,
                 fmt::format("codecs that need tables are calibrated with text that is held apart, "
                             "here {} tokens; at least {} are needed. Give a longer --text, or "
                             "--calibration-text, or make tables with `varve calibrate`.",
                             total,
                             kLeastCalibrationTokens)};
  }
  return sequences;
}

std::string PreparedModel::TablesOf(const Codec& codec) const {
  if (!codec.needs_tables()) {
    return "";
  }
  return made_.contains(codec.id()) ? kTablesMade : kTablesOfFile;
}

}  // namespace varve::cli
