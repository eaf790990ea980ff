// SPDX-License-Identifier: Apache-2.0
// The hook table as jemalloc calls it, without jemalloc.
#include "alloc/extent_hooks.h"

#include <cstring>

#include "test/alloc/heap_rig.h"

namespace spiritos {
namespace {

struct HooksRig {
  FakeSource::Counters counters;
  FakeSource source{16_MiB, counters};
  AddressPool pool{source.range(), *AddressPool::MapBooks(16_MiB)};
  ExtentHooks hooks{source, pool};
  extent_hooks_t* table = &hooks.table();

  bool zero = false;
  bool commit = false;
  std::byte* Alloc(size_t size, size_t alignment = kPageSize) {
    zero = commit = false;
    return static_cast<std::byte*>(
        table->alloc(table, nullptr, size, alignment, &zero, &commit, 1));
  }
  bool Dalloc(void* p, size_t size) { return table->dalloc(table, p, size, true, 1); }
};

}  // namespace

TEST_CASE("a fresh extent is reported committed and zeroed, and is", "[alloc]") {
  HooksRig rig;
  std::byte* const p = rig.Alloc(64 << 10, 2 << 20);
  REQUIRE(p != nullptr);
  CHECK(rig.zero);
  CHECK(rig.commit);
  CHECK(reinterpret_cast<uintptr_t>(p) % (2 << 20) == 0);
  for (size_t i = 0; i < (64 << 10); ++i) REQUIRE(p[i] == std::byte{0});
}

TEST_CASE("an extent given back is discarded before its addresses are reused", "[alloc]") {
  HooksRig rig;
  std::byte* const p = rig.Alloc(1 << 20);
  std::memset(p, 0xab, 1 << 20);
  CHECK_FALSE(rig.Dalloc(p + (256 << 10), 512 << 10));  // A split extent's middle.
  CHECK(rig.counters.discarded_bytes == (512 << 10));
  CHECK(rig.pool.taken() == 512_KiB);

  std::byte* const q = rig.Alloc(512 << 10);
  CHECK(q == p + (256 << 10));
  CHECK(rig.zero);
  for (size_t i = 0; i < (512 << 10); ++i) REQUIRE(q[i] == std::byte{0});
  CHECK(p[0] == std::byte{0xab});
}

TEST_CASE("an extent whose discard is refused stays with its arena", "[alloc]") {
  HooksRig rig;
  std::byte* const p = rig.Alloc(1 << 20);
  rig.counters.refuse = true;
  CHECK(rig.Dalloc(p, 1 << 20));
  CHECK(rig.pool.taken() == 1_MiB);
  CHECK(rig.table->decommit == nullptr);
  CHECK(rig.table->purge_forced == nullptr);
  CHECK(rig.table->purge_lazy == nullptr);
}

TEST_CASE("an extent grows in place where the addresses behind it are free", "[alloc]") {
  HooksRig rig;
  std::byte* const p = rig.Alloc(1 << 20);
  const auto grow = [&](std::byte* at, size_t size) {
    return rig.table->alloc(rig.table, at, size, kPageSize, &rig.zero, &rig.commit, 1);
  };
  CHECK(grow(p + (1 << 20), 1 << 20) == p + (1 << 20));
  CHECK(rig.zero);
  std::byte* const q = rig.Alloc(kPageSize);
  CHECK(grow(q - kPageSize, 2 * kPageSize) == nullptr);
  CHECK(grow(q + kPageSize, 16 << 20) == nullptr);
  CHECK(grow(rig.source.range().end(), kPageSize) == nullptr);
  CHECK(grow(rig.source.range().begin - kPageSize, kPageSize) == nullptr);
}

TEST_CASE("extents end where the range does", "[alloc]") {
  HooksRig rig;
  CHECK(rig.Alloc((16 << 20) + kPageSize) == nullptr);
  CHECK(rig.Alloc(16 << 20) != nullptr);
  CHECK(rig.Alloc(kPageSize) == nullptr);
}

TEST_CASE("nothing is discarded while the heap closes", "[alloc]") {
  HooksRig rig;
  std::byte* const p = rig.Alloc(1 << 20);
  rig.hooks.Close();
  CHECK(rig.Dalloc(p, 1 << 20));
  CHECK(rig.counters.discards == 0);
}

}  // namespace spiritos
