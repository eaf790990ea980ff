// SPDX-License-Identifier: Apache-2.0
// Chunks by mmap(2), mlock(2) best effort, bump allocation.
#include "libos/base/pinned_arena.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>

namespace spiritos {

PinnedArena::~PinnedArena() {
  for (Chunk* chunk = chunks_; chunk != nullptr;) {
    Chunk* const next = chunk->next;
    munmap(chunk, chunk->size);
    chunk = next;
  }
}

void* PinnedArena::Allocate(size_t size, size_t alignment) noexcept {
  const int saved_errno = errno;
  LockGuard guard(lock_);
  auto align_up = [alignment](std::byte* p) {
    const auto bits = reinterpret_cast<uintptr_t>(p);
    return p + (alignment - bits % alignment) % alignment;
  };
  std::byte* p = cursor_ == nullptr ? nullptr : align_up(cursor_);
  if (p == nullptr || p + size > limit_) {
    const size_t needed = sizeof(Chunk) + alignment + size;
    const size_t chunk_size =
        (std::max(needed, kChunkSize) + kPageSize - 1) / kPageSize * kPageSize;
    void* const mapped = mmap(nullptr, chunk_size, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) {
      errno = saved_errno;
      return nullptr;
    }
    mlock2(mapped, chunk_size, MLOCK_ONFAULT);  // Best effort; see the header.
    chunks_ = ::new (mapped) Chunk{chunks_, chunk_size};
    cursor_ = static_cast<std::byte*>(mapped) + sizeof(Chunk);
    limit_ = static_cast<std::byte*>(mapped) + chunk_size;
    p = align_up(cursor_);
  }
  cursor_ = p + size;
  used_.fetch_add(size, std::memory_order_relaxed);
  errno = saved_errno;
  return p;
}

}  // namespace spiritos
