// SPDX-License-Identifier: Apache-2.0
// The heap over plain memory that can be closed, refused and watched.
#include "alloc/far_malloc.h"

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <latch>
#include <thread>
#include <vector>

#include "alloc/private_jemalloc.h"
#include "libos/base/core.h"
#include "test/alloc/heap_rig.h"

namespace spiritos {
namespace {

bool IsZero(const void* p, size_t size) {
  const auto* bytes = static_cast<const char*>(p);
  return std::all_of(bytes, bytes + size, [](char c) { return c == 0; });
}

bool IsAligned(const void* p, size_t alignment) {
  return reinterpret_cast<uintptr_t>(p) % alignment == 0;
}

}  // namespace

TEST_CASE("every size is usable to its last byte and aligned for any type", "[alloc]") {
  HeapRig heap;
  std::vector<std::pair<unsigned char*, size_t>> all;
  for (size_t size = 0; size < (1 << 20); size += 1 + size / 7) {
    auto* p = static_cast<unsigned char*>(heap->Allocate(size));
    REQUIRE(p != nullptr);
    REQUIRE(IsAligned(p, alignof(std::max_align_t)));
    REQUIRE(heap->Owns(p));
    const size_t usable = heap->UsableSize(p);
    REQUIRE(usable >= std::max<size_t>(size, 1));
    REQUIRE(usable <= std::max<size_t>(16, size + size / 4 + kPageSize));
    std::memset(p, static_cast<int>(size % 251), usable);
    all.emplace_back(p, size);
  }
  for (const auto& [p, size] : all) {
    const size_t usable = heap->UsableSize(p);
    const auto mark = static_cast<unsigned char>(size % 251);
    REQUIRE(std::all_of(p, p + usable, [=](unsigned char c) { return c == mark; }));
    heap->Free(p);
  }
  heap->Purge();
  CHECK(heap->GetUsage().allocated == 0);
}

TEST_CASE("alignments up to 2 MiB and beyond hold for small and large sizes", "[alloc]") {
  HeapRig heap;
  for (size_t alignment = 1; alignment <= (size_t{16} << 20); alignment *= 2) {
    for (const size_t size : {size_t{1}, size_t{24}, size_t{4000}, size_t{20000}, alignment}) {
      if (alignment + size > (size_t{24} << 20)) continue;
      void* const p = heap->Allocate(size, alignment);
      REQUIRE(p != nullptr);
      REQUIRE(IsAligned(p, alignment));
      void* const q = heap->Reallocate(p, size * 3, alignment);
      REQUIRE(q != nullptr);
      REQUIRE(IsAligned(q, alignment));
      heap->Free(q);
    }
  }
}

TEST_CASE("large allocations start on a page and waste none", "[alloc]") {
  HeapRig heap;
  for (const size_t size : {size_t{16} << 10, size_t{1} << 20, size_t{4} << 20}) {
    void* const p = heap->Allocate(size);
    CHECK(IsAligned(p, kPageSize));
    CHECK(heap->UsableSize(p) == size);
    heap->Free(p);
  }
  heap->Purge();
  // Two of 2 MiB side by side: no room is lost to alignment.
  void* const a = heap->Allocate(2 << 20, 2 << 20);
  void* const b = heap->Allocate(2 << 20, 2 << 20);
  CHECK(heap->GetUsage().active == (4 << 20));
  heap->Free(a);
  heap->Free(b);
}

TEST_CASE("reallocation keeps the contents up to the smaller size", "[alloc]") {
  HeapRig heap;
  const size_t sizes[] = {1,    15,   16,      17,      100,     1000,   14336, 14337, 100'000,
                          8192, 4096, 3 << 20, 5 << 20, 1 << 20, 40'000, 16,    0,     200};
  unsigned char* p = nullptr;
  size_t old = 0;
  for (const size_t size : sizes) {
    p = static_cast<unsigned char*>(heap->Reallocate(p, size));
    REQUIRE(p != nullptr);
    REQUIRE(heap->UsableSize(p) >= size);
    for (size_t i = 0; i < std::min(old, size); ++i) {
      REQUIRE(p[i] == static_cast<unsigned char>(i * 31 + i / 251));
    }
    for (size_t i = 0; i < size; ++i) p[i] = static_cast<unsigned char>(i * 31 + i / 251);
    old = size;
  }
  heap->Free(p);
}

TEST_CASE("a large allocation with free addresses behind it grows in place", "[alloc]") {
  HeapRig heap;
  void* const p = heap->Allocate(1 << 20);
  void* const q = heap->Reallocate(p, 1280 << 10);
  CHECK(q == p);
  CHECK(heap->Reallocate(q, 64 << 10) == p);
  heap->Free(p);
}

TEST_CASE("shrinking to a small size gives the pages back", "[alloc]") {
  HeapRig heap;
  void* p = heap->Allocate(8 << 20);
  p = heap->Reallocate(p, 10);
  CHECK(heap->UsableSize(p) == 16);
  heap->Free(p);
}

TEST_CASE("a zeroed allocation is zero on memory that was dirty", "[alloc]") {
  HeapRig heap;
  const size_t size =
      GENERATE(24u, 2000u, 14336u, 20000u, 127u << 10, 128u << 10, 200'001u, 3u << 20, 20u << 20);
  for (int round = 0; round < 4; ++round) {
    void* const p = heap->AllocateZeroed(size, round == 3 ? 8192 : 0);
    REQUIRE(p != nullptr);
    REQUIRE(IsZero(p, size));
    std::memset(p, 0xcd, heap->UsableSize(p));
    heap->Free(p);
  }
  heap.counters().refuse = true;  // As for a pinned page: zeroes are written then.
  void* const p = heap->AllocateZeroed(size);
  REQUIRE(IsZero(p, size));
  heap.counters().refuse = false;
}

TEST_CASE("allocating, freeing and purging touch no far memory", "[alloc]") {
  HeapRig heap(256_MiB, {.decay_ms = GENERATE(0, 10'000)});
  std::vector<void*> all;
  const auto fill = [&] {
    for (size_t i = 0; i < 20'000; ++i) {
      all.push_back(heap->Allocate(1 + i * 37 % 3000, i % 5 == 0 ? 64 : 0));
    }
    for (size_t size = 16 << 10; size < (30u << 20); size *= 2) {
      all.push_back(heap->Allocate(size));
    }
    for (void* p : all) REQUIRE(p != nullptr);
  };
  const auto drain = [&] {
    for (size_t i = 0; i < all.size(); i += 2) heap->Free(all[i]);
    for (size_t i = 1; i < all.size(); i += 2) heap->Free(all[i]);
    all.clear();
  };
  heap.Close();
  for (int round = 0; round < 3; ++round) {
    fill();
    CHECK(heap->UsableSize(all[0]) >= 1);
    drain();
    heap->Purge();
  }
  CHECK(heap->GetUsage().allocated == 0);
  CHECK(heap->GetUsage().active == 0);
}

TEST_CASE("purging gives back every free page and destroying the heap the rest", "[alloc]") {
  HeapRig heap;
  std::vector<void*> all;
  for (int i = 0; i < 50'000; ++i) {
    all.push_back(heap->Allocate(400));
    std::memset(all.back(), 1, 400);
  }
  const FarHeap::Usage full = heap->GetUsage();
  CHECK(full.allocated >= 50'000 * 400);
  CHECK(full.active >= full.allocated);
  CHECK(full.mapped >= full.active);
  CHECK(full.active < full.allocated * 11 / 10);
  for (void* p : all) heap->Free(p);
  heap->Purge();
  const FarHeap::Usage empty = heap->GetUsage();
  CHECK(empty.allocated == 0);
  CHECK(empty.active == 0);
  CHECK(empty.mapped == 0);
  CHECK(heap.counters().discarded_bytes >= full.active);

  for (int i = 0; i < 1000; ++i) REQUIRE(heap->Allocate(1 + static_cast<size_t>(i) * 100));
  const uint64_t discards = heap.counters().discards;
  heap.Destroy();
  CHECK(heap.counters().discards == discards);  // Not one by one: the region goes whole.
  CHECK_FALSE(heap.counters().alive);
}

TEST_CASE("without decay freed pages go back at once, and never when it is off", "[alloc]") {
  HeapRig at_once(64_MiB, {.decay_ms = 0});
  at_once->Free(at_once->Allocate(1 << 20));
  CHECK(at_once.counters().discarded_bytes >= (1 << 20));

  HeapRig never(64_MiB, {.decay_ms = -1});
  for (int i = 0; i < 100; ++i) never->Free(never->Allocate(1 << 20));
  CHECK(never.counters().discards == 0);
  never->Purge();
  CHECK(never.counters().discarded_bytes >= (1 << 20));
}

TEST_CASE("a full heap returns null and serves again when memory is freed", "[alloc]") {
  HeapRig heap(32_MiB, {.arenas = GENERATE(1u, 4u)});
  const size_t size = GENERATE(100u, 14'000u, 100'000u, 5u << 20);
  for (int round = 0; round < 3; ++round) {
    std::vector<void*> all;
    size_t bytes = 0;
    while (void* p = heap->Allocate(size)) {
      all.push_back(p);
      bytes += heap->UsableSize(p);
      REQUIRE(bytes <= (32 << 20));
    }
    CHECK(bytes >= (30 << 20));
    CHECK(heap->Allocate(size) == nullptr);
    CHECK(heap->Allocate(64 << 20) == nullptr);
    void* const last = all.back();
    std::memset(last, 0x5a, size);
    CHECK(heap->Reallocate(last, 30 << 20) == nullptr);
    CHECK(static_cast<unsigned char*>(last)[size - 1] == 0x5a);
    for (void* p : all) heap->Free(p);
    // What small objects left behind serves large ones, and the other way round.
    void* const large = heap->Allocate(20 << 20);
    CHECK(large != nullptr);
    heap->Free(large);
  }
}

TEST_CASE("impossible sizes and alignments are null", "[alloc]") {
  HeapRig heap(32_MiB);
  CHECK(heap->Allocate(SIZE_MAX) == nullptr);
  CHECK(heap->Allocate(SIZE_MAX / 2) == nullptr);
  CHECK(heap->AllocateZeroed(SIZE_MAX - 4096) == nullptr);
  CHECK(heap->Allocate(1, size_t{1} << 40) == nullptr);
  void* const p = heap->Allocate(10);
  CHECK(heap->Reallocate(p, SIZE_MAX) == nullptr);
  heap->Free(p);
  heap->Free(nullptr);
}

TEST_CASE("a heap owns its own addresses only", "[alloc]") {
  HeapRig a(32_MiB);
  HeapRig b(32_MiB);
  void* const p = a->Allocate(100);
  int local = 0;
  CHECK(a->Owns(p));
  CHECK_FALSE(b->Owns(p));
  CHECK_FALSE(a->Owns(&local));
  CHECK_FALSE(a->Owns(nullptr));
  CHECK(a->Owns(a.range().begin));
  CHECK_FALSE(a->Owns(a.range().end()));
  a->Free(p);
}

TEST_CASE("options out of range are refused by name", "[alloc]") {
  FakeSource::Counters counters;
  const auto create = [&](const FarHeapOptions& options) {
    return FarHeapTestPeer::CreateOver(std::make_unique<FakeSource>(32_MiB, counters), options)
        .status();
  };
  CHECK(create({.decay_ms = -2}).code() == absl::StatusCode::kInvalidArgument);
  CHECK(create({.decay_ms = -2}).message().find("decay_ms") != absl::string_view::npos);
  CHECK(create({.decay_ms = INT64_MAX}).code() == absl::StatusCode::kInvalidArgument);
  CHECK(create({.arenas = 1000}).message().find("arenas") != absl::string_view::npos);
  CHECK(create({}).ok());
}

TEST_CASE("threads that come and go leave nothing behind", "[alloc]") {
  HeapRig heap;
  const auto near_bytes = [] {
    size_t small = 0;
    size_t large = 0;
    jemalloc::Set("epoch", uint64_t{1});
    jemalloc::Get("stats.arenas.0.small.allocated", small);
    jemalloc::Get("stats.arenas.0.large.allocated", large);
    return small + large;
  };
  size_t after_some = 0;
  for (int i = 0; i < 400; ++i) {
    void* kept = nullptr;
    std::thread([&] {
      for (size_t n = 0; n < 100; ++n) heap->Free(heap->Allocate(n * 50));
      kept = heap->Allocate(64);
    }).join();
    heap->Free(kept);  // Freed by another thread than allocated it.
    if (i == 100) after_some = near_bytes();
  }
  CHECK(near_bytes() <= after_some + CoreCount() * (16 << 10));
  heap->Purge();
  CHECK(heap->GetUsage().allocated == 0);
}

TEST_CASE("fork leaves parent and child unharmed while threads allocate", "[alloc]") {
  HeapRig heap;
  std::atomic<bool> stop{false};
  std::latch running(3);
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t) {
    threads.emplace_back([&] {
      running.count_down();
      for (size_t n = 0; !stop; ++n) heap->Free(heap->Allocate(n * 97 % 60'000));
    });
  }
  running.wait();
  bool ok = true;
  for (int i = 0; i < 20; ++i) {
    const pid_t child = fork();
    if (child == 0) {
      alarm(20);  // A deadlock ends the child, not the test run.
      heap.Destroy();
      _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    ok = ok && status == 0;
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
  CHECK(ok);
  heap->Purge();
  CHECK(heap->GetUsage().allocated == 0);
}

}  // namespace spiritos
