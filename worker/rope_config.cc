#include "worker/rope_config.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <string>

#include <fmt/format.h>

#include "worker/config_fields.h"

#include <nlohmann/json.hpp>

namespace varve {
namespace {

constexpr double kLargest = 1e12;
constexpr double kTwoPi = 2.0 * std::numbers::pi;

std::vector<double> PlainFrequencies(int32_t head_dim, double theta) {
  std::vector<double> inv_freq(static_cast<size_t>(head_dim / 2));
  for (size_t i = 0; i < inv_freq.size(); ++i) {
    inv_freq[i] = std::pow(theta, -2.0 * static_cast<double>(i) / head_dim);
  }
  return inv_freq;
}

// Llama 3.1: long waves are slowed down by `factor`, short ones kept, those between blended.
void ApplyLlama3(ConfigFields& fields, const RopeContext& context, std::vector<double>& inv_freq) {
  const double factor = fields.Number("factor", std::nullopt, 1.0, kLargest);
  const double low = fields.Number("low_freq_factor", std::nullopt, 1e-6, kLargest);
  const double high = fields.Number("high_freq_factor", std::nullopt, 1e-6, kLargest);
  const auto original = static_cast<double>(
      fields.Int("original_max_position_embeddings", context.max_positions, 1, int64_t{1} << 40));
  if (high <= low) {
    fields.Fail(ErrorCode::kBadModel,
                fmt::format("{0}high_freq_factor must be over {0}low_freq_factor", fields.path()));
    return;
  }
  for (double& frequency : inv_freq) {
    const double waves = original * frequency / kTwoPi;  // that fit the original length
    const double keep = std::clamp((waves - low) / (high - low), 0.0, 1.0);
    frequency = (1.0 - keep) * frequency / factor + keep * frequency;
  }
}

double YarnAttentionFactor(ConfigFields& fields, double factor) {
  const double mscale = fields.Number("mscale", 0.0, 0.0, kLargest);
  const double mscale_all_dim = fields.Number("mscale_all_dim", 0.0, 0.0, kLargest);
  const auto scale = [factor](double m) {
    return factor <= 1 ? 1.0 : 0.1 * m * std::log(factor) + 1.0;
  };
  const double derived =
      mscale != 0 && mscale_all_dim != 0 ? scale(mscale) / scale(mscale_all_dim) : scale(1.0);
  return fields.Number("attention_factor", derived, 0.0, kLargest);
}

// YaRN (Peng et al. 2023): frequencies that turn often within the original length are kept, those
// that turn less than once are interpolated, with a linear ramp over the dimensions between.
void ApplyYarn(ConfigFields& fields, const RopeContext& context, double theta, RopeSpec& spec) {
  const auto original = static_cast<double>(
      fields.Int("original_max_position_embeddings", context.max_positions, 1, int64_t{1} << 40));
  const double factor = fields.Number(
      "factor", static_cast<double>(context.max_positions) / original, 1e-6, kLargest);
  const auto or_default = [](double given, double fallback) {
    return given != 0 ? given : fallback;
  };
  const double beta_fast = or_default(fields.Number("beta_fast", 32.0, 0.0, kLargest), 32.0);
  const double beta_slow = or_default(fields.Number("beta_slow", 1.0, 0.0, kLargest), 1.0);
  const bool truncate = fields.Bool("truncate", true);
  spec.attention_factor = YarnAttentionFactor(fields, factor);

  const int32_t dim = context.head_dim;
  const auto dimension_of = [&](double rotations) {
    return dim * std::log(original / (rotations * kTwoPi)) / (2.0 * std::log(theta));
  };
  double low = dimension_of(beta_fast);
  double high = dimension_of(beta_slow);
  if (truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, static_cast<double>(dim - 1));
  if (low == high) {
    high += 0.001;
  }
  for (size_t i = 0; i < spec.inv_freq.size(); ++i) {
    const double ramp = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    spec.inv_freq[i] = spec.inv_freq[i] / factor * ramp + spec.inv_freq[i] * (1.0 - ramp);
  }
}

Result<ParsedRope> ParseRope(ConfigFields& fields, const RopeContext& context) {
  RopeContext own = context;
  own.theta = fields.Number("rope_theta", context.theta, 1.0 + 1e-6, kLargest);
  ParsedRope parsed = DefaultRope(own);
  // `type` is the older spelling; transformers reads it where rope_type is absent.
  const std::string older = fields.String("type", "default");
  const std::string type = fields.String("rope_type", older);
  if (fields.Number("partial_rotary_factor", 1.0, 0.0, 1.0) != 1.0) {
    fields.Unsupported("partial_rotary_factor", "only 1 is");
  }
  if (type == "linear") {
    const double factor = fields.Number("factor", std::nullopt, 1e-6, kLargest);
    for (double& frequency : parsed.spec.inv_freq) {
      frequency /= factor;
    }
  } else if (type == "llama3") {
    ApplyLlama3(fields, own, parsed.spec.inv_freq);
  } else if (type == "yarn") {
    ApplyYarn(fields, own, own.theta, parsed.spec);
  } else if (type == "dynamic") {
    // Within the original length the frequencies are the plain ones, whatever the factor.
    fields.Number("factor", std::nullopt, 1.0, kLargest);
    parsed.max_positions = std::min(
        parsed.max_positions,
        fields.Int("original_max_position_embeddings", parsed.max_positions, 1, int64_t{1} << 40));
    parsed.is_dynamic = true;
  } else if (type != "default") {
    fields.Unsupported("rope_type",
                       fmt::format("'{}' is none of default, linear, llama3, yarn, dynamic", type));
  }
  VARVE_RETURN_IF_ERROR(fields.Finish({}, fmt::format("rope parameters of type {}", type)));
  return parsed;
}

}  // namespace

ParsedRope DefaultRope(const RopeContext& context) {
  return {.spec = {.inv_freq = PlainFrequencies(context.head_dim, context.theta)},
          .max_positions = context.max_positions};
}

Result<ParsedRope> ParseRopeObject(const nlohmann::json* object,
                                   const std::string& path,
                                   const RopeContext& context) {
  if (object == nullptr) {
    return DefaultRope(context);
  }
  if (!object->is_object()) {
    return Error{ErrorCode::kBadModel, fmt::format("the field {} must be an object", path)};
  }
  ConfigFields fields(*object, path + ".");
  return ParseRope(fields, context);
}

}  // namespace varve
