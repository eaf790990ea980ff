// SPDX-License-Identifier: Apache-2.0
// Units: page numbers, slots, counts and sizes as types that do not mix.
//
// A page (Vpn) is 4 KiB of address space, a slot (SlotId) a page's place in a
// remote pool. Counts are PageCount, sizes are Bytes. Raw integers stay inside
// the functions that need them: `raw()` takes one out, the constructor is
// explicit.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>

namespace spiritos {

inline constexpr unsigned kPageShift = 12;
inline constexpr size_t kPageSize = size_t{1} << kPageShift;
inline constexpr size_t kCacheLine = 64;

// A zone is the unit of a sweep: 4 MiB of address space. Smaller zones pay a
// shootdown for fewer pages, larger ones keep pages frozen for longer.
inline constexpr unsigned kZoneShift = 22;
inline constexpr size_t kZoneSize = size_t{1} << kZoneShift;
inline constexpr uint32_t kZonePages = uint32_t{1} << (kZoneShift - kPageShift);

// A slab is the unit in which a pool is handed out: 64 MiB of slots.
inline constexpr uint32_t kSlabPages = 16384;
inline constexpr size_t kSlabSize = size_t{kSlabPages} << kPageShift;
static_assert(kSlabPages % kZonePages == 0, "a zone of an unmoved region lies in one slab");

// An integer with a meaning. `Tag` only keeps different meanings apart.
template <typename Tag, typename Rep>
class Quantity {
 public:
  using rep = Rep;
  constexpr Quantity() = default;
  constexpr explicit Quantity(Rep raw) : raw_(raw) {}
  constexpr Rep raw() const { return raw_; }
  constexpr auto operator<=>(const Quantity&) const = default;

  constexpr Quantity operator+(Quantity other) const { return Quantity(raw_ + other.raw_); }
  constexpr Quantity operator-(Quantity other) const { return Quantity(raw_ - other.raw_); }
  constexpr Quantity& operator+=(Quantity other) {
    raw_ += other.raw_;
    return *this;
  }
  constexpr Quantity& operator-=(Quantity other) {
    raw_ -= other.raw_;
    return *this;
  }

 private:
  Rep raw_ = 0;
};

// Pages, signed so that differences need no cast.
using PageCount = Quantity<struct PageCountTag, int64_t>;

// A size in bytes.
using Bytes = Quantity<struct BytesTag, uint64_t>;

// A virtual page number: an address divided by the page size. Points are not
// added to each other, only moved by a PageCount.
class Vpn {
 public:
  constexpr Vpn() = default;
  constexpr explicit Vpn(uint64_t raw) : raw_(raw) {}
  static Vpn Of(const void* address) {
    return Vpn(reinterpret_cast<uintptr_t>(address) >> kPageShift);
  }
  constexpr uint64_t raw() const { return raw_; }
  std::byte* address() const { return reinterpret_cast<std::byte*>(raw_ << kPageShift); }
  constexpr auto operator<=>(const Vpn&) const = default;
  constexpr Vpn operator+(PageCount n) const { return Vpn(raw_ + static_cast<uint64_t>(n.raw())); }
  constexpr Vpn operator-(PageCount n) const { return Vpn(raw_ - static_cast<uint64_t>(n.raw())); }
  constexpr PageCount operator-(Vpn other) const {
    return PageCount(static_cast<int64_t>(raw_ - other.raw_));
  }

 private:
  uint64_t raw_ = 0;
};

// A page's place in a pool, counted in pages from the pool's first slot.
class SlotId {
 public:
  constexpr SlotId() = default;
  constexpr explicit SlotId(uint64_t raw) : raw_(raw) {}
  constexpr uint64_t raw() const { return raw_; }
  constexpr auto operator<=>(const SlotId&) const = default;
  constexpr SlotId operator+(PageCount n) const {
    return SlotId(raw_ + static_cast<uint64_t>(n.raw()));
  }

 private:
  uint64_t raw_ = 0;
};

// A piece of address space: what the application is handed for a region.
struct AddressRange {
  std::byte* begin = nullptr;
  Bytes size;

  std::byte* end() const { return begin + size.raw(); }
  bool contains(const void* p) const {
    return p >= static_cast<const void*>(begin) && p < static_cast<const void*>(end());
  }
  bool operator==(const AddressRange&) const = default;
};

// Consecutive pages.
struct PageRun {
  Vpn first;
  uint32_t count = 0;

  Vpn end() const { return first + PageCount(count); }
  bool operator==(const PageRun&) const = default;
};

constexpr Bytes BytesOf(PageCount pages) {
  return Bytes(static_cast<uint64_t>(pages.raw()) << kPageShift);
}
// Whole pages that `bytes` covers, the last one counted even if partly used.
constexpr PageCount PagesFor(Bytes bytes) {
  return PageCount(static_cast<int64_t>((bytes.raw() + kPageSize - 1) >> kPageShift));
}

inline namespace literals {
constexpr Bytes operator""_KiB(unsigned long long n) { return Bytes(n << 10); }
constexpr Bytes operator""_MiB(unsigned long long n) { return Bytes(n << 20); }
constexpr Bytes operator""_GiB(unsigned long long n) { return Bytes(n << 30); }
constexpr PageCount operator""_pages(unsigned long long n) {
  return PageCount(static_cast<int64_t>(n));
}
}  // namespace literals

}  // namespace spiritos
