// SPDX-License-Identifier: Apache-2.0
// futex(2) calls; errno is left as it was.
#include "libos/base/parker.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>

namespace spiritos {

void FutexWait(const std::atomic<uint32_t>& word, uint32_t expected, uint64_t timeout_ns) noexcept {
  const int saved_errno = errno;
  const timespec timeout{static_cast<time_t>(timeout_ns / 1'000'000'000),
                         static_cast<long>(timeout_ns % 1'000'000'000)};
  syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, expected, timeout_ns != 0 ? &timeout : nullptr,
          nullptr, 0);
  errno = saved_errno;
}

void FutexWake(const std::atomic<uint32_t>& word, int count) noexcept {
  const int saved_errno = errno;
  syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, count, nullptr, nullptr, 0);
  errno = saved_errno;
}

}  // namespace spiritos
