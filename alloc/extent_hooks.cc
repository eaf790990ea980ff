// SPDX-License-Identifier: Apache-2.0
// Adapts the pool and the source of a heap to jemalloc's hook signatures, in
// which true means failure.
#include "alloc/extent_hooks.h"

namespace spiritos {

ExtentHooks::ExtentHooks(ExtentSource& source, AddressPool& pool) : source_(source), pool_(pool) {
  table_ = {};
  table_.alloc = Alloc;
  table_.dalloc = Dalloc;
  table_.split = [](extent_hooks_t*, void*, size_t, size_t, size_t, bool, unsigned) {
    return false;
  };
  table_.merge = [](extent_hooks_t*, void*, size_t, void*, size_t, bool, unsigned) {
    return false;
  };
  table_.owner = this;
}

void* ExtentHooks::Alloc(extent_hooks_t* hooks, void* new_address, size_t size, size_t alignment,
                         bool* zero, bool* commit, unsigned) noexcept {
  ExtentHooks& self = *static_cast<Table*>(hooks)->owner;
  AddressPool& pool = self.pool_;
  auto* address = static_cast<std::byte*>(new_address);
  if (address == nullptr) {
    address = pool.Take(Bytes(size), alignment);
    if (address == nullptr) return nullptr;
  } else if (!pool.TakeAt({address, Bytes(size)})) {
    return nullptr;  // An extent would have grown, and has a neighbour.
  }
  const AddressRange extent{address, Bytes(size)};
  if (!self.source_.Commit(extent)) {
    pool.Give(extent);
    return nullptr;
  }
  *zero = true;
  *commit = true;
  return address;
}

bool ExtentHooks::Dalloc(extent_hooks_t* hooks, void* address, size_t size, bool,
                         unsigned) noexcept {
  ExtentHooks& self = *static_cast<Table*>(hooks)->owner;
  if (self.closing_.load(std::memory_order_relaxed)) return true;
  const AddressRange range{static_cast<std::byte*>(address), Bytes(size)};
  // A refusal leaves the extent with its arena, which takes it for not zeroed.
  if (!self.source_.Discard(range)) return true;
  self.pool_.Give(range);
  return false;
}

}  // namespace spiritos
