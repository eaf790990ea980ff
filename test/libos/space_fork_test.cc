// SPDX-License-Identifier: Apache-2.0
// fork(2): parent and child have the memory as of the fork, and then each its own.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "libos/space.h"
#include "test/support/eventually.h"
#include "test/support/server_thread.h"
#include "test/support/stats_pages.h"
#include "test/support/temp_dir.h"
#include "test/support/together.h"

namespace spiritos {
namespace {

constexpr size_t kPages = 8192;

enum class Pool { kEmbedded, kShaped, kServer, kServerCopied, kTcp, kMirrored };

// The server is in a thread of the test's: for children as for their parent, but for one
// that wants to destroy it.
class Rig {
 public:
  explicit Rig(Pool pool = Pool::kEmbedded) {
    Options options{.budget = 8_MiB};
    options.fault.mode = FaultMode::kThread;
    if (pool == Pool::kShaped) options.remote.emulated_latency_ns = 20'000;
    if (pool == Pool::kServer || pool == Pool::kServerCopied) {
      const std::string path = folder_.file("memd.sock");
      server_options_ = {.unix_path = path, .memory = Bytes(24 * kSlabSize), .lock_memory = false};
      RestartServer();
      options.remote.pool = "shm://" + path;
      if (pool == Pool::kServerCopied) options.remote.verify = Verify::kCopied;
    }
    if (pool == Pool::kTcp || pool == Pool::kMirrored) {
      // Two have to fit a small machine.
      const uint64_t slabs = pool == Pool::kMirrored ? 10 : 24;
      // Who ends without a word is known to have ended when his lease is over.
      server_options_ = {.tcp_port = 0,
                         .host = "one",
                         .memory = Bytes(slabs * kSlabSize),
                         .lock_memory = false,
                         .lease_ms = 5'000};
      RestartServer();
      options.remote.pool = server_->tcp().ToString();
    }
    if (pool == Pool::kMirrored) {
      server_options_.host = "two";
      other_ = std::make_unique<ServerThread>(server_options_);
      options.remote.pool += "," + other_->tcp().ToString();
      options.remote.copies = 2;
    }
    auto made = Space::Create(options);
    if (!made.ok()) FAIL(made.status().ToString());
    space_ = *std::move(made);
  }
  ~Rig() { space_.reset(); }
  Rig(const Rig&) = delete;
  Rig& operator=(const Rig&) = delete;
  Space* operator->() { return space_.get(); }
  Space& operator*() { return *space_; }
  // Another one at the same place, that knows of nothing.
  void RestartServer() {
    server_.reset();
    server_ = std::make_unique<ServerThread>(server_options_);
  }
  uint64_t rented() { return server_->server().store().rented(); }

 private:
  const TempDir folder_;
  ServerOptions server_options_;
  std::unique_ptr<ServerThread> server_;
  std::unique_ptr<ServerThread> other_;
  std::unique_ptr<Space> space_;
};

volatile uint64_t& WordOf(AddressRange range, size_t page, size_t word = 0) {
  return reinterpret_cast<volatile uint64_t*>(range.begin + page * kPageSize)[word];
}

// The exit status of a forked child that runs `body`, which returns it; -signal.
template <typename Body>
pid_t Fork(Space& space, Body&& body) {
  REQUIRE(space.BeforeFork());
  const pid_t child = fork();
  if (child != 0) {
    space.AfterForkInParent();
    REQUIRE(child > 0);
    return child;
  }
  alarm(100);
  space.AfterForkInChild();
  _exit(body());
}
int AwaitEnd(pid_t child) {
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

TEST_CASE("a child has the memory as of the fork, and each its own from then on",
          "[space][fork][uffd]") {
  const Pool pool = GENERATE(Pool::kEmbedded, Pool::kShaped, Pool::kServer, Pool::kServerCopied,
                             Pool::kTcp, Pool::kMirrored);
  Rig space(pool);
  const AddressRange range = space->CreateRegion(Bytes(kPages * kPageSize)).value();
  for (size_t page = 0; page < kPages; page += 2) WordOf(range, page) = page + 1;
  const auto wrong = [&](uint64_t added) {
    size_t count = 0;
    for (size_t page = 0; page < kPages; ++page) {
      count += WordOf(range, page) != (page % 2 == 0 ? page + 1 : 0) + added;
    }
    return count;
  };
  const auto add = [&](uint64_t more) {
    for (size_t page = 0; page < kPages; ++page) WordOf(range, page) = WordOf(range, page) + more;
  };
  const pid_t child = Fork(*space, [&] {
    if (wrong(0) != 0) return 1;
    for (int pass = 0; pass < 2; ++pass) add(1000);
    if (wrong(2000) != 0) return 2;
    if (!space->Discard({range.begin, Bytes(64 * kPageSize)}).ok()) return 3;
    if (WordOf(range, 63) != 0 || WordOf(range, 64) != 2065) return 4;
    if (!space->CreateRegion(4_MiB).ok()) return 5;
    return space->GetStats()[Metric::kEvictedPages] > kPages ? 0 : 6;
  });
  for (uint64_t pass = 1; pass <= 3; ++pass) {
    add(1);
    CHECK(wrong(pass) == 0);
  }
  CHECK(AwaitEnd(child) == 0);
  CHECK(wrong(3) == 0);
}

TEST_CASE("a guarded page of a child takes its stores", "[space][fork][uffd]") {
  const Pool pool = GENERATE(Pool::kEmbedded, Pool::kServer, Pool::kTcp);
  Rig space(pool);
  const AddressRange range = space->CreateRegion(Bytes(kPages * kPageSize)).value();
  for (size_t page = 0; page < kPages; ++page) WordOf(range, page) = page + 1;
  uint64_t sum = 0;
  uint64_t passes = 0;
  // Read again and again, pages leave clean and come back guarded.
  for (; space->GetStats()[Metric::kGuardedPages] < kPages; ++passes) {
    for (size_t page = 0; page < kPages; ++page) sum += WordOf(range, page);
  }
  const pid_t child = Fork(*space, [&] {
    for (size_t page = kPages; page-- > 0;) WordOf(range, page) = 7;
    size_t wrong = 0;
    for (size_t page = 0; page < kPages; ++page) wrong += WordOf(range, page) != 7;
    return wrong == 0 ? 0 : 1;
  });
  CHECK(AwaitEnd(child) == 0);
  CHECK(sum == passes * kPages * (kPages + 1) / 2);
}

TEST_CASE("where pins are not seen, what is shared with a child can leave", "[space][fork][uffd]") {
  Rig space;
  if (const absl::Status status = space->AllowUnseenPins(); !status.ok()) {
    REQUIRE(status.code() == absl::StatusCode::kUnimplemented);
    WARN(status.ToString() << ": not run");
    return;
  }
  const AddressRange range = space->CreateRegion(Bytes(kPages * kPageSize)).value();
  for (size_t page = 0; page < kPages; ++page) WordOf(range, page) = page + 1;
  // Every page leaves once and comes back, with a fork's sharing in between.
  const auto leave = [&] {
    const uint64_t before = space->GetStats()[Metric::kPinnedByKernel];
    size_t wrong = space->Evict(range).ok() ? 0 : 1;
    for (size_t page = 0; page < kPages; ++page) wrong += WordOf(range, page) != page + 1;
    return wrong == 0 && space->GetStats()[Metric::kPinnedByKernel] == before;
  };
  std::array<int, 2> ends;
  REQUIRE(pipe(ends.data()) == 0);
  const pid_t child = Fork(*space, [&] {
    close(ends[1]);
    char nothing;
    const bool left = leave();
    return read(ends[0], &nothing, 1) == 0 && left ? 0 : 1;  // The parent is done.
  });
  CHECK(leave());
  close(ends[1]);
  CHECK(AwaitEnd(child) == 0);
  close(ends[0]);
}

TEST_CASE("children of children, while all go on", "[space][fork][uffd]") {
  const Pool pool = GENERATE(Pool::kEmbedded, Pool::kServer, Pool::kTcp);
  Rig space(pool);
  const AddressRange range = space->CreateRegion(Bytes(kPages * kPageSize)).value();
  for (size_t page = 0; page < kPages; ++page) WordOf(range, page) = page;
  const auto count_wrong = [&](uint64_t generation) {
    size_t wrong = 0;
    for (size_t page = 0; page < kPages; ++page) {
      wrong += WordOf(range, page) != page + generation * kPages;
    }
    return wrong == 0 ? 0 : 1;
  };
  const auto advance = [&] {
    for (size_t page = 0; page < kPages; ++page) WordOf(range, page) = WordOf(range, page) + kPages;
  };
  const pid_t child = Fork(*space, [&] {
    advance();
    const pid_t grandchild = Fork(*space, [&] {
      advance();
      return count_wrong(2);
    });
    advance();
    advance();
    return AwaitEnd(grandchild) != 0 ? 2 : count_wrong(3);
  });
  CHECK(count_wrong(0) == 0);
  CHECK(AwaitEnd(child) == 0);
  CHECK(count_wrong(0) == 0);
}

TEST_CASE("forks amid other threads' stores and pins", "[space][fork][uffd]") {
  const auto seed = std::random_device()();
  CAPTURE(seed);
  const Pool pool = GENERATE(Pool::kEmbedded, Pool::kServer, Pool::kTcp);
  Rig space(pool);
  const AddressRange range = space->CreateRegion(Bytes(kPages * kPageSize)).value();
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> steps{0};
  constexpr size_t kThreads = 3;
  std::vector<std::vector<uint64_t>> expected(kThreads, std::vector<uint64_t>(kPages));
  std::vector<std::thread> threads;
  for (size_t t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937_64 random(seed + t);
      while (!stop.load(std::memory_order_relaxed)) {
        const size_t page = random() % kPages;
        const AddressRange pinned{range.begin + page * kPageSize, Bytes(kPageSize)};
        const bool pins = random() % 4 == 0 && space->Pin(pinned).ok();
        // A word and its double: a fork comes before both or between them.
        WordOf(range, page, 2 * t) = ++expected[t][page];
        WordOf(range, page, 2 * t + 1) = 2 * expected[t][page];
        if (pins) space->Unpin(pinned);
        steps.fetch_add(1, std::memory_order_relaxed);
      }
    });
  }
  size_t failed = 0;
  for (uint32_t i = 0; i < Rounds(8); ++i) {
    const uint64_t since = steps.load();
    while (steps.load() < since + 500) std::this_thread::yield();
    const pid_t child = Fork(*space, [&] {
      const auto torn = [&] {
        size_t count = 0;
        for (size_t page = 0; page < kPages; ++page) {
          for (size_t t = 0; t < kThreads; ++t) {
            const uint64_t word = WordOf(range, page, 2 * t);
            const uint64_t twice = WordOf(range, page, 2 * t + 1);
            if (twice != 2 * word) count += twice == 2 * (word - 1) ? 1 : 1000;
          }
        }
        return count;
      };
      const size_t before = torn();
      if (before > kThreads) return 1;
      WordOf(range, i % kPages, 6) = i;
      return torn() == before && WordOf(range, i % kPages, 6) == i ? 0 : 2;
    });
    failed += AwaitEnd(child) != 0 ? 1 : 0;
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
  CHECK(failed == 0);
  size_t wrong = 0;
  for (size_t t = 0; t < kThreads; ++t) {
    for (size_t page = 0; page < kPages; ++page) {
      wrong += WordOf(range, page, 2 * t) != expected[t][page];
    }
  }
  CHECK(wrong == 0);
}

TEST_CASE("after a fork for each of many jobs the pool holds what it held", "[space][fork][uffd]") {
  const Pool pool = GENERATE(Pool::kServer, Pool::kTcp);
  Rig space(pool);
  const AddressRange range = space->CreateRegion(Bytes(kPages * kPageSize)).value();
  // A third of the pages is stored into by each job.
  const auto value = [](size_t page, uint64_t job) {
    return page + (job + 2 - page % 3) / 3 * kPages;
  };
  for (size_t page = 0; page < kPages; ++page) WordOf(range, page) = value(page, 0);
  const uint64_t before = space.rented();
  REQUIRE(before != 0);
  const uint64_t jobs = Rounds(12);
  for (uint64_t job = 1; job <= jobs; ++job) {
    const pid_t child = Fork(*space, [&] {
      size_t wrong = 0;
      for (size_t page = 0; page < kPages; ++page) {
        wrong += WordOf(range, page) != value(page, job - 1);
        WordOf(range, page) = 0;
      }
      return wrong == 0 ? 0 : 1;
    });
    for (size_t page = 0; page < kPages; ++page) {
      if (value(page, job) != value(page, job - 1)) WordOf(range, page) = value(page, job);
    }
    REQUIRE(AwaitEnd(child) == 0);
  }
  Eventually("what the children had is free", [&] { return space.rented() == before; });
  size_t wrong = 0;
  for (size_t page = 0; page < kPages; ++page) wrong += WordOf(range, page) != value(page, jobs);
  CHECK(wrong == 0);
  CHECK(space->GetStats()[Metric::kMergedPages] > 0);
  CHECK(space->GetStats()[Metric::kCorruptPages] == 0);
}

TEST_CASE("parent and child keep what they share when their server is another one",
          "[space][fork][uffd]") {
  Rig space(Pool::kServer);
  const AddressRange range = space->CreateRegion(Bytes(kPages * kPageSize)).value();
  for (size_t page = 0; page < kPages; ++page) WordOf(range, page) = page;
  std::array<int, 2> ends;
  REQUIRE(pipe(ends.data()) == 0);
  const auto wrong_after = [&](uint64_t added) {
    size_t wrong = 0;
    for (size_t page = 0; page < kPages; ++page) {
      wrong += WordOf(range, page) != page + (page % 2 == 0 ? added : 0);
    }
    return wrong;
  };
  const auto add = [&](uint64_t more) {
    for (size_t page = 0; page < kPages; page += 2) WordOf(range, page) = page + more;
  };
  const pid_t child = Fork(*space, [&] {
    close(ends[1]);
    add(1'000'000);
    char nothing;
    if (read(ends[0], &nothing, 1) != 0) return 1;  // Both servers have been seen.
    if (wrong_after(1'000'000) != 0) return 2;
    add(2'000'000);
    return wrong_after(2'000'000) == 0 ? 0 : 3;
  });
  close(ends[0]);
  add(3'000'000);
  space.RestartServer();
  Eventually("the parent's slabs are adopted", [&] { return space.rented() != 0; });
  add(4'000'000);
  close(ends[1]);
  CHECK(wrong_after(4'000'000) == 0);
  CHECK(AwaitEnd(child) == 0);
  add(5'000'000);
  CHECK(wrong_after(5'000'000) == 0);
  CHECK(space->GetStats()[Metric::kCorruptPages] == 0);
}

TEST_CASE("where a child cannot have the memory, it is not there", "[space][fork][uffd]") {
  auto space = Space::Create({.budget = 8_MiB}).value();  // Faults are signals.
  const AddressRange range = space->CreateRegion(16_MiB).value();
  WordOf(range, 1) = 5;
  CHECK(!space->BeforeFork());
  const pid_t child = fork();
  if (child == 0) {
    signal(SIGSEGV, SIG_DFL);
    _exit(WordOf(range, 1) == 5 ? 0 : 1);
  }
  space->AfterForkInParent();
  CHECK(AwaitEnd(child) == -SIGSEGV);
  CHECK(WordOf(range, 1) == 5);
}

TEST_CASE("after a fork each process has a page of its own", "[stats][space][fork][uffd]") {
  const Options options{.budget = 8_MiB, .fault = {.mode = FaultMode::kThread}};
  const auto space = Space::Create(options).value();
  const AddressRange region = space->CreateRegion(16_MiB).value();
  for (size_t at = 0; at < region.size.raw(); at += kPageSize) region.begin[at] = std::byte(1);
  REQUIRE(space->BeforeFork());
  const pid_t child = fork();
  if (child == 0) {
    space->AfterForkInChild();
    bool own = false;
    Eventually("the child's page says its number", [&] {
      const nlohmann::json page = OnlyStatsPage();
      own = !page.is_null() && page["pid"] == getpid();
      return own;
    });
    _exit(own ? 0 : 1);
  }
  space->AfterForkInParent();
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  CHECK(status == 0);
  CHECK(OnlyStatsPage()["pid"] == getpid());
}

}  // namespace
}  // namespace spiritos
