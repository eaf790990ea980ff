// SPDX-License-Identifier: Apache-2.0
// The rows of `spiritos top`, as text: one form for screens and for pipes.
#pragma once

#include <deque>
#include <map>
#include <string>
#include <vector>

#include "runtime/cli/processes.h"

namespace spiritos::cli {

enum class SortBy { kFaults, kResident, kStalled, kPid };

class TopTable {
 public:
  // What is to be shown from now on.
  void Update(std::vector<ProcessFigures> processes);
  void set_sort(SortBy sort) { sort_ = sort; }
  SortBy sort() const { return sort_; }

  std::string Totals() const;
  static std::string Heading();
  // Sorted; with a curve of the faults of the last seconds where `curves` is true (UTF-8).
  std::vector<std::string> Rows(bool curves) const;
  std::string Json(double at_s) const;

 private:
  static constexpr size_t kCurve = 20;
  std::string Curve(pid_t pid) const;

  SortBy sort_ = SortBy::kFaults;
  std::vector<ProcessFigures> processes_;
  std::map<pid_t, std::deque<double>> faults_;  // A second, of the last updates.
};

}  // namespace spiritos::cli
