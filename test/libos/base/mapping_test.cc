// SPDX-License-Identifier: Apache-2.0
// Mapping: aligned, of whole pages, unmapped once and by its last owner.
#include "libos/base/mapping.h"

#include <sys/mman.h>

#include <catch2/catch.hpp>
#include <cerrno>

namespace spiritos {
namespace {

bool Mapped(const std::byte* page) {
  unsigned char resident = 0;
  return mincore(const_cast<std::byte*>(page), kPageSize, &resident) == 0;
}

TEST_CASE("a mapping begins at a multiple of its alignment and is all there", "[base]") {
  for (size_t alignment = kPageSize; alignment <= 4 * kZoneSize; alignment *= 4) {
    for (const Bytes size : {Bytes(1), Bytes(kPageSize), Bytes(5 * kPageSize + 1), 9_MiB}) {
      CAPTURE(alignment, size.raw());
      auto mapping = Mapping::Anonymous(size, alignment, "test");
      REQUIRE(mapping.ok());
      CHECK(reinterpret_cast<uintptr_t>(mapping->data()) % alignment == 0);
      CHECK(mapping->size() == BytesOf(PagesFor(size)));
      mapping->data()[0] = std::byte{1};
      mapping->data()[mapping->size().raw() - 1] = std::byte{2};
      CHECK(mapping->data()[1] == std::byte{0});
    }
  }
}

TEST_CASE("the last owner unmaps", "[base]") {
  std::byte* first = nullptr;
  std::byte* second = nullptr;
  {
    Mapping a = *Mapping::Anonymous(64_KiB, kPageSize, "test");
    Mapping b = *Mapping::Anonymous(64_KiB, kPageSize, "test");
    first = a.data();
    second = b.data();
    Mapping moved(std::move(a));
    CHECK(moved.data() == first);
    CHECK(a.data() == nullptr);
    moved = std::move(b);
    CHECK(moved.data() == second);
    CHECK(Mapped(second));
  }
  CHECK_FALSE(Mapped(first));
  CHECK_FALSE(Mapped(second));
}

TEST_CASE("what is released stays mapped", "[base]") {
  AddressRange range;
  {
    Mapping mapping = *Mapping::Anonymous(64_KiB, kPageSize, "test");
    range = mapping.Release();
    CHECK(mapping.data() == nullptr);
    CHECK(mapping.size() == Bytes(0));
  }
  CHECK(Mapped(range.begin));
  REQUIRE(munmap(range.begin, range.size.raw()) == 0);
}

TEST_CASE("a refusal says what could not be mapped and how much", "[base]") {
  const auto mapping = Mapping::Anonymous(Bytes(uint64_t{1} << 60), kPageSize, "the far heap");
  REQUIRE_FALSE(mapping.ok());
  const std::string text = mapping.status().ToString();
  INFO(text);
  CHECK(text.find("the far heap: cannot map 1152921504606846976 bytes") != std::string::npos);
}

}  // namespace
}  // namespace spiritos
