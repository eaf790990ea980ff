// SPDX-License-Identifier: Apache-2.0
// A timerfd that rings each period.
#include "runtime/cli/interval.h"

#include <fmt/core.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstdint>

#include "libos/base/status.h"

namespace spiritos::cli {

absl::StatusOr<Interval> Interval::Every(double seconds, const char* option) {
  UniqueFd timer(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC));
  const double whole = std::floor(seconds);
  const timespec period{static_cast<time_t>(whole), static_cast<long>((seconds - whole) * 1e9)};
  const itimerspec times{period, period};
  if (!timer.valid() || timerfd_settime(timer.get(), 0, &times, nullptr) != 0) {
    return ErrnoStatus(errno, fmt::format("starting a timer ({})", option));
  }
  return Interval(std::move(timer), option);
}

absl::Status Interval::Await() {
  uint64_t ticks;
  ssize_t length;
  do {
    length = read(timer_.get(), &ticks, sizeof(ticks));
  } while (length < 0 && errno == EINTR);
  if (length == static_cast<ssize_t>(sizeof(ticks))) return absl::OkStatus();
  return ErrnoStatus(errno, fmt::format("waiting for a timer ({})", option_));
}

}  // namespace spiritos::cli
