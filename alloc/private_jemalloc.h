// SPDX-License-Identifier: Apache-2.0
// The private copy of jemalloc: the functions and constants that alloc/ uses.
//
// alloc/private_jemalloc.py makes the copy when the library is built. It shares
// no symbol, no configuration and no state with a malloc of the program's, be it
// another jemalloc. It lives in near memory: what is far are the extents that
// arenas get from their hooks, and jemalloc only ever touches those to zero or to
// copy an allocation, which is why nobody asks it to (see alloc/README.md).
#pragma once

#include <fmt/format.h>

#include <cstddef>
#include <cstdint>

#include "libos/base/export.h"

// Keeps <jemalloc/jemalloc.h> from declaring malloc and its kin: its functions
// become je_*, which do not exist.
#define JEMALLOC_NO_RENAME
#include <jemalloc/jemalloc.h>

// Hidden: the shared library exports none of them.
#define SPIRITOS_JEMALLOC extern "C" SPIRITOS_HIDDEN
SPIRITOS_JEMALLOC void* spiritos_je_mallocx(size_t size, int flags) noexcept;
SPIRITOS_JEMALLOC size_t spiritos_je_xallocx(void* pointer, size_t size, size_t extra,
                                             int flags) noexcept;
SPIRITOS_JEMALLOC void spiritos_je_dallocx(void* pointer, int flags) noexcept;
SPIRITOS_JEMALLOC size_t spiritos_je_sallocx(const void* pointer, int flags) noexcept;
SPIRITOS_JEMALLOC int spiritos_je_mallctl(const char* name, void* old_value, size_t* old_size,
                                          void* new_value, size_t new_size) noexcept;
#undef SPIRITOS_JEMALLOC

namespace spiritos::jemalloc {

// Sizes up to this are cut from slabs and kept in caches; larger ones are whole
// pages with extents of their own.
inline constexpr size_t kLargestSmall = 14336;

// What the control "experimental.arenas_create_ext" reads.
struct ArenaConfig {
  extent_hooks_t* extent_hooks;
  bool metadata_use_hooks;
};

// Sets jemalloc up and makes fork(2) safe for other threads' calls: its locks are
// taken before and released after. Called before anything else here, and after
// the space has registered its own fork handlers: those then run while no thread
// can wait for the space with a lock of jemalloc's.
void Start();

// Controls, by jemalloc's names. False: jemalloc refused.
inline bool Do(const char* name) {
  return spiritos_je_mallctl(name, nullptr, nullptr, nullptr, 0) == 0;
}
template <typename T>
bool Set(const char* name, T value) {
  return spiritos_je_mallctl(name, nullptr, nullptr, &value, sizeof(value)) == 0;
}
template <typename T>
bool Get(const char* name, T& value) {
  size_t size = sizeof(value);
  return spiritos_je_mallctl(name, &value, &size, nullptr, 0) == 0;
}

// "arena.<index>.<leaf>", on the stack.
class ControlName {
 public:
  ControlName(const char* tree, unsigned index, const char* leaf) {
    *fmt::format_to_n(text_, sizeof(text_) - 1, "{}.{}.{}", tree, index, leaf).out = '\0';
  }
  operator const char*() const { return text_; }

 private:
  char text_[64];
};

}  // namespace spiritos::jemalloc
