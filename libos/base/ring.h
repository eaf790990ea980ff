// SPDX-License-Identifier: Apache-2.0
// Ring: a bounded queue for many producers and many consumers.
//
// Vyukov's bounded MPMC queue: each cell carries the turn at which it may be
// written or read, so both ends cost one compare-and-swap and neither blocks.
// Context: signal.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "libos/base/pinned_arena.h"
#include "libos/base/units.h"

namespace spiritos {

template <typename T>
class Ring {
 public:
  static_assert(std::is_trivially_copyable_v<T>);

  // Cells come from `arena`. REQUIRES: `capacity` is a power of two and at least 2
  // (with one cell "written" and "free again" are the same turn); called once
  // before use. False when memory is short.
  [[nodiscard]] bool Init(PinnedArena& arena, size_t capacity) noexcept {
    cells_ = arena.NewArray<Cell>(capacity);
    if (cells_ == nullptr) return false;
    mask_ = capacity - 1;
    for (size_t i = 0; i < capacity; ++i) cells_[i].turn.store(i, std::memory_order_relaxed);
    return true;
  }

  // False when full.
  [[nodiscard]] bool TryPush(T value) noexcept {
    size_t position = tail_.load(std::memory_order_relaxed);
    while (true) {
      Cell& cell = cells_[position & mask_];
      // Acquire: the consumer that freed the cell is done with it.
      const size_t turn = cell.turn.load(std::memory_order_acquire);
      if (turn == position) {
        if (tail_.compare_exchange_weak(position, position + 1, std::memory_order_relaxed)) {
          cell.value = value;
          // Release: publishes the value. Pairs with the acquire in TryPop().
          cell.turn.store(position + 1, std::memory_order_release);
          return true;
        }
      } else if (static_cast<int64_t>(turn - position) < 0) {
        return false;
      } else {
        position = tail_.load(std::memory_order_relaxed);
      }
    }
  }

  // False when empty.
  [[nodiscard]] bool TryPop(T& value) noexcept {
    size_t position = head_.load(std::memory_order_relaxed);
    while (true) {
      Cell& cell = cells_[position & mask_];
      const size_t turn = cell.turn.load(std::memory_order_acquire);
      if (turn == position + 1) {
        if (head_.compare_exchange_weak(position, position + 1, std::memory_order_relaxed)) {
          value = cell.value;
          cell.turn.store(position + mask_ + 1, std::memory_order_release);
          return true;
        }
      } else if (static_cast<int64_t>(turn - (position + 1)) < 0) {
        return false;
      } else {
        position = head_.load(std::memory_order_relaxed);
      }
    }
  }

 private:
  struct Cell {
    std::atomic<size_t> turn;
    T value;
  };

  Cell* cells_ = nullptr;
  size_t mask_ = 0;
  alignas(kCacheLine) std::atomic<size_t> head_{0};
  alignas(kCacheLine) std::atomic<size_t> tail_{0};
};

}  // namespace spiritos
