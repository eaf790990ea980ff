// SPDX-License-Identifier: Apache-2.0
// What the private jemalloc gets in place of the program's environment.
#include "alloc/private_jemalloc.h"

#include <pthread.h>
#include <sys/types.h>

#include <cerrno>

#include "libos/base/export.h"

// narenas: arena 0 serves jemalloc's own books, all others have our hooks.
// tcache: threads' automatic caches stay empty, since every call names a cache or
//   none. With `false` every call would take jemalloc's slow path, 5 ns longer.
// tcache_max: caches hold slab objects only (jemalloc::kLargestSmall).
// retain: arenas keep no addresses of freed pages. The pool has them all, joins
//   them across arenas, and hands out just what is asked for.
// slab_sizes: powers of two would get slabs of one or two pages, with 128 bytes of
//   near books for each: 3% of the heap. These bring it below 1%, except for the
//   smallest objects, since a slab holds at most 512.
extern "C" {
extern const char* spiritos_je_malloc_conf SPIRITOS_HIDDEN;
const char* spiritos_je_malloc_conf =
    "narenas:1,tcache:true,tcache_max:14336,retain:false,background_thread:false,"
    "thp:never,metadata_thp:disabled,dss:disabled,abort_conf:true,"
    "slab_sizes:16-16:2|32-32:4|64-64:8|128-128:8|256-256:8|512-512:8|1024-1024:8|2048-2048:8|"
    "4096-4096:8|8192-8192:8";

// jemalloc 5.3.0 has this option but forgot it in its parser. It moves large
// allocations by some cache lines inside an extra page, which would cost a frame
// and a slot each.
extern bool spiritos_je_opt_cache_oblivious SPIRITOS_HIDDEN;

// Called where jemalloc reads its options, before it uses any.
SPIRITOS_HIDDEN char* spiritos_je_secure_getenv(const char*) noexcept {
  spiritos_je_opt_cache_oblivious = false;
  return nullptr;
}

SPIRITOS_HIDDEN ssize_t spiritos_je_readlink(const char*, char*, size_t) noexcept {
  errno = ENOENT;
  return -1;
}

namespace {
struct ForkHandlers {
  void (*prepare)() = nullptr;
  void (*parent)() = nullptr;
  void (*child)() = nullptr;
};
// Written once, when jemalloc sets itself up.
constinit ForkHandlers fork_handlers;
}  // namespace

SPIRITOS_HIDDEN int spiritos_je_pthread_atfork(void (*prepare)(), void (*parent)(),
                                               void (*child)()) noexcept {
  fork_handlers = {prepare, parent, child};
  return 0;
}
}  // extern "C"

namespace spiritos::jemalloc {

void Start() {
  [[maybe_unused]] static const int once = [] {
    const char* version = nullptr;
    Get("version", version);  // Any call sets jemalloc up.
    return pthread_atfork(fork_handlers.prepare, fork_handlers.parent, fork_handlers.child);
  }();
}

}  // namespace spiritos::jemalloc
