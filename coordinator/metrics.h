// The coordinator's metrics, in Prometheus text format. Names are `varve_` and the stems that
// operators know from vLLM; every series has the label model_name.
//
// Threads: any.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

namespace varve {

class WorkerGroup;

class Metrics {
 public:
  enum class Prefill { kDocument, kRequest };

  // `workers`: asked for its Stats() when the metrics are read; must outlive this object.
  explicit Metrics(WorkerGroup* workers);
  ~Metrics();
  Metrics(const Metrics&) = delete;
  Metrics& operator=(const Metrics&) = delete;

  void SetQueue(size_t num_running, size_t num_waiting);
  void CountAdmittedRequest(double queue_seconds, int64_t prompt_tokens, int64_t cached_tokens);
  // The first token of a request also counts as a generated one, as does every later one.
  void ObserveFirstToken(double seconds_since_submit);
  void ObserveInterToken(double seconds);
  // Of one request: the largest error that it states, and the mean share of attention that lay on
  // pages that it did not read.
  void ObserveSelectiveAttention(double error_bound, double missed_mass);
  // What the quality meter saw of a request on a context of this codec, whose pages were chosen by
  // this policy: the error of an attention output relative to exact attention, and the share of the
  // exact attention that lay on the pages read.
  void ObserveQuality(const std::string& codec,
                      const std::string& policy,
                      double error,
                      double mass_recall);
  void CountFinishedRequest(std::string_view finished_reason, double e2e_seconds);
  // "abort": the client went away. Otherwise the name of the error code.
  void CountFailedRequest(std::string_view reason);
  void CountPrefillTokens(Prefill kind, int64_t num_tokens);
  void CountIngestedTokens(int64_t num_tokens);  // committed
  void ObserveStep(double seconds);
  // `path` is the route's pattern ("/v1/contexts/{name}"), never what a client sent.
  void CountHttpRequest(std::string_view path, int code);

  // The exposition format 0.0.4.
  std::string Serialize() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace varve
