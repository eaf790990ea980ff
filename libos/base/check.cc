// SPDX-License-Identifier: Apache-2.0
// Prints a failed check with write(2) and aborts.
#include "libos/base/check.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>

namespace spiritos::internal {

void CheckFailed(const char* file, int line, const char* what, std::string_view message) noexcept {
  char text[768];
  const auto result = fmt::format_to_n(text, sizeof(text) - 1, "{}:{}: check failed: {}: {}", file,
                                       line, what, message);
  size_t size = std::min(result.size, sizeof(text) - 1);
  text[size++] = '\n';
  // Nothing is left to do if standard error is gone.
  [[maybe_unused]] ssize_t ignored = write(STDERR_FILENO, text, size);
  std::abort();
}

}  // namespace spiritos::internal
