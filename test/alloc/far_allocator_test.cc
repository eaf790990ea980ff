// SPDX-License-Identifier: Apache-2.0
// Standard containers over far heaps.
#include "alloc/far_allocator.h"

#include <deque>
#include <list>
#include <map>
#include <memory_resource>
#include <new>
#include <string>
#include <unordered_map>
#include <vector>

#include "test/alloc/heap_rig.h"

namespace spiritos {

TEST_CASE("standard containers live in the far heap", "[alloc]") {
  HeapRig heap;
  {
    std::vector<int, FarAllocator<int>> v{FarAllocator<int>(*heap)};
    for (int i = 0; i < 100'000; ++i) v.push_back(i);
    CHECK(heap->Owns(v.data()));
    CHECK(v[99'999] == 99'999);

    using Map = std::map<int, double, std::less<>, FarAllocator<std::pair<const int, double>>>;
    Map map{FarAllocator<std::pair<const int, double>>(*heap)};
    for (int i = 0; i < 1000; ++i) map[i * 7 % 1000] = i;
    CHECK(map.size() == 1000);
    CHECK(heap->Owns(&*map.begin()));

    std::list<char, FarAllocator<char>> list(50, 'x', FarAllocator<char>(*heap));
    CHECK(heap->Owns(&list.front()));
  }
  heap->Purge();
  CHECK(heap->GetUsage().allocated == 0);
}

TEST_CASE("containers of two heaps move and swap without mixing memory", "[alloc]") {
  HeapRig a;
  HeapRig b;
  using Vector = std::vector<int, FarAllocator<int>>;
  Vector x(1000, 1, FarAllocator<int>(*a));
  Vector y(2000, 2, FarAllocator<int>(*b));
  std::swap(x, y);
  CHECK(b->Owns(x.data()));
  CHECK(a->Owns(y.data()));
  y = std::move(x);
  CHECK(b->Owns(y.data()));
  CHECK(y.size() == 2000);
  Vector copy(10, 0, FarAllocator<int>(*a));
  copy = y;  // The copy stays where it was.
  CHECK(a->Owns(copy.data()));
}

TEST_CASE("pmr containers and their elements live in the far heap", "[alloc]") {
  HeapRig heap;
  {
    FarResource resource(*heap);
    std::pmr::unordered_map<int, std::pmr::string> map(&resource);
    for (int i = 0; i < 1000; ++i) map.emplace(i, std::string(50, static_cast<char>('a' + i % 26)));
    CHECK(heap->Owns(map.at(500).data()));
    std::pmr::deque<long> deque(&resource);
    for (int i = 0; i < 10'000; ++i) deque.push_front(i);
    CHECK(heap->Owns(&deque.front()));
    FarResource same(*heap);
    CHECK(resource == same);
    HeapRig other(32_MiB);
    FarResource different(*other);
    CHECK(resource != different);
  }
  heap->Purge();
  CHECK(heap->GetUsage().allocated == 0);
}

TEST_CASE("over-aligned elements are aligned", "[alloc]") {
  HeapRig heap;
  struct alignas(256) Wide {
    char bytes[256];
  };
  std::vector<Wide, FarAllocator<Wide>> v(100, FarAllocator<Wide>(*heap));
  CHECK(reinterpret_cast<uintptr_t>(v.data()) % 256 == 0);
  FarResource resource(*heap);
  std::pmr::vector<Wide> w(100, &resource);
  CHECK(reinterpret_cast<uintptr_t>(w.data()) % 256 == 0);
}

TEST_CASE("containers get bad_alloc from a full heap and keep what they had", "[alloc]") {
  HeapRig heap(32_MiB);
  std::vector<long, FarAllocator<long>> v(1000, 7, FarAllocator<long>(*heap));
  CHECK_THROWS_AS(v.resize(16u << 20), std::bad_alloc);
  CHECK_THROWS_AS(FarAllocator<long>(*heap).allocate(SIZE_MAX / 4), std::bad_alloc);
  CHECK(v.size() == 1000);
  CHECK(v[999] == 7);
  FarResource resource(*heap);
  CHECK_THROWS_AS(resource.allocate(64 << 20), std::bad_alloc);
}

}  // namespace spiritos
