#include "coordinator/metrics.h"

#include <utility>
#include <vector>

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include "proto/worker_group.h"

namespace varve {
namespace {

using Labels = std::map<std::string, std::string>;
using Buckets = prometheus::Histogram::BucketBoundaries;

// Two or three bounds per decade from a fast decode step to a prefill of minutes.
const Buckets kLatencyBuckets =
    {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300};

// Relative errors and shares.
const Buckets kShareBuckets = {0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1};
// Shares of which most are near 1.
const Buckets kRecallBuckets = {0.01, 0.05, 0.1, 0.2, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.999, 1};

prometheus::ClientMetric Sample(const Labels& common,
                                Labels labels,
                                double value,
                                prometheus::MetricType type) {
  prometheus::ClientMetric metric;
  labels.insert(common.begin(), common.end());
  for (auto& [name, label] : labels) {
    metric.label.push_back({name, label});
  }
  if (type == prometheus::MetricType::Counter) {
    metric.counter.value = value;
  } else {
    metric.gauge.value = value;
  }
  return metric;
}

// Collects one metric of the workers over all of them.
class StatsFamilies {
 public:
  StatsFamilies(Labels common, std::vector<prometheus::MetricFamily>* families)
      : common_(std::move(common)), families_(families) {}

  void Begin(const char* name, const char* help, prometheus::MetricType type) {
    families_->push_back({name, help, type, {}});
  }
  void Add(int worker, Labels labels, double value) {
    labels["worker"] = std::to_string(worker);
    prometheus::MetricFamily& family = families_->back();
    family.metric.push_back(Sample(common_, std::move(labels), value, family.type));
  }

