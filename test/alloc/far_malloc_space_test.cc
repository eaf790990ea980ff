// SPDX-License-Identifier: Apache-2.0
// The heap over a real space: frames, slots and faults are those of this kernel.
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <catch2/catch.hpp>
#include <chrono>
#include <cstring>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "alloc/far_allocator.h"
#include "alloc/far_malloc.h"
#include "libos/space.h"

namespace spiritos {
namespace {

std::unique_ptr<Space> MakeSpace(Bytes budget) {
  auto space = Space::Create({.budget = budget});
  if (!space.ok()) FAIL(space.status().ToString());
  return *std::move(space);
}

std::unique_ptr<FarHeap> MakeHeap(Space& space, const FarHeapOptions& options) {
  auto heap = FarHeap::Create(space, options);
  if (!heap.ok()) FAIL(heap.status().ToString());
  return *std::move(heap);
}

// Frames that hold pages, once nothing is on its way.
int64_t UsedFrames(Space& space) {
  space.Drain();
  return space.GetStats().used_frames.raw();
}

}  // namespace

TEST_CASE("objects beyond the budget keep their contents", "[alloc][uffd]") {
  auto space = MakeSpace(16_MiB);
  auto heap = MakeHeap(*space, {.max_size = 256_MiB});
  std::vector<uint64_t*> objects;
  for (uint64_t i = 0; i < 500'000; ++i) {  // 64 MB.
    auto* p = static_cast<uint64_t*>(heap->Allocate(120));
    REQUIRE(p != nullptr);
    p[0] = i;
    p[14] = ~i;
    objects.push_back(p);
  }
  uint64_t wrong = 0;
  for (uint64_t i = 0; i < objects.size(); ++i) {
    wrong += objects[i][0] != i || objects[i][14] != ~i;
  }
  CHECK(wrong == 0);
  CHECK(space->GetStats()[Metric::kEvictedPages] > 8000);
  CHECK(space->GetStats().used_frames <= space->GetStats().budget);
}

TEST_CASE("freeing evicted objects fetches nothing", "[alloc][uffd]") {
  auto space = MakeSpace(16_MiB);
  auto heap = MakeHeap(*space, {.max_size = 256_MiB});
  std::vector<void*> objects;
  for (int i = 0; i < 300'000; ++i) {
    objects.push_back(heap->Allocate(100));
    std::memset(objects.back(), 1, 100);
  }
  space->Drain();
  const uint64_t faults = space->GetStats()[Metric::kFaults];
  for (void* p : objects) heap->Free(p);
  heap->Purge();
  CHECK(space->GetStats()[Metric::kFaults] == faults);
  CHECK(heap->GetUsage().mapped == 0);
}

TEST_CASE("a purge gives frames back and the pages are zero afterwards", "[alloc][uffd]") {
  auto space = MakeSpace(64_MiB);
  auto heap = MakeHeap(*space, {.max_size = 256_MiB});
  const int64_t before = UsedFrames(*space);
  std::vector<void*> objects;
  for (int i = 0; i < 2000; ++i) {
    objects.push_back(heap->Allocate(8 << 10));
    std::memset(objects.back(), 0xee, 8 << 10);
  }
  CHECK(UsedFrames(*space) >= before + 4000);
  for (void* p : objects) heap->Free(p);
  heap->Purge();
  CHECK(UsedFrames(*space) <= before + 64);  // Fault-around of what is gone is none.
  CHECK(space->GetStats()[Metric::kDiscardedPages] >= 4000);

  auto* p = static_cast<unsigned char*>(heap->Allocate(8 << 20));
  CHECK(std::all_of(p, p + (8 << 20), [](unsigned char c) { return c == 0; }));
  heap->Free(p);
}

TEST_CASE("a large zeroed allocation over evicted garbage fetches nothing", "[alloc][uffd]") {
  auto space = MakeSpace(8_MiB);
  auto heap = MakeHeap(*space, {.max_size = 256_MiB, .decay_ms = -1});
  void* const dirty = heap->Allocate(6 << 20);
  std::memset(dirty, 0xaa, 6 << 20);
  heap->Free(dirty);
  void* const other = heap->Allocate(20 << 20);  // Pushes the garbage out.
  std::memset(other, 0xbb, 20 << 20);
  space->Drain();
  const uint64_t fetched = space->GetStats()[Metric::kFetchedPages];
  auto* const zeroed = static_cast<unsigned char*>(heap->AllocateZeroed(6 << 20));
  CHECK(zeroed == dirty);
  CHECK(space->GetStats()[Metric::kFetchedPages] == fetched);
  CHECK(std::all_of(zeroed, zeroed + (6 << 20), [](unsigned char c) { return c == 0; }));
}

TEST_CASE("freed memory that is pinned stays, and serves again", "[alloc][uffd]") {
  auto space = MakeSpace(16_MiB);
  auto heap = MakeHeap(*space, {.max_size = 64_MiB, .decay_ms = 0});
  auto* p = static_cast<unsigned char*>(heap->Allocate(1 << 20));
  std::memset(p, 0x77, 1 << 20);
  const AddressRange pages{reinterpret_cast<std::byte*>(p), 1_MiB};
  REQUIRE(space->Pin(pages).ok());
  heap->Free(p);
  heap->Purge();
  CHECK(p[100] == 0x77);
  space->Unpin(pages);
  auto* const q = static_cast<unsigned char*>(heap->AllocateZeroed(1 << 20));
  CHECK(std::all_of(q, q + (1 << 20), [](unsigned char c) { return c == 0; }));
  heap->Free(q);
}

TEST_CASE("a heap that ends gives everything back to its space", "[alloc][uffd]") {
  auto space = MakeSpace(32_MiB);
  const int64_t before = UsedFrames(*space);
  for (int round = 0; round < 5; ++round) {
    auto heap = MakeHeap(*space, {.max_size = 128_MiB});
    std::vector<int, FarAllocator<int>> numbers{FarAllocator<int>(*heap)};
    for (int i = 0; i < 3'000'000; ++i) numbers.push_back(i);
    void* const leaked = heap->Allocate(5 << 20);
    std::memset(leaked, 1, 5 << 20);
    CHECK(UsedFrames(*space) > before + 1000);
    numbers = std::vector<int, FarAllocator<int>>(FarAllocator<int>(*heap));
    heap.reset();
    CHECK(UsedFrames(*space) == before);
  }
}

TEST_CASE("threads churn in a heap three times the budget", "[alloc][uffd]") {
  const uint64_t seed = std::random_device{}();
  CAPTURE(seed);
  auto space = MakeSpace(16_MiB);
  auto heap = MakeHeap(*space, {.max_size = 128_MiB, .decay_ms = 5, .arenas = 2});
  std::atomic<uint64_t> wrong{0};
  std::vector<std::thread> threads;
  for (uint64_t t = 0; t < 3; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937_64 random(seed + t);
      struct Object {
        uint64_t* words;
        size_t count;
        uint64_t mark;
      };
      std::vector<Object> live;
      const auto check = [&](const Object& object) {
        wrong += object.words[0] != object.mark || object.words[object.count - 1] != object.mark;
      };
      for (int i = 0; i < 60'000; ++i) {
        if (live.size() < 8000 || random() % 2 == 0) {
          const size_t count = 2 + random() % (random() % 100 == 0 ? 20'000 : 300);
          const bool zeroed = random() % 4 == 0;
          void* const p = zeroed ? heap->AllocateZeroed(count * 8) : heap->Allocate(count * 8);
          if (p == nullptr) continue;
          Object object{static_cast<uint64_t*>(p), count, random()};
          if (zeroed) wrong += object.words[0] != 0 || object.words[count - 1] != 0;
          object.words[0] = object.words[count - 1] = object.mark;
          live.push_back(object);
        } else {
          std::swap(live[random() % live.size()], live.back());
          check(live.back());
          heap->Free(live.back().words);
          live.pop_back();
        }
      }
      for (const Object& object : live) {
        check(object);
        heap->Free(object.words);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(wrong == 0);
  CHECK(space->GetStats()[Metric::kLostPages] == 0);
  heap->Purge();
  CHECK(heap->GetUsage().allocated == 0);
}

TEST_CASE("a forked child may destroy the heap that it does not have", "[alloc][uffd]") {
  auto space = MakeSpace(8_MiB);
  auto heap = MakeHeap(*space, {.max_size = 64_MiB});
  std::atomic<bool> stop{false};
  std::atomic<size_t> rounds{0};
  std::thread thread([&] {
    std::vector<void*> live(2000);
    for (size_t n = 0; !stop; ++n) {
      rounds = n;
      void*& p = live[n * 7919 % live.size()];
      heap->Free(p);
      const size_t size = 1 + n * 97 % 10'000;
      p = heap->Allocate(size);
      if (p != nullptr) std::memset(p, 1, size);
    }
  });
  bool ok = true;
  for (int i = 0; i < 10; ++i) {
    // Somewhere in the middle of the other thread's work.
    for (const size_t seen = rounds; rounds < seen + 200;) std::this_thread::yield();
    const pid_t child = fork();
    if (child == 0) {
      alarm(20);  // A deadlock ends the child, not the test run.
      heap.reset();
      _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    ok = ok && status == 0;
  }
  stop = true;
  thread.join();
  CHECK(ok);
  CHECK(space->GetStats()[Metric::kLostPages] == 0);
}

TEST_CASE("a heap larger than its space can hold is refused", "[alloc][uffd]") {
  Options options;
  options.budget = 16_MiB;
  options.remote.pool_size = 64_MiB;
  auto space = Space::Create(options);
  REQUIRE(space.ok());
  CHECK(FarHeap::Create(**space, {.max_size = Bytes(uint64_t{1} << 30)}).status().code() ==
        absl::StatusCode::kResourceExhausted);
  CHECK(FarHeap::Create(**space, {.max_size = 32_MiB}).ok());
}

}  // namespace spiritos
