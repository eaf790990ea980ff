// SPDX-License-Identifier: Apache-2.0
// Arena: one jemalloc arena whose extents come from our hooks.
//
// An arena has an index, which calls name in their flags; nothing is allocated
// from it by default. Its own books (extent and page maps, bins) come from near
// memory, some 16 bytes for a page in use and 128 for an extent.
//
// Threads: any, except that creation and destruction are the heap's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "absl/status/statusor.h"
#include "alloc/private_jemalloc.h"

namespace spiritos {

class Arena {
 public:
  // Freed pages stay with the arena for `decay_ms`, see FarHeapOptions. `hooks`
  // outlive the arena.
  static absl::StatusOr<Arena> Create(extent_hooks_t& hooks, int64_t decay_ms);

  // Gives every extent back to the hooks, those of live allocations too.
  //
  // REQUIRES: no cache holds anything of this arena, no call is under way.
  ~Arena();
  Arena(Arena&& other) noexcept : index_(std::exchange(other.index_, kNone)) {}
  Arena& operator=(Arena&&) = delete;

  // For the flags of calls that allocate.
  int flag() const { return MALLOCX_ARENA(index_); }

  // Gives unused pages back to the hooks now.
  void Purge() noexcept;

  size_t AllocatedBytes() const;
  size_t ActiveBytes() const;

 private:
  static constexpr unsigned kNone = ~0u;
  explicit Arena(unsigned index) : index_(index) {}
  unsigned index_;
};

}  // namespace spiritos
