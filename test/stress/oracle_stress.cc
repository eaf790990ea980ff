// SPDX-License-Identifier: Apache-2.0
// oracle_stress: random operations on far memory against a shadow in near memory.
//
// Each block of 16 pages has one writing thread; every thread reads every block.
// A page holds its version at three places (start, a moving word, end), a counter
// that is incremented by plain loads and stores, and the shadow knows them. A
// reader takes the shadow before and after, so what it reads must lie between.
// Around that: evict, prefetch, pin, discard, budget changes, and regions that
// are made, moved, protected and unmapped.
//
// Ends early, with all checks, on SIGTERM. Prints its seed and, at the end, what it did and how
// often each arrow of the page and zone words was taken. Exit status 0 only without a mismatch.
#include <fmt/core.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstring>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "bench/command_line.h"
#include "libos/base/clock.h"
#include "libos/base/failpoint.h"
#include "libos/mem/page_word.h"
#include "libos/mem/zone_word.h"
#include "libos/options_env.h"
#include "libos/space.h"
#include "test/stress/arrow_report.h"
#include "test/stress/chaos.h"
#include "test/support/space_peer.h"
#include "test/support/temp_dir.h"
#include "test/support/unruly_pool.h"

namespace spiritos {
namespace {

// By SIGTERM: what was written is still checked.
volatile std::sig_atomic_t told_to_end = 0;

constexpr uint32_t kBlockPages = 16;
constexpr uint32_t kThreads = 4;
constexpr size_t kWords = kPageSize / 8;
constexpr size_t kCounterWord = 1;
constexpr size_t kToggleWord = kWords - 2;

struct Settings {
  uint64_t operations = 300'000;
  uint64_t seed = 0;
  uint64_t region_mib = 64;
  uint64_t budget_mib = 16;
  uint64_t seconds = 0;  // Ends early after this long; 0 = no limit.
  uint64_t min_arrows = 0;
  bool chaos = false;
  bool unruly = false;
  bool unseen_pins = false;
  bool mischief = false;
  std::string file_pool;  // Size of a pool in a file of its own; empty = none.
  std::vector<std::string> options;
  std::string plant;
};

// What a page must hold.
struct Shadow {
  std::atomic<uint64_t> version{0};
  std::atomic<uint64_t> counter{0};
  // Odd while the page is being discarded: then it may hold either.
  std::atomic<uint64_t> discards{0};
};

uint64_t Stamp(uint64_t page, uint64_t version) {
  return version == 0 ? 0 : (page << 32) ^ version;
}
size_t MovingWord(uint64_t page) { return 2 + page * 37 % (kWords - 4); }

class Stress {
 public:
  Stress(Space& space, const Settings& settings)
      : space_(space),
        settings_(settings),
        region_(space.CreateRegion(Bytes(settings.region_mib << 20)).value()),
        pages_(region_.size.raw() / kPageSize),
        shadows_(pages_) {}

  bool Run() {
    std::vector<std::thread> threads;
    deadline_ = settings_.seconds == 0 ? 0 : NowNs() + settings_.seconds * 1'000'000'000;
    for (uint32_t t = 0; t < kThreads; ++t) threads.emplace_back([this, t] { Work(t); });
    for (std::thread& thread : threads) thread.join();
    if (!failed_) VerifyAll();
    return !failed_;
  }
  uint64_t page_operations() const { return page_operations_; }

 private:
  using Rng = std::mt19937_64;

  std::atomic_ref<uint64_t> WordAt(uint64_t page, size_t word) {
    return std::atomic_ref<uint64_t>(
        *reinterpret_cast<uint64_t*>(region_.begin + page * kPageSize + word * 8));
  }
  AddressRange PagesAt(uint64_t page, uint64_t count) {
    return {region_.begin + page * kPageSize, Bytes(count * kPageSize)};
  }
  // Wrong bytes.
  template <typename... Args>
  void Fail(fmt::format_string<Args...> format, Args&&... args) {
    Say("MISMATCH", fmt::format(format, std::forward<Args>(args)...));
  }
  // A call that should have worked did not: loud, but no wrong byte.
  void Refuse(std::string_view call, const absl::Status& status) {
    Say("REFUSED", fmt::format("{}: {}", call, status.ToString()));
  }
  void Say(std::string_view what, const std::string& text) {
    if (failed_.exchange(true)) return;
    fmt::print("{} (seed {}): {}\n", what, settings_.seed, text);
    std::fflush(stdout);
  }

