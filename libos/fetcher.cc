// SPDX-License-Identifier: Apache-2.0
// Demand reads, and windows from claim to standby.
#include "libos/fetcher.h"

#include <algorithm>
#include <cerrno>

#include "libos/base/check.h"
#include "libos/base/core.h"
#include "libos/mem/region.h"

namespace spiritos {

Fetcher::Fetcher(RemoteBackend& remote, FreeFramePool& frames, Parker& parker,
                 const PageHasher& hasher, Metrics& metrics)
    : remote_(remote), frames_(frames), parker_(parker), hasher_(hasher), metrics_(metrics) {}

bool Fetcher::Init(PinnedArena& arena, uint32_t max_window) noexcept {
  const auto budget = static_cast<uint32_t>(std::min<int64_t>(frames_.budget().raw(), 1 << 20));
  const uint32_t singles = std::clamp(2 * CoreCount(), 8u, 64u);
  max_window_ = std::min(max_window, std::max(1u, budget / 64));
  window_count_ = std::clamp(budget / 16 / max_window_, 2u, kMaxWindows);
  const int64_t total = singles + int64_t{window_count_} * max_window_;
  if (frames_.TryTake(total) != total) return false;
  frames_held_ = PageCount(total);
  if (!pages_.Init(arena, singles, 1)) return false;
  windows_ = arena.NewArray<Window>(window_count_);
  if (windows_ == nullptr) return false;
  for (uint32_t w = 0; w < window_count_; ++w) {
    windows_[w].buffer =
        static_cast<std::byte*>(arena.Allocate(size_t{max_window_} * kPageSize, kPageSize));
    if (windows_[w].buffer == nullptr) return false;
  }
  return true;
}

void Fetcher::SubmitDemand(DemandRead& read) noexcept {
  read.request.status.store(IoStatus::kPending, std::memory_order_relaxed);
  while (remote_.Submit(read.request) == IoResult::kBusy) {
    if (!remote_.Poll(Lane::kDemand)) CpuRelax();
  }
}

void Fetcher::Begin(DemandRead& read, Zone& zone, uint32_t index) noexcept {
  read.vpn = zone.vpn(index);
  read.request.op = IoOp::kRead;
  read.request.lane = Lane::kDemand;
  read.request.first = zone.region->SlotOf(read.vpn, zone.pages[index].Load().generation());
  read.request.pages = 1;
  read.request.memory = pages_.Take(parker_);
  read.request.avoid = 0;
  read.to_rewrite = false;
  SubmitDemand(read);
}

const std::byte* Fetcher::End(DemandRead& read, const Zone& zone, uint32_t index) noexcept {
  for (int attempt = 1;; ++attempt) {
    remote_.Wait(read.request);
    const bool arrived = read.request.status.load(std::memory_order_acquire) == IoStatus::kDone;
    if (arrived && hasher_.Hash(read.request.memory) == zone.hashes[index]) [[likely]] {
      metrics_.Add(Metric::kFetchedPages);
      return read.request.memory;
    }
    const bool wrong = arrived || read.request.error == EBADMSG;
    if (wrong) {
      metrics_.Add(Metric::kCorruptPages);
      read.request.avoid |= read.request.sources.load(std::memory_order_relaxed);
      read.to_rewrite = true;
    }
    if (attempt == kAttempts) {
      Complain(
          "page {:#x} cannot be had from the pool: {} (errno {}) after {} attempts, and no "
          "other copy exists (SPIRITOS_POOL, SPIRITOS_DURABILITY)",
          read.vpn.raw() << kPageShift,
          wrong ? "its bytes are not those that were sent" : "reading failed",
          wrong ? 0 : read.request.error, attempt);
      return nullptr;
    }
    metrics_.Add(Metric::kFetchRetries);
    SubmitDemand(read);
  }
}

void Fetcher::Release(DemandRead& read) noexcept { pages_.Give(read.request.memory, parker_); }

bool Fetcher::Window::TryTake(Stage from) noexcept {
  uint32_t now = word.load(std::memory_order_relaxed);
  while ((now & kStageMask) == from && (from != kFree || now == kFree)) {
    // Acquire and release: taking over from who set the stage, see Set().
    if (word.compare_exchange_weak(now, now + (kTaken - from), std::memory_order_acq_rel,
                                   std::memory_order_relaxed)) {
      return true;
    }
  }
  return false;
}

bool Fetcher::Window::TryHold() noexcept {
  uint32_t now = word.load(std::memory_order_relaxed);
  while ((now & kStageMask) == kReading) {
    if (word.compare_exchange_weak(now, now + kHolder, std::memory_order_acquire,
                                   std::memory_order_relaxed)) {
      return true;
    }
  }
  return false;
}

Fetcher::Window* Fetcher::TakeFree() noexcept {
  for (int round = 0; round < 2; ++round) {
    for (uint32_t w = 0; w < window_count_; ++w) {
      if (windows_[w].TryTake(Window::kFree)) return &windows_[w];
    }
    if (!ReclaimOldest()) break;
  }
  return nullptr;
}

bool Fetcher::ReclaimOldest() noexcept {
  Window* oldest = nullptr;
  for (uint32_t w = 0; w < window_count_; ++w) {
    Window& window = windows_[w];
    if (window.stage() != Window::kReady) continue;
    if (oldest == nullptr || window.started < oldest->started) oldest = &window;
  }
  if (oldest == nullptr || !oldest->TryTake(Window::kReady)) return false;
  const auto number = static_cast<uint32_t>(oldest - windows_);
  Zone& zone = *oldest->zone.load(std::memory_order_relaxed);
  for (uint32_t i = oldest->first; i < oldest->first + oldest->count; ++i) {
    PageWord word = zone.pages[i].Load();
    if (word.state() != PageState::kStandby || word.staging_buffer() != number) continue;
    if (zone.pages[i].Take(word, word.StandbyToRemote())) {
      metrics_.Add(Metric::kPrefetchWaste);
      parker_.Unpark(&zone.pages[i]);
    }
  }
  Free(*oldest);
  return true;
}

uint32_t Fetcher::StartWindow(Zone& zone, uint32_t index, uint32_t count) noexcept {
  const Vpn vpn = zone.vpn(index);
  const uint8_t generation = zone.pages[index].Load().generation();
  count = std::min(
      {count, max_window_, kZonePages - index, kSlabPages - zone.region->IndexInSlab(vpn)});
  Window* const window = TakeFree();
  if (window == nullptr) return 0;
  uint32_t claimed = 0;
  while (claimed < count) {
    AtomicPageWord& page = zone.pages[index + claimed];
    PageWord word = page.Load();
    // One read is of one place: pages of another generation have another.
    if (word.state() != PageState::kRemote || !word.slot_valid()) break;
    if (word.generation() != generation) break;
    if (!page.Take(word, word.ToReadAhead(static_cast<uint32_t>(window - windows_)))) break;
    ++claimed;
  }
  const auto take_back = [&] {
    for (uint32_t i = index; i < index + claimed; ++i) {
      const PageWord word = zone.pages[i].Load();
      zone.pages[i].Publish(word.ZappedToRemote(word.age()));
      parker_.Unpark(&zone.pages[i]);
    }
    Free(*window);
    return 0u;
  };
  if (claimed == 0 || zone.word.Load().gate_closed()) return take_back();
  window->zone.store(&zone, std::memory_order_relaxed);
  window->first = index;
  window->count = claimed;
  window->started = clock_.fetch_add(1, std::memory_order_relaxed);
  IoRequest& request = window->request;
  request.op = IoOp::kRead;
  request.lane = Lane::kPrefetch;
  request.first = zone.region->SlotOf(vpn, generation);
  request.pages = claimed;
  request.memory = window->buffer;
  request.status.store(IoStatus::kPending, std::memory_order_relaxed);
  if (remote_.Submit(request) != IoResult::kOk) return take_back();
  reading_.fetch_add(1, std::memory_order_relaxed);
  Set(*window, Window::kReading);
  return claimed;
}

void Fetcher::PollWindows() noexcept {
  if (reading_.load(std::memory_order_relaxed) == 0) return;
  remote_.Poll(Lane::kPrefetch);
  for (uint32_t w = 0; w < window_count_; ++w) {
    Window& window = windows_[w];
    if (window.stage() != Window::kReading || !window.request.final()) continue;
    if (!window.TryTake(Window::kReading)) continue;
    // It may be a later read than the one that was seen final.
    if (window.request.final()) {
      Arrived(window, w);
    } else {
      Set(window, Window::kReading);
    }
  }
}

void Fetcher::Arrived(Window& window, uint32_t number) noexcept {
  reading_.fetch_sub(1, std::memory_order_relaxed);
  Zone& zone = *window.zone.load(std::memory_order_relaxed);
  const bool arrived = window.request.status.load(std::memory_order_acquire) == IoStatus::kDone;
  bool any = false;
  for (uint32_t i = 0; i < window.count; ++i) {
    AtomicPageWord& page = zone.pages[window.first + i];
    const PageWord word = page.Load();
    const std::byte* const bytes = window.buffer + (size_t{i} << kPageShift);
    // What does not match goes back: the demand read will try again, and say so.
    const bool good = arrived && hasher_.Hash(bytes) == zone.hashes[window.first + i];
    any = any || good;
    page.Publish(good ? word.ZappedToStandby(word.age(), number) : word.ZappedToRemote(word.age()));
  }
  // Ready before the wake-ups: a touched page must find its window.
  Set(window, any ? Window::kReady : Window::kFree);
  if (arrived) metrics_.Add(Metric::kFetchedPages, window.count);
  for (uint32_t i = 0; i < window.count; ++i) parker_.Unpark(&zone.pages[window.first + i]);
}

void Fetcher::AwaitWindow(const AtomicPageWord& page, PageWord word) noexcept {
  Window& window = windows_[word.staging_buffer()];
  while (page.Load() == word) {
    if (!window.TryHold()) {
      // Somebody starts it or moves it on.
      parker_.Wait(&window.word,
                   [&] { return window.stage() == Window::kReading || page.Load() != word; });
      continue;
    }
    // Held, and the page still names it: so this is the read that brings the page.
    if (page.Load() == word) remote_.Wait(window.request);
    window.Unhold();
    PollWindows();
  }
}

Fetcher::Window* Fetcher::TakeReady(const Zone& zone, uint32_t index, PageWord word) noexcept {
  Window& window = windows_[word.staging_buffer()];
  if (!window.TryTake(Window::kReady)) return nullptr;
  const bool same = window.zone.load(std::memory_order_relaxed) == &zone &&
                    index - window.first < window.count && zone.pages[index].Load() == word;
  if (same) return &window;
  // The page's window is gone, and its number another's: that one stays ready,
  // and whoever met it taken must look again.
  Set(window, Window::kReady);
  Zone& other = *window.zone.load(std::memory_order_relaxed);
  for (uint32_t i = window.first; i < window.first + window.count; ++i) {
    parker_.Unpark(&other.pages[i]);
  }
  return nullptr;
}

}  // namespace spiritos
