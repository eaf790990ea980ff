// SPDX-License-Identifier: Apache-2.0
// ExtentHooks: the table through which jemalloc's arenas get far memory.
//
//   alloc   addresses from the pool; they read as zeroes
//   dalloc  discards the pages (frames and slots are free, zeroes again), then
//           gives the addresses back to the pool, for any arena of the heap
//   split, merge  always allowed: one range has one source
//   all else  left out; what they would do, dalloc has done
//
// jemalloc holds none of its locks when it calls them, but has marked the thread
// as being inside a hook: a hook must not switch to another user thread, whose
// allocations would then be near. A discard may wait for I/O, and touches no far
// memory.
//
// Context: nofault.
#pragma once

#include <atomic>

#include "alloc/address_pool.h"
#include "alloc/private_jemalloc.h"
#include "libos/base/units.h"

namespace spiritos {

// Far memory that extents are cut from; reads as zeroes until written.
class ExtentSource {
 public:
  virtual ~ExtentSource() = default;
  virtual AddressRange range() const = 0;

  // The pages may be used from now on. False: there is no memory for them. Context: nofault.
  [[nodiscard]] virtual bool Commit(AddressRange) noexcept { return true; }

  // The pages read as zeroes afterwards and hold neither frames nor slots. False:
  // some may not (a pinned page stays). Context: nofault.
  [[nodiscard]] virtual bool Discard(AddressRange range) noexcept = 0;

  // Around fork(2), in both processes afterwards: no other thread is inside.
  virtual void BeforeFork() noexcept {}
  virtual void AfterFork() noexcept {}
};

class ExtentHooks {
 public:
  // Borrows both.
  ExtentHooks(ExtentSource& source, AddressPool& pool);
  ExtentHooks(const ExtentHooks&) = delete;
  ExtentHooks& operator=(const ExtentHooks&) = delete;

  extent_hooks_t& table() { return table_; }

  // From now on extents are not discarded one by one: the whole source is about
  // to go.
  void Close() { closing_.store(true, std::memory_order_relaxed); }

 private:
  struct Table : extent_hooks_t {
    ExtentHooks* owner;
  };

  static void* Alloc(extent_hooks_t* hooks, void* new_address, size_t size, size_t alignment,
                     bool* zero, bool* commit, unsigned arena) noexcept;
  static bool Dalloc(extent_hooks_t* hooks, void* address, size_t size, bool committed,
                     unsigned arena) noexcept;

  ExtentSource& source_;
  AddressPool& pool_;
  Table table_;
  std::atomic<bool> closing_{false};
};

}  // namespace spiritos