 private:
  Labels common_;
  std::vector<prometheus::MetricFamily>* families_;
};

// Pages of contexts that have a codec for each rung.
void CollectLadder(const std::vector<WorkerStats>& stats, StatsFamilies* out) {
  using prometheus::MetricType;
  const auto by_rung =
      [&](const char* name, const char* help, MetricType type, size_t first, auto value) {
        out->Begin(name, help, type);
        for (size_t worker = 0; worker < stats.size(); ++worker) {
          for (size_t rung = first; rung < kNumRungs; ++rung) {
            out->Add(static_cast<int>(worker),
                     {{"rung", std::string(kRungNames[rung])}},
                     static_cast<double>(value(stats[worker], rung)));
          }
        }
      };
  by_rung("varve_ladder_pages",
          "Sealed pages of contexts with a ladder, by the rung whose codec they are in",
          MetricType::Gauge,
          0,
          [](const WorkerStats& s, size_t rung) { return s.rungs[rung].pages; });
  by_rung("varve_ladder_bytes",
          "Bytes of these pages",
          MetricType::Gauge,
          0,
          [](const WorkerStats& s, size_t rung) { return s.rungs[rung].bytes; });
  by_rung("varve_demotions_total",
          "Pages that were encoded anew, by the rung they went to",
          MetricType::Counter,
          1,
          [](const WorkerStats& s, size_t rung) { return s.demotions[rung]; });
  by_rung("varve_demoted_bytes_total",
          "Bytes that these pages had before",
          MetricType::Counter,
          1,
          [](const WorkerStats& s, size_t rung) { return s.demoted_bytes[rung]; });
  out->Begin("varve_demotion_failures_total",
             "Pages that stayed as they were, by the reason",
             MetricType::Counter);
  for (size_t worker = 0; worker < stats.size(); ++worker) {
    for (size_t reason = 0; reason < kDemotionFailureNames.size(); ++reason) {
      out->Add(static_cast<int>(worker),
               {{"reason", std::string(kDemotionFailureNames[reason])}},
               static_cast<double>(stats[worker].demotion_failures[reason]));
    }
  }
}

void CollectCounters(const std::vector<WorkerStats>& stats, StatsFamilies* out) {
  const auto counter = [&](const char* name, const char* help, auto value) {
    out->Begin(name, help, prometheus::MetricType::Counter);
    for (size_t worker = 0; worker < stats.size(); ++worker) {
      out->Add(static_cast<int>(worker), {}, static_cast<double>(value(stats[worker])));
    }
  };
  counter("varve_pages_sealed_total", "Pages sealed", [](const WorkerStats& s) {
    return s.pages_sealed;
  });
  counter("varve_selective_pages_read_total",
          "Sealed pages that requests read where they choose among them",
          [](const WorkerStats& s) { return s.selective_pages_read; });
  counter("varve_selective_pages_offered_total",
          "Sealed pages that such requests chose from",
          [](const WorkerStats& s) { return s.selective_pages_total; });
  counter("varve_disk_bytes_read_total", "Bytes of pages read from disk", [](const WorkerStats& s) {
    return s.disk_bytes_read;
  });
  counter("varve_disk_bytes_written_total",
          "Bytes of pages written to disk",
          [](const WorkerStats& s) { return s.disk_bytes_written; });
  counter("varve_disk_file_bytes_written_total",
          "Bytes that the disk tier wrote into files, writing again to reclaim space included",
          [](const WorkerStats& s) { return s.disk_file_bytes_written; });
  counter("varve_disk_read_seconds_total",
          "Time spent reading pages from disk",
          [](const WorkerStats& s) { return s.disk_read_seconds; });
  counter("varve_disk_write_seconds_total",
          "Time spent writing pages to disk",
          [](const WorkerStats& s) { return s.disk_write_seconds; });
  counter("varve_checksum_failures_total",
          "Pages whose checksum did not match",
          [](const WorkerStats& s) { return s.checksum_failures; });
}

void CollectDiskErrors(const std::vector<WorkerStats>& stats, StatsFamilies* out) {
  out->Begin("varve_disk_errors_total",
             "Calls that met a fault of the disk, by the reason; all workers of a process share it",
             prometheus::MetricType::Counter);
  for (size_t worker = 0; worker < stats.size(); ++worker) {
    for (size_t reason = 0; reason < kDiskFaultNames.size(); ++reason) {
      out->Add(static_cast<int>(worker),
               {{"reason", std::string(kDiskFaultNames[reason])}},
               static_cast<double>(stats[worker].disk_errors[reason]));
    }
  }
}

void CollectStats(const std::vector<WorkerStats>& stats, StatsFamilies* out) {
  using prometheus::MetricType;
  const auto for_each = [&](auto add) {
    for (size_t worker = 0; worker < stats.size(); ++worker) {
      add(static_cast<int>(worker), stats[worker]);
    }
  };
  out->Begin("varve_tier_used_bytes", "Bytes that a tier holds", MetricType::Gauge);
  for_each([&](int worker, const WorkerStats& s) {
    if (s.has_device) {
      out->Add(worker, {{"tier", "device"}}, static_cast<double>(s.device.used));
    }
    out->Add(worker, {{"tier", "host"}}, static_cast<double>(s.host.used));
    out->Add(worker, {{"tier", "disk"}}, static_cast<double>(s.disk.used));
  });
  out->Begin(
      "varve_tier_budget_bytes", "Bytes that a tier may hold, 0: no limit", MetricType::Gauge);
  for_each([&](int worker, const WorkerStats& s) {
    if (s.has_device) {
      out->Add(worker, {{"tier", "device"}}, static_cast<double>(s.device.budget));
    }
    out->Add(worker, {{"tier", "host"}}, static_cast<double>(s.host.budget));
    out->Add(worker, {{"tier", "disk"}}, static_cast<double>(s.disk.budget));
  });
  out->Begin("varve_pages", "Sealed pages", MetricType::Gauge);
  for_each([&](int worker, const WorkerStats& s) {
    out->Add(worker, {}, static_cast<double>(s.num_pages));
  });
  out->Begin("varve_page_reads_total",
             "Pages read for attention, by the tier that had them",
             MetricType::Counter);
  for_each([&](int worker, const WorkerStats& s) {
    if (s.has_device) {
      out->Add(worker, {{"tier", "device"}}, static_cast<double>(s.page_reads_device));
    }
    out->Add(worker, {{"tier", "host"}}, static_cast<double>(s.page_reads_host));
    out->Add(worker, {{"tier", "disk"}}, static_cast<double>(s.page_reads_disk));
  });
  CollectCounters(stats, out);
  CollectLadder(stats, out);
}

}  // namespace

struct Metrics::Impl {
  Impl(WorkerGroup* worker_group, Labels common_labels)
      : workers(worker_group), common(std::move(common_labels)) {}

