// SPDX-License-Identifier: Apache-2.0
// Writes a line with one write(2), so that lines of processes do not mix.
#include "libos/base/log.h"

#include <fmt/core.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

namespace spiritos {
namespace {

void WriteLine(std::string_view level, std::string_view message) {
  const std::string line = fmt::format("spiritos: {}{}\n", level, message);
  // Nothing is left to do if standard error is gone.
  [[maybe_unused]] const ssize_t ignored = write(STDERR_FILENO, line.data(), line.size());
}

}  // namespace

void LogInfo(std::string_view message) {
  static const bool shown = [] {
    const char* level = secure_getenv("SPIRITOS_LOG");
    return level != nullptr && std::string_view(level) == "info";
  }();
  if (shown) WriteLine("", message);
}

void LogWarning(std::string_view message) { WriteLine("warning: ", message); }

}  // namespace spiritos
