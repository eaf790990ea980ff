// SPDX-License-Identifier: Apache-2.0
// RunIsolated: one measurement in a process of its own.
//
// Each starts with fresh memory, page tables and threads, so that interleaved
// measurements do not warm or fragment each other's. The measurement returns
// numbers; they come back over a pipe.
#pragma once

#include <sys/wait.h>
#include <unistd.h>

#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace spiritos::bench {

// kInternal when the child dies or writes nothing.
inline absl::StatusOr<std::vector<double>> RunIsolated(
    const std::function<std::vector<double>()>& measure) {
  int ends[2];
  if (pipe(ends) != 0) return absl::ErrnoToStatus(errno, "pipe");
  const pid_t child = fork();
  if (child < 0) return absl::ErrnoToStatus(errno, "fork");
  if (child == 0) {
    close(ends[0]);
    const std::vector<double> numbers = measure();
    const size_t bytes = numbers.size() * sizeof(double);
    const bool written = write(ends[1], numbers.data(), bytes) == static_cast<ssize_t>(bytes);
    _exit(written ? 0 : 1);
  }
  close(ends[1]);
  std::vector<double> numbers(64);
  const ssize_t n = read(ends[0], numbers.data(), numbers.size() * sizeof(double));
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0 || n <= 0) {
    return absl::InternalError("a measurement's process died: status " + std::to_string(status));
  }
  numbers.resize(static_cast<size_t>(n) / sizeof(double));
  return numbers;
}

}  // namespace spiritos::bench
