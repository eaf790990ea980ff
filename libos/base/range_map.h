// SPDX-License-Identifier: Apache-2.0
// RangeMap: from an address to the owner of the range it lies in.
//
// Readers may be signal handlers: they search an immutable sorted snapshot under
// an Epoch and never wait. Writers copy, change, publish, and free the old
// snapshot after the epoch; they are rare (a region is made or goes away).
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "libos/base/epoch.h"
#include "libos/base/lock.h"
#include "libos/base/units.h"

namespace spiritos {

template <typename T>
class RangeMap {
 public:
  explicit RangeMap(LockRank rank) : mutex_(rank) {}
  ~RangeMap() { delete snapshot_.load(std::memory_order_relaxed); }
  RangeMap(const RangeMap&) = delete;
  RangeMap& operator=(const RangeMap&) = delete;

  // The owner of the range that holds `address`, or null. What it points to is
  // alive while `guard`'s epoch is this map's. Context: signal.
  T* Find(const void* address, const Epoch::Guard& guard) const noexcept {
    return FindWithEnd(address, guard).first;
  }
  // And the end of that range: an owner may have several, with others' between them.
  std::pair<T*, const std::byte*> FindWithEnd(const void* address,
                                              const Epoch::Guard& guard) const noexcept {
    static_cast<void>(guard);
    // Acquire: pairs with the release in Replace().
    const Snapshot* snapshot = snapshot_.load(std::memory_order_acquire);
    if (snapshot == nullptr) return {};
    const auto* const p = static_cast<const std::byte*>(address);
    size_t low = 0;
    size_t high = snapshot->size();
    while (low < high) {  // The first entry that begins after p.
      const size_t middle = (low + high) / 2;
      if ((*snapshot)[middle].begin <= p) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    if (low == 0) return {};
    const Entry& entry = (*snapshot)[low - 1];
    if (p >= entry.end) return {};
    return {entry.owner, entry.end};
  }

  // The first range of `owner`; empty if it has none. REQUIRES: a guard, or no
  // change meanwhile; Covers() likewise.
  AddressRange FirstOf(const T* owner) const {
    const Snapshot* snapshot = snapshot_.load(std::memory_order_acquire);
    if (snapshot == nullptr) return {};
    for (const Entry& entry : *snapshot) {
      if (entry.owner != owner) continue;
      return {const_cast<std::byte*>(entry.begin),
              Bytes(static_cast<uint64_t>(entry.end - entry.begin))};
    }
    return {};
  }
  // Whether ranges of the map cover all of `range`.
  bool Covers(AddressRange range) const {
    const Snapshot* snapshot = snapshot_.load(std::memory_order_acquire);
    const std::byte* at = range.begin;
    if (snapshot == nullptr) return range.size.raw() == 0;
    for (const Entry& entry : *snapshot) {
      if (at >= range.end()) break;
      if (entry.end <= at) continue;
      if (entry.begin > at) return false;
      at = entry.end;
    }
    return at >= range.end();
  }

  // Calls visit(range) for each. REQUIRES: as above.
  template <typename Visit>
  void ForEach(Visit&& visit) const {
    const Snapshot* snapshot = snapshot_.load(std::memory_order_acquire);
    if (snapshot == nullptr) return;
    for (const Entry& entry : *snapshot) {
      visit(AddressRange{const_cast<std::byte*>(entry.begin),
                         Bytes(static_cast<uint64_t>(entry.end - entry.begin))});
    }
  }

  Epoch& epoch() const { return epoch_; }

  // Whether any of `range` has an owner.
  bool Meets(AddressRange range) const {
    const Snapshot* snapshot = snapshot_.load(std::memory_order_acquire);
    if (snapshot == nullptr) return false;
    return std::any_of(snapshot->begin(), snapshot->end(), [&](const Entry& entry) {
      return entry.begin < range.end() && range.begin < entry.end;
    });
  }

  // REQUIRES: the range overlaps none that is in the map.
  void Insert(AddressRange range, T* owner) {
    Change([&](Snapshot& entries) {
      const Entry entry{range.begin, range.end(), owner};
      entries.insert(
          std::upper_bound(entries.begin(), entries.end(), entry,
                           [](const Entry& a, const Entry& b) { return a.begin < b.begin; }),
          entry);
    });
  }

  // Takes the range out, splitting entries that reach beyond it. Returns when no
  // reader can still hold what was found there.
  void Erase(AddressRange range) {
    Change([&](Snapshot& entries) {
      Snapshot kept;
      for (const Entry& entry : entries) {
        if (entry.end <= range.begin || entry.begin >= range.end()) {
          kept.push_back(entry);
          continue;
        }
        if (entry.begin < range.begin) kept.push_back({entry.begin, range.begin, entry.owner});
        if (entry.end > range.end()) kept.push_back({range.end(), entry.end, entry.owner});
      }
      entries = std::move(kept);
    });
  }

  bool empty() const {
    const Snapshot* snapshot = snapshot_.load(std::memory_order_acquire);
    return snapshot == nullptr || snapshot->empty();
  }

 private:
  struct Entry {
    const std::byte* begin;
    const std::byte* end;
    T* owner;
  };
  using Snapshot = std::vector<Entry>;

  template <typename Edit>
  void Change(Edit&& edit) {
    LockGuard guard(mutex_);
    const Snapshot* old = snapshot_.load(std::memory_order_relaxed);
    auto changed = old == nullptr ? std::make_unique<Snapshot>() : std::make_unique<Snapshot>(*old);
    edit(*changed);
    // Release: publishes the entries. Pairs with the acquire in Find().
    snapshot_.store(changed.release(), std::memory_order_release);
    epoch_.Synchronize();
    delete old;
  }

  RankedMutex mutex_;
  std::atomic<const Snapshot*> snapshot_{nullptr};
  mutable Epoch epoch_;
};

}  // namespace spiritos
