// SPDX-License-Identifier: Apache-2.0
// Checks: what must hold, or the process stops with a message.
//
// The message is formatted on the stack and written with write(2), so a check
// may stand anywhere, signal handlers included. SPIRITOS_DCHECK vanishes from
// release builds. A failed check is the loud half of the promise that no read
// returns wrong bytes: a load has nobody to return an error to.
#pragma once

#include <fmt/core.h>

namespace spiritos {
namespace internal {

// Writes "spiritos: <message>".
void Complain(fmt::string_view format, fmt::format_args args) noexcept;

}  // namespace internal

// Says one line on standard error; after the first hundred of a process, that there are
// more, and then nothing. Context: signal.
template <typename... Args>
[[gnu::cold, gnu::noinline]] void Complain(fmt::format_string<Args...> format,
                                           Args&&... args) noexcept {
  internal::Complain(format, fmt::make_format_args(args...));
}

}  // namespace spiritos

namespace spiritos::internal {

// Writes "<file>:<line>: check failed: <what>: <message>" and aborts.
[[noreturn]] void CheckFailed(const char* file, int line, const char* what, fmt::string_view format,
                              fmt::format_args args) noexcept;

template <typename... Args>
[[noreturn, gnu::cold, gnu::noinline]] void CheckFailedFormat(const char* file, int line,
                                                              const char* what,
                                                              fmt::format_string<Args...> format,
                                                              Args&&... args) noexcept {
  CheckFailed(file, line, what, format, fmt::make_format_args(args...));
}

}  // namespace spiritos::internal

#define SPIRITOS_CHECK(condition, ...)                                                      \
  do {                                                                                      \
    if (!(condition)) [[unlikely]]                                                          \
      ::spiritos::internal::CheckFailedFormat(__FILE__, __LINE__, #condition, __VA_ARGS__); \
  } while (false)

#ifdef NDEBUG
#define SPIRITOS_DCHECK(condition, ...)                \
  do {                                                 \
    if (false) SPIRITOS_CHECK(condition, __VA_ARGS__); \
  } while (false)
#else
#define SPIRITOS_DCHECK(condition, ...) SPIRITOS_CHECK(condition, __VA_ARGS__)
#endif
