// SPDX-License-Identifier: Apache-2.0
// sd_notify(3) and its messages.
#include "runtime/cli/service_manager.h"

#include <fmt/core.h>
#include <systemd/sd-daemon.h>

#include <string>

#include "libos/base/clock.h"

namespace spiritos::cli {

void NotifyReady(std::string_view status) {
  sd_notify(0, fmt::format("READY=1\nSTATUS={}", status).c_str());
}

void NotifyStopping() { sd_notify(0, "STOPPING=1"); }

Watchdog::Watchdog() {
  uint64_t limit_us = 0;
  // Twice as often as it must be, and some more.
  if (sd_watchdog_enabled(0, &limit_us) > 0) interval_ns_ = limit_us * 1000 / 3;
}

void Watchdog::Pat() {
  if (interval_ns_ == 0) return;
  const uint64_t now = NowNs();
  if (now - patted_ns_ < interval_ns_) return;
  patted_ns_ = now;
  sd_notify(0, "WATCHDOG=1");
}

}  // namespace spiritos::cli