  void Work(uint32_t thread) {
    Rng rng(settings_.seed * kThreads + thread);
    uint64_t done = 0;
    const uint64_t share = settings_.operations / kThreads;
    while (done < share && !failed_) {
      const uint64_t pinned = pinned_page_.load(std::memory_order_relaxed);
      if (pinned != kNothing && rng() % 4 == 0) EvictAround(pinned);
      const uint64_t dice = rng() % 10'000;
      if (dice < 10) {
        done += ReadStream(rng);
      } else if (dice < 4450) {
        ReadAny(rng() % pages_);
      } else if (dice < 4500) {
        done += PinShared(thread, rng);
      } else if (dice < 7000) {
        StoreOrCheck(OwnPage(thread, rng), rng, &Stress::WriteOwn);
      } else if (dice < 9500) {
        StoreOrCheck(OwnPage(thread, rng), rng, &Stress::Increment);
      } else if (dice < 9600) {
        HammerOwn(thread);
      } else if (dice < 9700) {
        done += StoreIntoGuarded(thread, rng);
      } else if (dice < 9800) {
        Range(rng, &Space::Evict, 64);
      } else if (dice < 9850) {
        EvictHot();
      } else if (dice < 9900) {
        Range(rng, &Space::Prefetch, 64);
      } else if (dice < 9940) {
        PinSome(thread, rng);
      } else if (dice < 9983) {
        DiscardOwn(thread, rng);
      } else if (dice < 9990) {
        if (thread == 0) ChangeBudget(rng);
      } else {
        RegionLife(thread, rng);
      }
      ++done;
      if (settings_.mischief && thread == 0 && done % 64 == 0) MakeMischief(rng);
      if (done % 64 == 0 && (told_to_end != 0 || (deadline_ != 0 && NowNs() > deadline_))) break;
    }
    page_operations_ += done;
  }

  // The next call of some kind fails, as it may: what cannot be written or dropped
  // stays, and range calls that are refused are repeated.
  static void MakeMischief(Rng& rng) {
#ifdef SPIRITOS_FAILPOINTS
    switch (rng() % 4) {
      case 0:
        return Failpoints::Arm(Failpoint::kMadvise, 1 + rng() % 4, EINVAL, 1 + rng() % 3);
      case 1:
        return Failpoints::Arm(Failpoint::kBackendWrite, 1 + rng() % 64, EIO, 1 + rng() % 32);
      case 2:
        return Failpoints::Arm(Failpoint::kFreeze, 1 + rng() % 4, ENOMEM, 1);
      case 3:
        return Failpoints::Arm(Failpoint::kUffdCopy, 1 + rng() % 64, EAGAIN, 1);
    }
#else
    static_cast<void>(rng);
#endif
  }
  template <typename Call>
  absl::Status Persist(Call&& call) {
    absl::Status status = call();
    for (int again = 0; settings_.mischief && !status.ok() && again < 1000; ++again) {
      status = call();
    }
    return status;
  }

  uint64_t OwnBlock(uint32_t thread, Rng& rng) {
    const uint64_t blocks = pages_ / kBlockPages / kThreads;
    return (rng() % blocks) * kThreads + thread;
  }
  uint64_t OwnPage(uint32_t thread, Rng& rng) {
    return OwnBlock(thread, rng) * kBlockPages + rng() % kBlockPages;
  }

  // Every other zone is read nearly always, so that its pages come back guarded.
  void StoreOrCheck(uint64_t page, Rng& rng, void (Stress::*store)(uint64_t)) {
    const bool stores = page / kZonePages % 2 == 0 || rng() % 64 == 0;
    (this->*(stores ? store : &Stress::CheckOwn))(page);
  }

