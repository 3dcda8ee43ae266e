// A model made ready for the lab, once for all of its parts and candidates: as it is, or as a copy
// with outlier channels (outliers.h), and with tables for the codecs that need some.
//
// Tables come from the file beside the model, or from one that is named. What that lacks is
// calibrated here, with text that is held apart from what is measured (lab_text.h). The keys of a
// copy are other keys, and no tables are for it: all of its tables are made here. Copy and tables
// are in a scratch directory that goes away with the object.
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "kernels/codec/codec.h"
#include "proto/base/result.h"
#include "worker/model_config.h"

#include "ops/cli/eval/eval_row.h"
#include "ops/cli/eval/lab_progress.h"
#include "ops/cli/eval/lab_text.h"
#include "ops/cli/table_making.h"
#include "ops/cli/temporary_directory.h"

namespace varve::cli {

class PreparedModel {
 public:
  struct Options {
    std::string model_dir;
    std::string tables_file = {};  // of the model, not of a copy; empty: the one beside it, if any
    double outliers = 1;           // other than 1: a copy with such channels
    uint64_t seed = 1;             // of these channels
    int threads = 1;
    int64_t calibration_tokens = 4096;  // looked at, of all texts together, as far as they reach
  };
  // Errors: as InjectOutliers and ParseModelConfig.
  static Result<PreparedModel> Make(const Options& options);

  // Makes tables for those of the codecs that need some and have none yet. Errors: as
  // MakeCodecTables; kModelMismatch and others of LoadCodecTables for the model's file.
  Result<void> NeedTables(const std::vector<const Codec*>& codecs,
                          const std::vector<LabText>& texts,
                          LabProgress* progress);

  const std::string& name() const { return name_; }
  double outliers() const { return options_.outliers; }
  const std::string& directory() const { return directory_; }      // of the model or of its copy
  const std::string& tables_file() const { return tables_file_; }  // empty: the one beside it
  const ModelConfig& config() const { return config_; }
  // As EvalRow::tables.
  std::string TablesOf(const Codec& codec) const;

 private:
  PreparedModel() = default;

  Result<std::vector<std::vector<int32_t>>> CalibrationSequences(
      const std::vector<LabText>& texts) const;
  Result<void> MakeScratch();

  Options options_;
  std::string name_;
  std::string directory_;
  std::string tables_file_;
  ModelConfig config_;
  std::optional<TemporaryDirectory> scratch_;
  std::set<CodecId> made_;
};

// Bars for the making of tables. `label`: "mini x1". `progress` outlives what is returned.
TableProgress TableProgressBar(std::string label, LabProgress* progress);

}  // namespace varve::cli
