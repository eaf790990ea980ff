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

PinnedArena::Chunk* PinnedArena::MapChunk(size_t size, Chunk* next) noexcept {
  const size_t padded = size + kChunkSize;
  void* const mapped = mmap(nullptr, padded, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED) return nullptr;
  auto* const begin = static_cast<std::byte*>(mapped);
  const size_t head = (kChunkSize - reinterpret_cast<uintptr_t>(begin) % kChunkSize) % kChunkSize;
  if (head != 0) munmap(begin, head);
  if (head != kChunkSize) munmap(begin + head + size, kChunkSize - head);
  madvise(begin + head, size, MADV_HUGEPAGE);
  mlock2(begin + head, size, MLOCK_ONFAULT);  // Best effort; see the header.
  return ::new (begin + head) Chunk{next, size};
}

void PinnedArena::LockAgain() noexcept {
  LockGuard guard(lock_);
  for (Chunk* chunk = chunks_; chunk != nullptr; chunk = chunk->next) {
    mlock2(chunk, chunk->size, MLOCK_ONFAULT);
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
    const size_t chunk_size = (needed + kChunkSize - 1) / kChunkSize * kChunkSize;
    Chunk* const chunk = MapChunk(chunk_size, chunks_);
    if (chunk == nullptr) {
      errno = saved_errno;
      return nullptr;
    }
    chunks_ = chunk;
    cursor_ = reinterpret_cast<std::byte*>(chunk) + sizeof(Chunk);
    limit_ = reinterpret_cast<std::byte*>(chunk) + chunk_size;
    p = align_up(cursor_);
  }
  cursor_ = p + size;
  used_.fetch_add(size, std::memory_order_relaxed);
  errno = saved_errno;
  return p;
}

}  // namespace spiritos
