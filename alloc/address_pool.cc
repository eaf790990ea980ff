// SPDX-License-Identifier: Apache-2.0
// First-fit search over zone summaries, then over one zone's bits.
#include "alloc/address_pool.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "libos/base/check.h"

namespace spiritos {
namespace {

uint64_t ZonesFor(Bytes size) { return (size.raw() + kZoneSize - 1) / kZoneSize; }

// Hints are kept for runs of 1, 2, .. 32 pages, then 64, 128 and so on: small
// extents differ by single pages, and there are many of them.
constexpr uint64_t kExactHints = 32;
constexpr unsigned kExactBits = std::bit_width(kExactHints) - 1;

// The hint for the longest runs that are not longer than `pages`.
size_t HintAtMost(uint64_t pages) {
  if (pages <= kExactHints) return pages - 1;
  return kExactHints - 1 + (static_cast<size_t>(std::bit_width(pages)) - 1 - kExactBits);
}

// The hint for the shortest runs that are not shorter than `pages`.
size_t HintAtLeast(uint64_t pages) {
  if (pages <= kExactHints) return pages - 1;
  return kExactHints - 1 + (static_cast<size_t>(std::bit_width(pages - 1)) - kExactBits);
}

}  // namespace

// A search under way. Pages are counted from the beginning of the range.
struct AddressPool::Fit {
  const uint64_t wanted;
  const size_t alignment;
  uint64_t run_begin = 0;  // Free pages that reach the zone being looked at.
  uint64_t run_end = 0;
  uint64_t found = 0;
};

absl::StatusOr<Mapping> AddressPool::MapBooks(Bytes size) {
  const uint64_t bytes_per_zone = kZoneWords * sizeof(uint64_t) + sizeof(ZoneSummary);
  return Mapping::Anonymous(Bytes(ZonesFor(size) * bytes_per_zone), kPageSize,
                            "address books of a far heap");
}

AddressPool::AddressPool(AddressRange range, Mapping books)
    : range_(range),
      pages_(range.size.raw() / kPageSize),
      zones_(ZonesFor(range.size)),
      books_(std::move(books)),
      bits_(reinterpret_cast<uint64_t*>(books_.data())),
      summaries_(reinterpret_cast<ZoneSummary*>(bits_ + zones_ * kZoneWords)) {
  SPIRITOS_CHECK(pages_ > 0, "an empty range at {}", static_cast<void*>(range.begin));
  SPIRITOS_CHECK(HintAtLeast(pages_) < kHints, "{} pages", pages_);
  LockGuard lock(mutex_);
  std::fill_n(summaries_, zones_, ZoneSummary{kZonePages, kZonePages, kZonePages});
  const uint64_t beyond = zones_ * kZonePages - pages_;
  if (beyond != 0) {
    MarkLocked(pages_, beyond, true);
    taken_pages_ -= beyond;
  }
}

Bytes AddressPool::taken() const {
  LockGuard lock(mutex_);
  return Bytes(taken_pages_ * kPageSize);
}

uint64_t AddressPool::PageOf(const std::byte* address) const {
  return static_cast<uint64_t>(address - range_.begin) / kPageSize;
}

// The first page at or after `page` whose address is a multiple of `alignment`.
uint64_t AddressPool::AlignUp(uint64_t page, size_t alignment) const {
  const auto base = reinterpret_cast<uintptr_t>(range_.begin);
  const uintptr_t address = base + page * kPageSize;
  return (((address + alignment - 1) & ~(alignment - 1)) - base) / kPageSize;
}

std::byte* AddressPool::Take(Bytes size, size_t alignment) noexcept {
  LockGuard lock(mutex_);
  Fit fit{.wanted = size.raw() / kPageSize, .alignment = alignment};
  if (fit.wanted == 0 || fit.wanted > pages_ - taken_pages_) return nullptr;
  const bool found = FitLocked(fit);
  if (alignment <= kPageSize) {
    // Every run that is long enough has been seen, from the lowest on.
    const uint64_t zone = found ? fit.run_begin / kZonePages : zones_;
    for (size_t i = HintAtLeast(fit.wanted); i < kHints && hints_[i] < zone; ++i) hints_[i] = zone;
  }
  if (!found) return nullptr;
  MarkLocked(fit.found, fit.wanted, true);
  return range_.begin + fit.found * kPageSize;
}

bool AddressPool::TakeAt(AddressRange range) noexcept {
  const uint64_t first = PageOf(range.begin);
  const uint64_t count = range.size.raw() / kPageSize;
  if (!range_.contains(range.begin) || count == 0 || count > pages_ - first) return false;
  LockGuard lock(mutex_);
  if (RunEndLocked(first, first + count) < first + count) return false;
  MarkLocked(first, count, true);
  return true;
}

void AddressPool::Give(AddressRange range) noexcept {
  const uint64_t first = PageOf(range.begin);
  const uint64_t count = range.size.raw() / kPageSize;
  LockGuard lock(mutex_);
  MarkLocked(first, count, false);
  // The run may be longer than what made it. It is followed into the neighbouring
  // zones; one that reaches even further counts as endless, which only makes
  // searches start lower than they need.
  const uint64_t zone = first / kZonePages;
  const uint64_t begin = RunBeginLocked(first);
  const uint64_t end = RunEndLocked(first, ((first + count - 1) / kZonePages + 2) * kZonePages);
  const bool begins = begin % kZonePages != 0 || begin == 0 || begin / kZonePages == zone;
  const bool ends = end % kZonePages != 0 || end == zones_ * kZonePages;
  // Free pages below were a run already, whose hint knows where it begins.
  const uint64_t lowest = begins ? begin / kZonePages : hints_[HintAtMost(first - begin)];
  const size_t longest = begins && ends ? HintAtMost(end - begin) : kHints - 1;
  for (size_t i = longest + 1; i > 0 && hints_[i - 1] > lowest; --i) hints_[i - 1] = lowest;
}

// Leaves in `fit` where the pages were found, and the run they are in.
bool AddressPool::FitLocked(Fit& fit) const {
  uint64_t zone = hints_[HintAtMost(fit.wanted)];
  fit.run_begin = fit.run_end = zone * kZonePages;
  for (; zone < zones_; ++zone) {
    const ZoneSummary& summary = summaries_[zone];
    const uint64_t begin = zone * kZonePages;
    if (fit.run_end != begin) fit.run_begin = begin;
    fit.run_end = begin + summary.head;
    fit.found = AlignUp(fit.run_begin, fit.alignment);
    if (fit.found + fit.wanted <= fit.run_end) return true;
    if (summary.longest >= fit.wanted && FitInZoneLocked(zone, fit)) return true;
    if (summary.head == kZonePages) continue;
    fit.run_end = begin + kZonePages;
    fit.run_begin = fit.run_end - summary.tail;
  }
  return false;
}

// Looks at the free runs of one zone, lowest first.
bool AddressPool::FitInZoneLocked(uint64_t zone, Fit& fit) const {
  for (uint64_t page = zone * kZonePages; page < (zone + 1) * kZonePages;) {
    const uint64_t taken = bits_[page / kWordBits] >> (page % kWordBits);
    if ((taken & 1) != 0) {
      page += std::min<uint64_t>(static_cast<uint64_t>(std::countr_one(taken)),
                                 kWordBits - page % kWordBits);
      continue;
    }
    const uint64_t end = RunEndLocked(page, (zone + 1) * kZonePages);
    fit.run_begin = page;
    fit.found = AlignUp(page, fit.alignment);
    if (fit.found + fit.wanted <= end) return true;
    page = end;
  }
  return false;
}

// The first page of the free run that `page` is in, or the first page of the zone
// below if the run reaches even further.
uint64_t AddressPool::RunBeginLocked(uint64_t page) const {
  const uint64_t zone = page / kZonePages;
  while (page > zone * kZonePages) {
    const uint64_t below = (page - 1) % kWordBits + 1;  // Pages of the word under `page`.
    const uint64_t taken = bits_[(page - 1) / kWordBits] << (kWordBits - below);
    const auto free = std::min(below, static_cast<uint64_t>(std::countl_zero(taken)));
    page -= free;
    if (free < below) return page;
  }
  return zone == 0 ? page : page - summaries_[zone - 1].tail;
}

// The page after the free run that begins at `page`, or `limit` if that is lower.
uint64_t AddressPool::RunEndLocked(uint64_t page, uint64_t limit) const {
  limit = std::min(limit, zones_ * kZonePages);
  while (page < limit) {
    const uint64_t above = kWordBits - page % kWordBits;
    const uint64_t taken = bits_[page / kWordBits] >> (page % kWordBits);
    const auto free = std::min(above, static_cast<uint64_t>(std::countr_zero(taken)));
    page += free;
    if (free < above) break;
  }
  return std::min(page, limit);
}

void AddressPool::MarkLocked(uint64_t first, uint64_t count, bool taken) {
  const uint64_t end = first + count;
  SPIRITOS_CHECK(end <= zones_ * kZonePages, "pages {}..{} of {}", first, end, pages_);
  for (uint64_t page = first; page < end;) {
    const uint64_t bit = page % kWordBits;
    const uint64_t n = std::min(kWordBits - bit, end - page);
    const uint64_t mask = (n == kWordBits ? ~uint64_t{0} : (uint64_t{1} << n) - 1) << bit;
    uint64_t& word = bits_[page / kWordBits];
    SPIRITOS_CHECK((word & mask) == (taken ? 0 : mask), "page {}: {:#x} are not {} in {:#x}", page,
                   mask, taken ? "free" : "taken", word);
    word ^= mask;
    page += n;
  }
  taken_pages_ += taken ? count : uint64_t{0} - count;
  for (uint64_t zone = first / kZonePages; zone * kZonePages < end; ++zone) SummariseLocked(zone);
}

void AddressPool::SummariseLocked(uint64_t zone) {
  const uint64_t* const words = bits_ + zone * kZoneWords;
  int head = -1;
  int longest = 0;
  int run = 0;
  for (uint32_t i = 0; i < kZoneWords; ++i) {
    const uint64_t taken = words[i];
    if (taken == 0) {
      run += kWordBits;
      continue;
    }
    run += std::countr_zero(taken);
    if (head < 0) head = run;
    longest = std::max(longest, run);
    run = std::countl_zero(taken);
    // Each step shortens the runs inside the word by one page.
    uint64_t free = ~taken;
    if (std::popcount(free) <= longest) continue;
    int inside = 0;
    for (; free != 0; free &= free >> 1) ++inside;
    longest = std::max(longest, inside);
  }
  longest = std::max(longest, run);
  if (head < 0) head = run;
  summaries_[zone] = {static_cast<uint16_t>(head), static_cast<uint16_t>(longest),
                      static_cast<uint16_t>(run)};
}

}  // namespace spiritos
