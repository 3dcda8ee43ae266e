// How far the lab, or a long bench, is: one bar for each part, redrawn in place on a terminal, a
// plain line every few seconds otherwise.
#pragma once

#include <cstdint>
#include <cstdio>
#include <string>

namespace varve::cli {

class LabProgress {
 public:
  // `out` outlives the object. `command` begins each line.
  explicit LabProgress(std::FILE* out, std::string command = "eval");

  // A part of `total` units of work begins.
  void Begin(std::string label, int64_t total);
  // One more of them is done; the last one ends the line.
  void Advance() { AdvanceTo(done_ + 1); }
  // So many of them are done.
  void AdvanceTo(int64_t done);

 private:
  void Draw();

  std::FILE* out_;
  std::string command_;
  bool is_terminal_;
  std::string label_;
  int64_t total_ = 0;
  int64_t done_ = 0;
  int64_t begin_us_ = 0;
  int64_t next_draw_us_ = 0;
};

}  // namespace varve::cli
