// SPDX-License-Identifier: Apache-2.0
// LiveView: what the parent shows on standard error while a run is on: one line,
// redrawn, on a terminal; elsewhere a line per phase and per few seconds.
#pragma once

#include <string>
#include <utility>

#include "examples/package_graph/worker.h"

namespace package_graph {

class LiveView {
 public:
  // `label` names the run: "25 % local".
  explicit LiveView(std::string label);
  ~LiveView();  // Clears the line.
  LiveView(const LiveView&) = delete;
  LiveView& operator=(const LiveView&) = delete;

  void Show(const Sample& sample);

 private:
  std::string label_;
  bool terminal_;
  double last_printed_s_ = 0;  // Without a terminal.
  Sample last_;                // What rates are measured against.
};

}  // namespace package_graph
