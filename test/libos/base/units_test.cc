// SPDX-License-Identifier: Apache-2.0
// Units: arithmetic at its edges, and which mixtures do not compile.
#include "libos/base/units.h"

#include <catch2/catch.hpp>
#include <type_traits>

namespace spiritos {
namespace {

template <typename A, typename B>
concept Adds = requires(A a, B b) {
  a + b;
};
template <typename A, typename B>
concept Compares = requires(A a, B b) {
  a < b;
};

static_assert(!std::is_convertible_v<uint64_t, Vpn>);
static_assert(!std::is_convertible_v<uint64_t, SlotId>);
static_assert(!std::is_convertible_v<int64_t, PageCount>);
static_assert(!std::is_convertible_v<uint64_t, Bytes>);
static_assert(!std::is_convertible_v<PageCount, Bytes>);
static_assert(Adds<Vpn, PageCount> && Adds<SlotId, PageCount> && Adds<Bytes, Bytes>);
static_assert(!Adds<Vpn, Vpn> && !Adds<SlotId, SlotId> && !Adds<Bytes, PageCount>);
static_assert(!Compares<Vpn, SlotId> && !Compares<Bytes, PageCount>);

TEST_CASE("a byte beyond whole pages takes one page more", "[base]") {
  CHECK(PagesFor(Bytes(0)) == 0_pages);
  CHECK(PagesFor(Bytes(1)) == 1_pages);
  CHECK(PagesFor(Bytes(kPageSize)) == 1_pages);
  CHECK(PagesFor(Bytes(kPageSize + 1)) == 2_pages);
  CHECK(PagesFor(64_GiB) == PageCount(int64_t{1} << 24));
  for (int64_t n : {0, 1, 3, 1023, 1 << 20}) CHECK(PagesFor(BytesOf(PageCount(n))) == PageCount(n));
}

TEST_CASE("literals are binary multiples", "[base]") {
  CHECK((4_KiB).raw() == 4096);
  CHECK((3_MiB).raw() == 3u * 1024 * 1024);
  CHECK((2_GiB).raw() == uint64_t{2} << 30);
}

TEST_CASE("the distance of two pages undoes a move, backwards as well", "[base]") {
  const Vpn low(100);
  const Vpn high = low + 28_pages;
  CHECK(high.raw() == 128);
  CHECK(high - low == 28_pages);
  CHECK(low - high == PageCount(-28));
  CHECK(low + (high - low) == high);
  CHECK(high + (low - high) == low);
  CHECK(high - 28_pages == low);
  CHECK(low < high);
}

TEST_CASE("every address of a page has the page's number", "[base]") {
  auto* const page = reinterpret_cast<std::byte*>(uintptr_t{0x7fff12345000});
  const Vpn vpn = Vpn::Of(page);
  CHECK(vpn.raw() == 0x7fff12345);
  CHECK(vpn.address() == page);
  CHECK(Vpn::Of(page + kPageSize - 1) == vpn);
  CHECK(Vpn::Of(page + kPageSize) == vpn + 1_pages);
  CHECK(Vpn::Of(page - 1) == vpn - 1_pages);
}

TEST_CASE("a range holds its first byte and not the one behind its last", "[base]") {
  auto* const begin = reinterpret_cast<std::byte*>(uintptr_t{0x10000});
  const AddressRange range{begin, 8_KiB};
  CHECK(range.end() == begin + 8192);
  CHECK(range.contains(begin));
  CHECK(range.contains(begin + 8191));
  CHECK_FALSE(range.contains(begin + 8192));
  CHECK_FALSE(range.contains(begin - 1));
  CHECK_FALSE(AddressRange{begin, Bytes(0)}.contains(begin));
  CHECK(PageRun{Vpn(16), 2}.end() == Vpn(18));
}

TEST_CASE("counts add, subtract and go below zero", "[base]") {
  PageCount count = 5_pages;
  count += 3_pages;
  CHECK(count == 8_pages);
  count -= 10_pages;
  CHECK(count == PageCount(-2));
  CHECK(count < 0_pages);
  CHECK(5_pages + 3_pages - 8_pages == PageCount());
  CHECK(SlotId(7) + 3_pages == SlotId(10));
}

}  // namespace
}  // namespace spiritos