  prometheus::Family<prometheus::Counter>& Counters(const char* name, const char* help) {
    return prometheus::BuildCounter().Name(name).Help(help).Labels(common).Register(registry);
  }
  prometheus::Gauge& OneGauge(const char* name, const char* help) {
    return prometheus::BuildGauge().Name(name).Help(help).Labels(common).Register(registry).Add({});
  }
  prometheus::Histogram& OneHistogram(const char* name,
                                      const char* help,
                                      const Buckets& buckets = kLatencyBuckets) {
    return prometheus::BuildHistogram().Name(name).Help(help).Labels(common).Register(registry).Add(
        {}, buckets);
  }

  WorkerGroup* const workers;
  const Labels common;
  prometheus::Registry registry;

  prometheus::Gauge& running =
      OneGauge("varve_num_requests_running", "Requests that hold a sequence");
  prometheus::Gauge& waiting = OneGauge("varve_num_requests_waiting", "Requests in the queue");
  prometheus::Histogram& queue_time =
      OneHistogram("varve_request_queue_time_seconds", "From submission to admission");
  prometheus::Histogram& first_token =
      OneHistogram("varve_time_to_first_token_seconds", "From submission to the first token");
  prometheus::Histogram& inter_token =
      OneHistogram("varve_inter_token_latency_seconds", "Between two tokens of a request");
  prometheus::Histogram& e2e =
      OneHistogram("varve_e2e_request_latency_seconds", "From submission to the last token");
  prometheus::Histogram& step = OneHistogram("varve_step_seconds", "One step of all workers");
  prometheus::Histogram& error_bound =
      OneHistogram("varve_attention_error_bound",
                   "Largest relative error of an attention output that a selective request states",
                   kShareBuckets);
  prometheus::Histogram& missed_mass =
      OneHistogram("varve_attention_missed_mass",
                   "Mean share of attention on pages that a selective request did not read",
                   kShareBuckets);
  prometheus::Family<prometheus::Histogram>& sampled_error =
      prometheus::BuildHistogram()
          .Name("varve_sampled_attention_error")
          .Help("Relative error of sampled attention outputs against exact attention")
          .Labels(common)
          .Register(registry);
  prometheus::Family<prometheus::Histogram>& sampled_recall =
      prometheus::BuildHistogram()
          .Name("varve_sampled_mass_recall")
          .Help("Share of the exact attention, in sampled outputs, on pages that were read")
          .Labels(common)
          .Register(registry);
  prometheus::Counter& prompt_tokens =
      Counters("varve_prompt_tokens_total", "Prompt tokens, those of the context included").Add({});
  prometheus::Counter& cached_prompt_tokens =
      Counters("varve_cached_prompt_tokens_total", "Prompt tokens served from a context").Add({});
  prometheus::Counter& generation_tokens =
      Counters("varve_generation_tokens_total", "Tokens drawn").Add({});
  prometheus::Counter& ingested_tokens =
      Counters("varve_ingested_tokens_total", "Document tokens committed").Add({});
  prometheus::Counter& expired_contexts =
      Counters("varve_contexts_expired_total", "Contexts deleted at the end of their time to live")
          .Add({});
  prometheus::Family<prometheus::Counter>& prefill =
      Counters("varve_prefill_tokens_total", "Tokens computed in chunks, by what they belong to");
  prometheus::Counter& prefill_document = prefill.Add({{"kind", "document"}});
  prometheus::Counter& prefill_request = prefill.Add({{"kind", "request"}});
  prometheus::Family<prometheus::Counter>& success =
      Counters("varve_request_success_total", "Requests answered completely");
  prometheus::Family<prometheus::Counter>& failure =
      Counters("varve_request_failure_total", "Requests that ended without a complete answer");
  prometheus::Family<prometheus::Counter>& http =
      Counters("varve_http_requests_total", "HTTP responses by route and status");
};

Metrics::Metrics(WorkerGroup* workers)
    : impl_(std::make_unique<Impl>(workers, Labels{{"model_name", workers->model().name}})) {
  impl_->success.Add({{"finished_reason", "stop"}});
  impl_->success.Add({{"finished_reason", "length"}});
  impl_->failure.Add({{"reason", "abort"}});
}

Metrics::~Metrics() = default;

void Metrics::SetQueue(size_t num_running, size_t num_waiting) {
  impl_->running.Set(static_cast<double>(num_running));
  impl_->waiting.Set(static_cast<double>(num_waiting));
}

void Metrics::CountAdmittedRequest(double queue_seconds,
                                   int64_t prompt_tokens,
                                   int64_t cached_tokens) {
  impl_->queue_time.Observe(queue_seconds);
  impl_->prompt_tokens.Increment(static_cast<double>(prompt_tokens));
  impl_->cached_prompt_tokens.Increment(static_cast<double>(cached_tokens));
}

void Metrics::ObserveFirstToken(double seconds_since_submit) {
  impl_->first_token.Observe(seconds_since_submit);
  impl_->generation_tokens.Increment();
}

void Metrics::ObserveInterToken(double seconds) {
  impl_->inter_token.Observe(seconds);
  impl_->generation_tokens.Increment();
}

void Metrics::ObserveSelectiveAttention(double error_bound, double missed_mass) {
  impl_->error_bound.Observe(error_bound);
  impl_->missed_mass.Observe(missed_mass);
}

void Metrics::ObserveQuality(const std::string& codec,
                             const std::string& policy,
                             double error,
                             double mass_recall) {
  const Labels labels = {{"codec", codec}, {"policy", policy}};
  impl_->sampled_error.Add(labels, kShareBuckets).Observe(error);
  impl_->sampled_recall.Add(labels, kRecallBuckets).Observe(mass_recall);
}

void Metrics::CountFinishedRequest(std::string_view finished_reason, double e2e_seconds) {
  impl_->success.Add({{"finished_reason", std::string(finished_reason)}}).Increment();
  impl_->e2e.Observe(e2e_seconds);
}

void Metrics::CountFailedRequest(std::string_view reason) {
  impl_->failure.Add({{"reason", std::string(reason)}}).Increment();
}

void Metrics::CountPrefillTokens(Prefill kind, int64_t num_tokens) {
  (kind == Prefill::kDocument ? impl_->prefill_document : impl_->prefill_request)
      .Increment(static_cast<double>(num_tokens));
}

void Metrics::CountIngestedTokens(int64_t num_tokens) {
  impl_->ingested_tokens.Increment(static_cast<double>(num_tokens));
}

void Metrics::CountExpiredContext() {
  impl_->expired_contexts.Increment();
}

void Metrics::ObserveStep(double seconds) {
  impl_->step.Observe(seconds);
}

void Metrics::CountHttpRequest(std::string_view path, int code) {
  impl_->http.Add({{"path", std::string(path)}, {"code", std::to_string(code)}}).Increment();
}

std::string Metrics::Serialize() const {
  std::vector<prometheus::MetricFamily> families = impl_->registry.Collect();
  StatsFamilies stats_families(impl_->common, &families);
  const std::vector<WorkerStats> stats = impl_->workers->Stats();
  CollectStats(stats, &stats_families);
  CollectDiskErrors(stats, &stats_families);
  return prometheus::TextSerializer().Serialize(families);
}

}  // namespace varve
