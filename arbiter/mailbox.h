// SPDX-License-Identifier: Apache-2.0
// Mailbox: the newest value of a struct, from one writer to another process.
//
//   in shared memory   sequence, then the value's words
//   writer             odd | words | even        and keeps its own count of where it is
//   reader             even? words, each loaded once | the same still?
//
// A seqlock (Boehm, "Can seqlocks get along with programming language memory models?",
// MSPC 2012) between two that need not trust each other. Nobody waits: a reader gives up after
// a bounded number of tries, a writer never looks at what it shares. One that was killed
// half-way leaves an odd sequence, and its reader with the value before.
//
// What comes out is any bytes at all when the writer is hostile: whoever reads has to check
// every field of the copy before using it.
#pragma once

#include <array>
#include <atomic>
#include <bit>
#include <cstdint>
#include <type_traits>

namespace spiritos {

template <typename T>
class Mailbox {
  static_assert(std::is_trivially_copyable_v<T> && std::has_unique_object_representations_v<T>);
  static_assert(sizeof(T) % sizeof(uint64_t) == 0);
  static constexpr size_t kWords = sizeof(T) / sizeof(uint64_t);
  static constexpr int kTries = 64;

 public:
  // The sequence that a reader has seen nothing of.
  static constexpr uint64_t kNone = 0;

  // The one that writes. Borrows the mailbox. One thread at a time.
  class Writer {
   public:
    explicit Writer(Mailbox& box) : box_(box) {}

    void Publish(const T& value) noexcept {
      const auto words = std::bit_cast<std::array<uint64_t, kWords>>(value);
      box_.sequence_.store(++sequence_, std::memory_order_relaxed);
      // Release: whoever sees a word below sees the odd sequence. Its partner is the acquire
      // fence in Read().
      std::atomic_thread_fence(std::memory_order_release);
      for (size_t i = 0; i < kWords; ++i) {
        box_.words_[i].store(words[i], std::memory_order_relaxed);
      }
      // Release: publishes the words. Pairs with the first load in Read().
      box_.sequence_.store(++sequence_, std::memory_order_release);
    }

   private:
    Mailbox& box_;
    uint64_t sequence_ = kNone;
  };

  // The newest value, if it is another than that of `*seen`, which it advances. False: there
  // is none, or it changed under each try.
  bool Read(uint64_t* seen, T* value) const noexcept {
    for (int i = 0; i < kTries; ++i) {
      const uint64_t before = sequence_.load(std::memory_order_acquire);
      if (before == *seen || before == kNone) return false;
      if (before % 2 != 0) continue;
      std::array<uint64_t, kWords> words;
      for (size_t w = 0; w < kWords; ++w) words[w] = words_[w].load(std::memory_order_relaxed);
      std::atomic_thread_fence(std::memory_order_acquire);
      if (sequence_.load(std::memory_order_relaxed) != before) continue;
      *value = std::bit_cast<T>(words);
      *seen = before;
      return true;
    }
    return false;
  }

 private:
  std::atomic<uint64_t> sequence_;
  std::array<std::atomic<uint64_t>, kWords> words_;
};

}  // namespace spiritos
