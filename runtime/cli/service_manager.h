// SPDX-License-Identifier: Apache-2.0
// What a daemon tells the service manager (systemd): that it is ready, that it ends,
// that it lives. Nothing happens where none listens.
#pragma once

#include <cstdint>
#include <string_view>

namespace spiritos::cli {

// `status` is shown by `systemctl status`.
void NotifyReady(std::string_view status);
void NotifyStopping();

// Says that the daemon lives, as often as its unit's WatchdogSec= asks for.
class Watchdog {
 public:
  Watchdog();
  // By the thread that must not hang, more often than every second.
  void Pat();

 private:
  uint64_t interval_ns_ = 0;  // 0 = nobody asks.
  uint64_t patted_ns_ = 0;
};

}  // namespace spiritos::cli
