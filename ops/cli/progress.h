// Shows how far an ingest is: one line redrawn in place on a terminal, a plain line every few
// seconds otherwise.
#pragma once

#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>

namespace varve::cli {

struct IngestProgress {
  uint64_t text_bytes = 0;       // of the whole text
  uint64_t text_bytes_sent = 0;  // that the server has received
  uint64_t text_bytes_done = 0;  // whose KV is computed
  int64_t tokens_done = 0;
  double tokens_per_s = 0;  // 0: not known yet
  double eta_s = -1;        // < 0: not known yet
};

// For example "notes [#####-----]  50 %  16,384 tokens  812 tokens/s  ETA 0:21".
std::string FormatProgress(std::string_view name, const IngestProgress& progress, int bar_width);

// "0:07", "12:30", "2:05:09".
std::string FormatDuration(double seconds);
// "1,234,567".
std::string FormatCount(int64_t count);

class ProgressLine {
 public:
  // `out` outlives the object; nothing is written when `quiet`.
  ProgressLine(std::FILE* out, std::string name, bool quiet);

  // Draws if it is time to.
  void Update(const IngestProgress& progress);
  // Draws once more and ends the line.
  void Finish(const IngestProgress& progress);

 private:
  void Draw(const IngestProgress& progress);

  std::FILE* out_;
  std::string name_;
  bool quiet_;
  bool is_terminal_;
  bool line_open_ = false;
  int64_t next_draw_us_ = 0;
};

}  // namespace varve::cli
