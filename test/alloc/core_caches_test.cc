// SPDX-License-Identifier: Apache-2.0
// Caches of cores: who gets which, and that nothing is left behind.
#include "alloc/core_caches.h"

#include <sched.h>

#include <set>
#include <thread>
#include <vector>

#include "test/alloc/heap_rig.h"

namespace spiritos {
namespace {

struct CachesRig {
  FakeSource::Counters counters;
  FakeSource source{64_MiB, counters};
  AddressPool pool{source.range(), *AddressPool::MapBooks(64_MiB)};
  ExtentHooks hooks{source, pool};
  std::vector<Arena> arenas;
  std::unique_ptr<CoreCaches> caches;

  explicit CachesRig(int count) {
    for (int i = 0; i < count; ++i) arenas.push_back(*Arena::Create(hooks.table(), 10'000));
    caches = std::make_unique<CoreCaches>(arenas);
  }
  ~CachesRig() {
    caches.reset();
    arenas.clear();
  }

  void* Allocate(size_t size) {
    void* p = nullptr;
    caches->With([&](int flags) { p = spiritos_je_mallocx(size, flags); });
    return p;
  }
  void Free(void* p) {
    caches->With([=](int flags) { spiritos_je_dallocx(p, flags); });
  }
  size_t Allocated() const {
    size_t bytes = 0;
    for (const Arena& arena : arenas) bytes += arena.AllocatedBytes();
    return bytes;
  }
};

}  // namespace

TEST_CASE("a freed object waits in its core's cache until a flush", "[alloc]") {
  CachesRig rig(1);
  void* const p = rig.Allocate(100);
  rig.Free(p);
  CHECK(rig.Allocated() > 0);
  rig.caches->Flush();
  CHECK(rig.Allocated() == 0);
  rig.Free(rig.Allocate(100));  // The cache is made again.
  rig.caches->Flush();
  CHECK(rig.Allocated() == 0);
}

TEST_CASE("a call inside a call, as after a preemption, goes around the cache", "[alloc]") {
  CachesRig rig(1);
  rig.caches->With([&](int outer) {
    rig.caches->With([&](int inner) {
      // The thread may have moved to another core, whose cache is free.
      CHECK(inner != outer);
      void* const p = spiritos_je_mallocx(100, inner);
      CHECK(p != nullptr);
      spiritos_je_dallocx(p, inner);
    });
  });
  rig.caches->Flush();
  CHECK(rig.Allocated() == 0);
}

TEST_CASE("every core allocates from one of the arenas", "[alloc]") {
  CachesRig rig(2);
  std::set<int> flags;
  cpu_set_t all;
  REQUIRE(sched_getaffinity(0, sizeof(all), &all) == 0);
  std::thread([&] {
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
      if (!CPU_ISSET(cpu, &all)) continue;
      cpu_set_t one;
      CPU_ZERO(&one);
      CPU_SET(cpu, &one);
      if (sched_setaffinity(0, sizeof(one), &one) != 0) continue;
      flags.insert(rig.caches->uncached_flags());
    }
  }).join();
  CHECK(!flags.empty());
  for (const int flag : flags) {
    CHECK((flag == (rig.arenas[0].flag() | MALLOCX_TCACHE_NONE) ||
           flag == (rig.arenas[1].flag() | MALLOCX_TCACHE_NONE)));
  }
}

TEST_CASE("caches give their places back when a heap ends", "[alloc]") {
  // More than the caches, or arenas, that jemalloc has numbers for.
  for (int i = 0; i < 5000; ++i) {
    CachesRig rig(1);
    void* const p = rig.Allocate(100);
    REQUIRE(p != nullptr);
    bool cached = false;
    rig.caches->With([&](int flags) { cached = flags != rig.caches->uncached_flags(); });
    REQUIRE(cached);
  }
}

}  // namespace spiritos
