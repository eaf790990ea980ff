// SPDX-License-Identifier: Apache-2.0
// Arenas are made, set up and destroyed through jemalloc's controls.
#include "alloc/arena.h"

#include <sys/types.h>

#include "libos/base/check.h"
#include "libos/base/status.h"
#include "libos/base/units.h"

namespace spiritos {
namespace {

// Statistics are copies, made when this is written.
void RefreshStatistics() { jemalloc::Set("epoch", uint64_t{1}); }

size_t Statistic(unsigned arena, const char* leaf) {
  size_t value = 0;
  jemalloc::Get(jemalloc::ControlName("stats.arenas", arena, leaf), value);
  return value;
}

}  // namespace

absl::StatusOr<Arena> Arena::Create(extent_hooks_t& hooks, int64_t decay_ms) {
  jemalloc::ArenaConfig config{.extent_hooks = &hooks, .metadata_use_hooks = false};
  unsigned index = 0;
  size_t size = sizeof(index);
  const int error =
      spiritos_je_mallctl("experimental.arenas_create_ext", &index, &size, &config, sizeof(config));
  if (error != 0) return ErrnoStatus(error, "cannot create a jemalloc arena");
  Arena arena(index);
  // No muzzy pages: there is no lazy way of giving far pages back.
  if (!jemalloc::Set(jemalloc::ControlName("arena", index, "dirty_decay_ms"),
                     static_cast<ssize_t>(decay_ms)) ||
      !jemalloc::Set(jemalloc::ControlName("arena", index, "muzzy_decay_ms"), ssize_t{0})) {
    return InvalidArgument("jemalloc refuses a decay of {} ms", decay_ms);
  }
  return arena;
}

Arena::~Arena() {
  if (index_ == kNone) return;
  const bool destroyed = jemalloc::Do(jemalloc::ControlName("arena", index_, "destroy"));
  SPIRITOS_CHECK(destroyed, "arena {}", index_);
}

void Arena::Purge() noexcept {
  const bool purged = jemalloc::Do(jemalloc::ControlName("arena", index_, "purge"));
  SPIRITOS_CHECK(purged, "arena {}", index_);
}

size_t Arena::AllocatedBytes() const {
  RefreshStatistics();
  return Statistic(index_, "small.allocated") + Statistic(index_, "large.allocated");
}

size_t Arena::ActiveBytes() const {
  RefreshStatistics();
  return Statistic(index_, "pactive") * kPageSize;
}

}  // namespace spiritos