  void ReadAny(uint64_t page) {
    Shadow& shadow = shadows_[page];
    const uint64_t discards = shadow.discards.load();
    const uint64_t before = shadow.version.load();
    const uint64_t value = WordAt(page, 0).load();
    const uint64_t after = shadow.version.load();
    if (discards % 2 != 0 || shadow.discards.load() != discards) return;
    // A write stores its words first and then the shadow.
    const uint64_t version = value == 0 ? 0 : value ^ (page << 32);
    if (version > after + 1 || version < before) {
      Fail("page {} read version {}, shadow {} before and {} after", page, version, before, after);
    }
  }

  // A stream long enough that others fill ahead of it. Returns the page operations.
  uint64_t ReadStream(Rng& rng) {
    const uint64_t count = std::min<uint64_t>(pages_ / 2, 400);
    const uint64_t first = rng() % (pages_ - count);
    const bool forward = rng() % 2 == 0;
    for (uint64_t i = 0; i < count; ++i) ReadAny(first + (forward ? i : count - 1 - i));
    return count;
  }

  void CheckOwn(uint64_t page) {
    const uint64_t version = shadows_[page].version.load(std::memory_order_relaxed);
    const uint64_t expected = Stamp(page, version);
    for (const size_t word : {size_t{0}, MovingWord(page), kWords - 1}) {
      const uint64_t value = WordAt(page, word).load(std::memory_order_relaxed);
      if (value != expected) {
        Fail("page {} word {} holds {:#x}, expected {:#x} (version {})", page, word, value,
             expected, version);
      }
    }
    const uint64_t counter = WordAt(page, kCounterWord).load(std::memory_order_relaxed);
    const uint64_t wanted = shadows_[page].counter.load(std::memory_order_relaxed);
    if (counter != wanted) Fail("page {} counter is {}, expected {}", page, counter, wanted);
  }

  void WriteOwn(uint64_t page) {
    CheckOwn(page);
    Shadow& shadow = shadows_[page];
    const uint64_t version = shadow.version.load(std::memory_order_relaxed) + 1;
    for (const size_t word : {size_t{0}, MovingWord(page), kWords - 1}) {
      WordAt(page, word).store(Stamp(page, version), std::memory_order_release);
    }
    shadow.version.store(version, std::memory_order_release);
  }

