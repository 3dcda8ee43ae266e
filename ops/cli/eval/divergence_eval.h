// `varve eval`: what each codec does to a model's predictions on real text.
//
// Pseudo-decode: the text goes through the model in blocks of one page, with exact KV (f32) and, in
// lockstep, once for each codec. A block sees the blocks before it as the codec keeps them, except
// for the sinks and the newest tokens, which stay exact as they do when served. Errors therefore
// compound over layers and over tokens, as in a long generation. Every prediction behind
// `first_scored` is compared with that of exact KV:
//
//   kl_mean, kl_p999   Kullback-Leibler divergence KL(exact || codec), in nats: mean and 99.9th
//                      percentile
//   top1               share of positions at which the likeliest token is the same
//   nll_delta          mean increase of the negative log-likelihood of the text, in nats
//
// With weights other than "auto" all of this runs on weights held in that form, and one row more,
// named "weights FORM", compares its exact KV with the exact KV of the weights as stored.
//
// KL is 10 to 100 times as sensitive as perplexity or task scores, and needs no labels: llama.cpp
// judges its weight formats by it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "proto/base/result.h"

namespace varve::cli {

struct EvalOptions {
  std::string model_dir;
  std::string weights = "auto";         // or int8
  std::vector<std::string> text_files;  // each is one text; read from its beginning
  std::vector<std::string> codecs;      // empty: all that lose something
  int64_t tokens = 1536;                // of a sequence
  int64_t sequences = 2;                // of each text, one behind the other
  int threads = 0;                      // 0: all cores
  std::string json_file;                // empty: none
};

struct DivergenceRow {
  std::string codec;
  double bpe = 0;  // bits per value of a sealed page
  int64_t positions = 0;
  double kl_mean = 0;
  double kl_p999 = 0;
  double top1 = 0;
  double nll_delta = 0;
};

// `progress` is called with (blocks done, blocks in all).
Result<std::vector<DivergenceRow>> MeasureDivergence(const EvalOptions& options,
                                                     void (*progress)(int64_t, int64_t));

}  // namespace varve::cli
