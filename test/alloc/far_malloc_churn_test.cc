// SPDX-License-Identifier: Apache-2.0
// Random operations against a shadow that knows every allocation's checksum.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <mutex>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "test/alloc/heap_rig.h"

namespace spiritos {
namespace {

struct Block {
  unsigned char* data = nullptr;
  size_t size = 0;
  uint64_t mark = 0;  // Seeds the contents.
};

// Word i of the contents; a tail of less than a word keeps the byte `mark`.
void Fill(Block& block, uint64_t mark) {
  block.mark = mark;
  size_t i = 0;
  for (; i + 8 <= block.size; i += 8) {
    const uint64_t word = (mark + i) * 0x9e37'79b9'7f4a'7c15;
    std::memcpy(block.data + i, &word, 8);
  }
  std::memset(block.data + i, static_cast<int>(mark & 0xff), block.size - i);
}

bool IsIntact(const Block& block, size_t size) {
  size_t i = 0;
  for (; i + 8 <= size; i += 8) {
    const uint64_t word = (block.mark + i) * 0x9e37'79b9'7f4a'7c15;
    if (std::memcmp(block.data + i, &word, 8) != 0) return false;
  }
  if (size != block.size) return true;  // Cut inside a word.
  return std::all_of(block.data + i, block.data + size,
                     [&](unsigned char c) { return c == (block.mark & 0xff); });
}

class Churn {
 public:
  Churn(FarHeap& heap, uint64_t seed) : heap_(heap), random_(seed) {}

  // One operation; false when memory was not what it should be.
  bool Step() {
    switch (random_() % 16) {
      case 0:
        return Zeroed();
      case 1:
      case 2:
        return Resize();
      case 3:
        return Hand();
      case 4:
        if (random_() % 200 == 0) heap_.Purge();
        return true;
      default:
        return random_() % 100 < (live_.size() < 400 ? 60 : 40) ? Add() : Remove();
    }
  }
  bool Finish() {
    bool ok = true;
    while (!live_.empty()) ok = Remove() && ok;
    return ok;
  }
  // Freed by whoever takes it: another thread than made it.
  static void Exchange(Block& block) {
    static std::mutex mutex;
    static Block pool[64];
    std::lock_guard lock(mutex);
    std::swap(block, pool[block.mark % 64]);
  }

 private:
  size_t RandomSize() {
    const unsigned bits = 1 + static_cast<unsigned>(random_() % (random_() % 50 == 0 ? 21 : 13));
    return random_() % (size_t{1} << bits);
  }
  bool Add() {
    Block block{.size = RandomSize()};
    const size_t alignment = random_() % 10 == 0 ? size_t{1} << random_() % 14 : 0;
    block.data = static_cast<unsigned char*>(heap_.Allocate(block.size, alignment));
    if (block.data == nullptr) return true;  // Full: the churn goes on by freeing.
    if (alignment != 0 && reinterpret_cast<uintptr_t>(block.data) % alignment != 0) return false;
    Fill(block, random_());
    live_.push_back(block);
    return true;
  }
  bool Zeroed() {
    Block block{.size = RandomSize()};
    block.data = static_cast<unsigned char*>(heap_.AllocateZeroed(block.size));
    if (block.data == nullptr) return true;
    const bool zero =
        std::all_of(block.data, block.data + block.size, [](unsigned char c) { return c == 0; });
    Fill(block, random_());
    live_.push_back(block);
    return zero;
  }
  bool Remove() {
    if (live_.empty()) return true;
    std::swap(live_[random_() % live_.size()], live_.back());
    const Block block = live_.back();
    live_.pop_back();
    const bool ok = IsIntact(block, block.size);
    heap_.Free(block.data);
    return ok;
  }
  bool Resize() {
    if (live_.empty()) return true;
    Block& block = live_[random_() % live_.size()];
    const size_t size = RandomSize();
    void* const moved = heap_.Reallocate(block.data, size);
    if (moved == nullptr) return IsIntact(block, block.size);
    block.data = static_cast<unsigned char*>(moved);
    const bool ok = IsIntact(block, std::min(block.size, size));
    block.size = size;
    Fill(block, random_());
    return ok;
  }
  bool Hand() {
    if (live_.empty()) return true;
    std::swap(live_[random_() % live_.size()], live_.back());
    Block& block = live_.back();
    Exchange(block);
    const bool ok = block.data == nullptr || IsIntact(block, block.size);
    heap_.Free(block.data);
    live_.pop_back();
    return ok;
  }

  FarHeap& heap_;
  std::mt19937_64 random_;
  std::vector<Block> live_;
};

// What other threads' churn left in the exchange.
void EmptyExchange(FarHeap& heap, bool& ok) {
  for (uint64_t i = 0; i < 64; ++i) {
    Block block{.mark = i};
    Churn::Exchange(block);
    ok = ok && (block.data == nullptr || IsIntact(block, block.size));
    heap.Free(block.data);
  }
}

}  // namespace

TEST_CASE("random operations keep every block intact on one thread", "[alloc]") {
  const uint64_t seed = std::random_device{}();
  CAPTURE(seed);
  HeapRig heap(24_MiB, {.decay_ms = GENERATE(0, 1, 10'000)});
  Churn churn(*heap, seed);
  bool ok = true;
  for (int i = 0; i < 60'000 && ok; ++i) ok = churn.Step();
  ok = churn.Finish() && ok;
  EmptyExchange(*heap, ok);
  CHECK(ok);
  heap->Purge();
  CHECK(heap->GetUsage().allocated == 0);
}

TEST_CASE("random operations keep every block intact on many threads", "[alloc]") {
  const uint64_t seed = std::random_device{}();
  CAPTURE(seed);
  HeapRig heap(96_MiB, {.decay_ms = 1, .arenas = GENERATE(1u, 3u)});
  std::atomic<bool> ok{true};
  std::vector<std::thread> threads;
  for (uint64_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      Churn churn(*heap, seed + t);
      for (int i = 0; i < 40'000 && ok; ++i) {
        if (!churn.Step()) ok = false;
      }
      if (!churn.Finish()) ok = false;
    });
  }
  for (std::thread& thread : threads) thread.join();
  bool rest = true;
  EmptyExchange(*heap, rest);
  CHECK(ok);
  CHECK(rest);
  heap->Purge();
  CHECK(heap->GetUsage().allocated == 0);
}

}  // namespace spiritos
