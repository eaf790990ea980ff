// SPDX-License-Identifier: Apache-2.0
// Prints a failed check with write(2) and aborts.
#include "libos/base/check.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <string_view>

namespace spiritos::internal {

namespace {

constexpr uint32_t kMaxComplaints = 100;
std::atomic<uint32_t> complaints{0};

}  // namespace

void Complain(fmt::string_view format, fmt::format_args args) noexcept {
  const uint32_t said = complaints.load(std::memory_order_relaxed);
  if (said > kMaxComplaints) return;
  complaints.store(said + 1, std::memory_order_relaxed);  // Two at once may count as one.
  if (said == kMaxComplaints) format = "there is more of this, and no more is said of it";
  const int saved_errno = errno;
  char text[400] = "spiritos: ";
  constexpr size_t kBegin = 10;
  const auto formatted = fmt::vformat_to_n(text + kBegin, sizeof(text) - kBegin - 1, format, args);
  size_t size = std::min(kBegin + formatted.size, sizeof(text) - 1);
  text[size++] = '\n';
  [[maybe_unused]] ssize_t ignored = write(STDERR_FILENO, text, size);
  errno = saved_errno;
}

void CheckFailed(const char* file, int line, const char* what, fmt::string_view format,
                 fmt::format_args args) noexcept {
  char message[400];
  const auto formatted = fmt::vformat_to_n(message, sizeof(message), format, args);
  char text[768];
  const auto result =
      fmt::format_to_n(text, sizeof(text) - 1, "{}:{}: check failed: {}: {}", file, line, what,
                       std::string_view(message, std::min(formatted.size, sizeof(message))));
  size_t size = std::min(result.size, sizeof(text) - 1);
  text[size++] = '\n';
  // Nothing is left to do if standard error is gone.
  [[maybe_unused]] ssize_t ignored = write(STDERR_FILENO, text, size);
  std::abort();
}

}  // namespace spiritos::internal