  void Increment(uint64_t page) {
    auto counter = WordAt(page, kCounterWord);
    // A plain load and store, as a program's ++ is: what a lost write loses.
    counter.store(counter.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
    shadows_[page].counter.fetch_add(1, std::memory_order_relaxed);
    const uint64_t wanted = shadows_[page].counter.load(std::memory_order_relaxed);
    const uint64_t found = counter.load(std::memory_order_relaxed);
    if (found != wanted) Fail("page {} counter is {}, expected {}", page, found, wanted);
  }

  // Stores into the thread's hot pages while other threads send them away: meets
  // every stage of a sweep.
  void HammerOwn(uint32_t thread) {
    for (uint64_t i = 0; i < 4000 && !failed_; ++i) {
      Increment((i % 4 * kThreads + thread) * kBlockPages + i % 3);
      if (i % 16 == 0) Toggle(thread * kBlockPages + 3, (i / 16) % 2);
    }
  }
  // A page whose contents come back to what they were: a slot that is wrongly
  // called valid shows when it is fetched.
  void Toggle(uint64_t page, uint64_t value) {
    auto word = WordAt(page, kToggleWord);
    const uint64_t other = 1 - value;
    const uint64_t found = word.load(std::memory_order_relaxed);
    if (found > 1) Fail("page {} toggle word holds {:#x}", page, found);
    word.store(value, std::memory_order_relaxed);
    if (word.load(std::memory_order_relaxed) == other) Fail("page {} toggle was lost", page);
  }
  void EvictHot() {
    for (int i = 0; i < 20; ++i) {
      const absl::Status status = space_.Evict(PagesAt(0, 4 * kThreads * kBlockPages));
      if (!status.ok()) Refuse("evict", status);
      // And a region that is being written for the first time, if there is one: it
      // may be gone by now.
      std::byte* const fresh = fresh_.load();
      if (fresh != nullptr) static_cast<void>(space_.Evict({fresh, Bytes(kZoneSize)}));
    }
  }

  // Stores into pages that have come back guarded and met, meanwhile, a sweep of
  // their zone that they were too young for.
  // Returns the page operations it took.
  uint64_t StoreIntoGuarded(uint32_t thread, Rng& rng) {
    const uint64_t page = OwnBlock(thread, rng) * kBlockPages;
    if (page / kZonePages % 2 == 0) return 0;
    for (uint64_t p = page; p < page + 4; ++p) CheckOwn(p);
    constexpr uint64_t kMeanwhile = 40;
    for (uint64_t i = 0; i < kMeanwhile; ++i) ReadAny(rng() % pages_);
    for (uint64_t p = page; p < page + 4; ++p) Increment(p);
    const absl::Status status = space_.Evict(PagesAt(page, 4));
    if (!status.ok()) Refuse("evict", status);
    for (uint64_t p = page; p < page + 4; ++p) CheckOwn(p);
    return kMeanwhile + 12;
  }

  void Range(Rng& rng, absl::Status (Space::*call)(AddressRange), uint64_t most) {
    const uint64_t count = 1 + rng() % most;
    const uint64_t page = rng() % (pages_ - count);
    const absl::Status status = (space_.*call)(PagesAt(page, count));
    if (!status.ok()) Refuse(fmt::format("range call on {} + {}", page, count), status);
  }

  void PinSome(uint32_t thread, Rng& rng) {
    // Half the time a hot block, which others send away all the time.
    const uint64_t block = rng() % 2 == 0 ? thread : OwnBlock(thread, rng);
    const uint64_t page = block * kBlockPages;
    const AddressRange range = PagesAt(page, kBlockPages);
    const absl::Status status = space_.Pin(range);
    if (absl::IsResourceExhausted(status)) return;
    if (!status.ok()) return Refuse("pin", status);
    pinned_page_.store(page, std::memory_order_relaxed);
    for (int i = 0; i < 40; ++i) {
      if (i % 16 == 3) EvictAround(page);
      // The kernel writes into the page: an unseen freeze fails with EFAULT.
      const uint64_t own = page + static_cast<uint64_t>(i) % kBlockPages;
      auto* word = reinterpret_cast<uint64_t*>(region_.begin + own * kPageSize + kCounterWord * 8);
      const uint64_t next = shadows_[own].counter.load() + 1;
      if (!KernelStore(word, next)) {
        Fail("the kernel could not write to pinned page {}: {}", own, strerror(errno));
        break;
      }
      shadows_[own].counter.store(next);
    }
    pinned_page_.store(kNothing, std::memory_order_relaxed);
    space_.Unpin(range);
  }
  // A pinned block's neighbours on both sides leave around it.
  void EvictAround(uint64_t page) {
    const uint64_t before = std::min<uint64_t>(page, 2 * kBlockPages);
    const uint64_t begin = page - before;
    static_cast<void>(
        space_.Evict(PagesAt(begin, std::min(before + 3 * kBlockPages, pages_ - begin))));
  }

  // All threads pin the same guarded pages, and the kernel writes into them: a pin
  // that returns relies on what another one may still be doing.
  // Returns the page operations it took.
  uint64_t PinShared(uint32_t thread, Rng& rng) {
    constexpr uint64_t kPages = kThreads * kBlockPages;
    const uint64_t page = kZonePages + rng() % 2 * kPages;
    const AddressRange range = PagesAt(page, kPages);
    if (rng() % 2 == 0) static_cast<void>(space_.Evict(range));
    for (uint64_t p = page; p < page + kPages; ++p) ReadAny(p);
    const absl::Status status = space_.Pin(range);
    if (absl::IsResourceExhausted(status)) return kPages;
    if (!status.ok()) {
      Refuse("pin", status);
      return kPages;
    }
    for (uint64_t own = page + thread * kBlockPages, end = own + kBlockPages; own < end; ++own) {
      auto* word = reinterpret_cast<uint64_t*>(region_.begin + own * kPageSize + kCounterWord * 8);
      // What it holds already, so that the page leaves clean and comes back guarded.
      if (KernelStore(word, shadows_[own].counter.load())) continue;
      Fail("the kernel could not write to page {} that is pinned: {}", own, strerror(errno));
      break;
    }
    space_.Unpin(range);
    return kPages + kBlockPages;
  }

  // Stores through a pipe and read(2).
  static bool KernelStore(uint64_t* to, uint64_t value) {
    struct Pipe {
      Pipe() { ok = pipe(ends) == 0; }
      ~Pipe() {
        close(ends[0]);
        close(ends[1]);
      }
      int ends[2];
      bool ok;
    };
    thread_local Pipe pipe;
    if (!pipe.ok || write(pipe.ends[1], &value, sizeof(value)) != sizeof(value)) return false;
    if (read(pipe.ends[0], to, sizeof(value)) == sizeof(value)) return true;
    const int error = errno;
    uint64_t thrown_away;
    if (read(pipe.ends[0], &thrown_away, sizeof(value)) != sizeof(value)) return false;
    errno = error;
    return false;
  }

  void DiscardOwn(uint32_t thread, Rng& rng) {
    // Half the time a hot block, so that first touches meet sweeps too.
    const uint64_t block = rng() % 2 == 0 ? rng() % 4 * kThreads + thread : OwnBlock(thread, rng);
    const uint64_t page = block * kBlockPages;
    const uint64_t count = 1 + rng() % kBlockPages;
    for (uint64_t p = page; p < page + count; ++p) shadows_[p].discards.fetch_add(1);
    absl::Status status;
    do {  // Others pin it now and then.
      status = Persist([&] { return space_.Discard(PagesAt(page, count)); });
    } while (absl::IsFailedPrecondition(status) && !failed_);
    if (!status.ok()) return Refuse("discard", status);
    for (uint64_t p = page; p < page + count; ++p) {
      shadows_[p].counter.store(0);
      shadows_[p].version.store(0);
      shadows_[p].discards.fetch_add(1);
      CheckOwn(p);
    }
  }

  void ChangeBudget(Rng& rng) {
    const uint64_t mib = settings_.budget_mib / 2 + rng() % (settings_.budget_mib + 1);
    const absl::Status status = space_.SetBudget(Bytes(std::max<uint64_t>(mib, 5) << 20));
    if (!status.ok() && !absl::IsResourceExhausted(status)) Refuse("budget", status);
  }

  // A region of its own: written, moved, protected, partly unmapped, all checked.
  void RegionLife(uint32_t thread, Rng& rng) {
    auto made = space_.CreateRegion(Bytes(kZoneSize * (1 + rng() % 2)));
    if (!made.ok()) return Refuse("region", made.status());
    AddressRange range = *made;
    const auto value = [&](uint64_t page) { return (uint64_t{thread} << 56) | (page + 1); };
    uint64_t pages = range.size.raw() / kPageSize;
    const auto at = [&](uint64_t page) {
      return reinterpret_cast<uint64_t*>(range.begin + page * kPageSize);
    };
    const auto verify = [&](uint64_t from, uint64_t to, const char* when) {
      for (uint64_t p = from; p < to && !failed_; ++p) {
        if (*at(p) != value(p)) Fail("{}: page {} of {} holds {:#x}", when, p, pages, *at(p));
      }
    };
    fresh_ = range.begin;
    for (uint64_t p = 0; p < pages; ++p) *at(p) = value(p);
    fresh_ = nullptr;
    if (rng() % 2 == 0) static_cast<void>(space_.Evict({range.begin, Bytes(kZoneSize / 2)}));
    auto moved = space_.Move(range, Bytes(range.size.raw() + kZoneSize));
    for (int again = 0; settings_.mischief && !moved.ok() && again < 1000; ++again) {
      moved = space_.Move(range, Bytes(range.size.raw() + kZoneSize));
    }
    if (!moved.ok()) return Refuse("move", moved.status());
    range = *moved;
    verify(0, pages, "after a move");
    if (*at(pages) != 0) Fail("a grown region's new page holds {:#x}", *at(pages));
    const AddressRange half{range.begin, Bytes(pages / 2 * kPageSize)};
    for (const int protection : {PROT_NONE, PROT_READ, PROT_READ | PROT_WRITE}) {
      const absl::Status status = Persist([&] { return space_.Protect(half, protection); });
      if (!status.ok()) return Refuse(fmt::format("protect {}", protection), status);
      if (protection != PROT_NONE) verify(0, pages / 2, "after mprotect");
    }
    const uint64_t cut = 1 + rng() % (pages - 1);
    absl::Status status = Persist([&] {
      return space_.Unmap({range.begin, Bytes(cut * kPageSize)});
    });
    if (!status.ok()) return Refuse("unmap", status);
    verify(cut, pages, "after a partial unmap");
    const AddressRange rest{range.begin + cut * kPageSize,
                            Bytes(range.size.raw() - cut * kPageSize)};
    status = Persist([&] { return space_.Unmap(rest); });
    if (!status.ok()) return Refuse("unmap", status);
  }

  void VerifyAll() {
    for (uint64_t page = 0; page < pages_ && !failed_; ++page) CheckOwn(page);
  }

  Space& space_;
  const Settings settings_;
  const AddressRange region_;
  const uint64_t pages_;
  std::vector<Shadow> shadows_;
  std::atomic<bool> failed_{false};
  std::atomic<std::byte*> fresh_{nullptr};
  static constexpr uint64_t kNothing = ~uint64_t{0};
  std::atomic<uint64_t> pinned_page_{kNothing};  // The first of a block that a thread pins.
  std::atomic<uint64_t> page_operations_{0};
  uint64_t deadline_ = 0;
};

#ifdef SPIRITOS_FAILPOINTS

// A page is written at most once each time it leaves.
bool WritesMatchDepartures(const Stats& stats) {
  const uint64_t departures = ArrowsTaken(PageState::kResident, PageState::kLeaving);
  const uint64_t writes =
      stats[Metric::kWrittenPages] + stats[Metric::kDiscardedWrites] + stats[Metric::kWriteErrors];
  if (writes <= departures) return true;
  fmt::print("{} writes of pages for {} departures\n", writes, departures);
  return false;
}
#else
bool WritesMatchDepartures(const Stats&) { return true; }
#endif

int Main(int argc, char** argv) {
  Settings settings;
  settings.seed = std::random_device{}();
  bench::CommandLine line("random operations on far memory against a shadow");
  line.Add("--operations", &settings.operations, "page operations in all");
  line.Add("--seed", &settings.seed, "seed; random by default");
  line.Add("--region", &settings.region_mib, "far memory, MiB");
  line.Add("--budget", &settings.budget_mib, "local memory, MiB");
  line.Add("--seconds", &settings.seconds, "time limit; 0 = none");
  line.Add("--min-arrows", &settings.min_arrows, "least count of every arrow");
  line.Add("--file-pool", &settings.file_pool, "pool of this size in a file of its own");
  line.Add("--unruly", &settings.unruly, "a pool that ends requests in any order");
  line.Add("--unseen-pins", &settings.unseen_pins, "evict as if devices stored unseen");
  line.Add("--mischief", &settings.mischief, "kernel calls and pool operations fail now and then");
  line.Add("--chaos", &settings.chaos, "random waits at pause points");
  line.Add("--plant", &settings.plant, "switch a known bug on");
  line.Add("options", &settings.options, "NAME=value space options");
  if (const auto status = line.Parse(argc, argv)) return *status;
  if (!settings.plant.empty() && !Plant(settings.plant)) {
    fmt::print("no planted bug \"{}\" in this build\n", settings.plant);
    return 2;
  }
  if (settings.mischief) HoldGates();
  if (settings.chaos) UnleashChaos();
  const TempDir directory;
  if (!settings.file_pool.empty()) {
    settings.options.push_back("SPIRITOS_POOL=file://" + directory.file("pool"));
    settings.options.push_back("SPIRITOS_POOL_SIZE=" + settings.file_pool);
  }
  auto options = ApplyOptions({.budget = Bytes(settings.budget_mib << 20)}, settings.options);
  const auto make_space = [&]() -> absl::StatusOr<std::unique_ptr<Space>> {
    if (!options.ok()) return options.status();
    if (!settings.unruly) return Space::Create(*options);
    return SpaceTestPeer::Create(
        *options, std::make_unique<UnrulyPool>(16, settings.seed, UnrulyPool::OnTrespass::kStop));
  };
  const auto space = make_space();
  if (!space.ok()) {
    fmt::print("{}\n", space.status().ToString());
    return 2;
  }
  if (settings.unseen_pins && !(*space)->AllowUnseenPins().ok()) return 77;  // Linux < 6.8.
  fmt::print("seed {}\n{}", settings.seed, (*space)->description());
  std::fflush(stdout);
  std::signal(SIGTERM, [](int) { told_to_end = 1; });
  const uint64_t begin = NowNs();
  Stress stress(**space, settings);
  const bool matched = stress.Run();
  (*space)->Drain();
#ifdef SPIRITOS_FAILPOINTS
  Failpoints::DisarmAll();
#endif
  const Stats stats = (*space)->GetStats();
  const auto seconds = static_cast<double>(NowNs() - begin) / 1e9;
  fmt::print(
      "{} page operations, {} faults ({:.0f} %), {} evicted, {} rescues, {} filled guarded, "
      "{} of them stored into, {} filled by evictors, {:.1f} s\n",
      stress.page_operations(), stats[Metric::kFaults],
      100.0 * static_cast<double>(stats[Metric::kFaults]) /
          static_cast<double>(stress.page_operations()),
      stats[Metric::kEvictedPages], stats[Metric::kRescues], stats[Metric::kGuardedPages],
      stats[Metric::kGuardBreaks], stats[Metric::kHelpedPages], seconds);
  fmt::print("longest fault {:.1f} ms, {} slabs mended, {} lost\n",
             static_cast<double>(stats.fault_ns.Quantile(1)) / 1e6, stats.mended_slabs,
             stats.lost_slabs);
  if (!matched) return 1;
  if (const auto census = SpaceTestPeer::Count(**space); census.in_motion() != 0) {
    fmt::print(
        "after a drain {} pages are Loading, {} Leaving, {} Thawing, {} Zapping; {} writes are in "
        "flight, {} zones busy\n",
        census[PageState::kLoading], census[PageState::kLeaving], census[PageState::kThawing],
        census[PageState::kZapping], census.writes_in_flight, census.busy_zones);
    return 1;
  }
  if (!WritesMatchDepartures(stats)) return 1;
  if (stats[Metric::kLostPages] != 0 || stats[Metric::kCorruptPages] != 0) {
    fmt::print("{} lost, {} corrupt\n", stats[Metric::kLostPages], stats[Metric::kCorruptPages]);
    return 1;
  }
  const bool far_pool = settings.unruly || !settings.file_pool.empty() ||
                        options->remote.emulated_latency_ns != 0 ||
                        options->remote.encrypt != Encryption::kNone;
  if (!ReportArrows(settings.min_arrows, far_pool, settings.mischief)) {
    fmt::print("an arrow was taken fewer than {} times\n", settings.min_arrows);
    return 1;
  }
  if (std::min(stats[Metric::kGuardedPages], stats[Metric::kGuardBreaks]) < settings.min_arrows) {
    fmt::print("fewer than {} guarded pages, or stores into them\n", settings.min_arrows);
    return 1;
  }
  if (!far_pool && UsableCores() > 1 && stats[Metric::kHelpedPages] < settings.min_arrows) {
    fmt::print("evictors filled fewer than {} pages\n", settings.min_arrows);
    return 1;
  }
  fmt::print("every byte matched\n");
  return 0;
}

}  // namespace
}  // namespace spiritos

int main(int argc, char** argv) { return spiritos::Main(argc, argv); }
