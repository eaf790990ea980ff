// SPDX-License-Identifier: Apache-2.0
// The pool's file: whose it is, what it may take, and what happens when space ends.
#include "libos/remote/file_backend.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <cerrno>
#include <deque>
#include <fstream>
#include <thread>

#include "libos/remote/pool_factory.h"
#include "test/libos/remote/remote_rig.h"
#include "test/support/child.h"
#include "test/support/small_file_system.h"
#include "test/support/together.h"

namespace spiritos {
namespace {

using Catch::Matchers::Contains;

constexpr Bytes kTwoSlabs(2 * kSlabSize);

std::string MessageOf(const RemoteOptions& options) {
  const auto pool = MakePool(options);
  return pool.ok() ? "no error" : std::string(pool.status().message());
}

uint64_t SpaceOf(const std::string& path) {
  struct stat info {};
  REQUIRE(stat(path.c_str(), &info) == 0);
  return static_cast<uint64_t>(info.st_blocks) * 512;
}

TEST_CASE("an address that names no pool is refused with the variable's name", "[remote]") {
  for (const char* address : {"", "file:", "file://", "file://relative", "tape:///dev/st0"}) {
    CHECK_THAT(MessageOf({.pool = address}), Contains("SPIRITOS_POOL"));
    CHECK_THAT(MessageOf({.pool = address}),
               Contains("none of embedded:, file:///path, shm:///socket, tcp://host:port"));
  }
}

TEST_CASE("a file that cannot be a pool is refused with its path and the variable", "[remote]") {
  TempDir dir;
  const auto message = [&](const std::string& path, Bytes size = kTwoSlabs) {
    return MessageOf({.pool = "file://" + path, .pool_size = size});
  };
  CHECK_THAT(message(dir.file("none/pool")), Contains(dir.file("none/pool")) &&
                                                 Contains("No such file") &&
                                                 Contains("SPIRITOS_POOL"));
  CHECK_THAT(message(dir.path()), Contains(dir.path()) && Contains("SPIRITOS_POOL"));
  CHECK_THAT(message("/dev/null"), Contains("/dev/null") && Contains("SPIRITOS_POOL"));
  CHECK_THAT(message(dir.file("pool"), Bytes(kSlabSize - 1)), Contains("SPIRITOS_POOL_SIZE"));
  CHECK_THAT(message(dir.file("pool"), Bytes(uint64_t{1} << 62)), Contains("SPIRITOS_POOL_SIZE"));
}

TEST_CASE("a file that is no pool's keeps its bytes", "[remote]") {
  TempDir dir;
  std::ofstream(dir.file("letter")) << "dear reader";
  CHECK_THAT(MessageOf({.pool = "file://" + dir.file("letter"), .pool_size = kTwoSlabs}),
             Contains(dir.file("letter")) && Contains("SPIRITOS_POOL"));
  std::string text;
  std::getline(std::ifstream(dir.file("letter")), text);
  CHECK(text == "dear reader");
}

TEST_CASE("a file has one pool at a time, and can have the next at once", "[remote]") {
  TempDir dir;
  const std::string path = dir.file("pool");
  for (int round = 0; round < 3; ++round) {
    auto first = FileBackend::Create(path, kTwoSlabs);
    INFO(first.status().ToString());
    REQUIRE(first.ok());
    CHECK_THAT(MessageOf({.pool = "file://" + path, .pool_size = kTwoSlabs}),
               Contains(path) && Contains("in use") && Contains("SPIRITOS_POOL"));
  }
}

TEST_CASE("a pool's file is private, takes space by slabs and gives it back", "[remote]") {
  TempDir dir;
  const std::string path = dir.file("pool");
  {
    auto pool = FileBackend::Create(path, kTwoSlabs);
    REQUIRE(pool.ok());
    struct stat info {};
    REQUIRE(stat(path.c_str(), &info) == 0);
    CHECK((info.st_mode & 0777) == 0600);
    CHECK(SpaceOf(path) < (1 << 20));
    SlotId slab;
    REQUIRE((*pool)->PlaceSlab(&slab) == IoResult::kOk);
    CHECK(SpaceOf(path) >= kSlabSize);
    (*pool)->Forget(slab, kSlabPages / 2);
    CHECK(SpaceOf(path) <= kSlabSize / 2 + (1 << 20));
    (*pool)->ReleaseSlab(slab);
    CHECK(SpaceOf(path) < (1 << 20));
    REQUIRE((*pool)->PlaceSlab(&slab) == IoResult::kOk);
  }
  CHECK(SpaceOf(path) == 0);
}

TEST_CASE("what a killed process left behind is emptied", "[remote]") {
  TempDir dir;
  const std::string path = dir.file("pool");
  const ChildEnd end = RunInChild([&] {
    auto pool = FileBackend::Create(path, kTwoSlabs);
    SlotId slab;
    if (!pool.ok() || (*pool)->PlaceSlab(&slab) != IoResult::kOk) return 1;
    return raise(SIGKILL);
  });
  REQUIRE(end.signal == SIGKILL);
  CHECK(SpaceOf(path) >= kSlabSize);
  // The kernel ends the dead one's rings, and with them its lock, in its own time.
  absl::StatusOr<std::unique_ptr<FileBackend>> pool;
  YieldUntil([&] {
    pool = FileBackend::Create(path, kTwoSlabs);
    return pool.ok() || !absl::IsFailedPrecondition(pool.status());
  });
  INFO(pool.status().ToString());
  REQUIRE(pool.ok());
  CHECK(SpaceOf(path) < (1 << 20));
}

TEST_CASE("a child that ends leaves its parent's pool alone", "[remote]") {
  TempDir dir;
  auto pool = FileBackend::Create(dir.file("pool"), kTwoSlabs);
  REQUIRE(pool.ok());
  SlotId slab;
  REQUIRE((*pool)->PlaceSlab(&slab) == IoResult::kOk);
  const Pages page(1);
  WritePage(page[0], 1, 1);
  REQUIRE(Run(**pool, IoOp::kWrite, Lane::kWriteBack, slab, 1, page[0]) == 0);
  const ChildEnd end = RunInChild([&] {
    pool->reset();
    return 0;
  });
  CHECK(end.status == 0);
  CHECK_THAT(MessageOf({.pool = "file://" + dir.file("pool"), .pool_size = kTwoSlabs}),
             Contains("in use"));
  std::memset(page[0], 0, kPageSize);
  REQUIRE(Run(**pool, IoOp::kRead, Lane::kDemand, slab, 1, page[0]) == 0);
  CHECK(PageHolds(page[0], 1, 1));
}

TEST_CASE("without a size a pool takes what the file system has free", "[remote]") {
  TempDir dir;
  auto pool = FileBackend::Create(dir.file("pool"), Bytes(0));
  INFO(pool.status().ToString());
  if (!pool.ok() && absl::IsResourceExhausted(pool.status())) {
    WARN("skipped: less than a slab is free in " << dir.path());
    return;
  }
  REQUIRE(pool.ok());
  const uint64_t free = std::filesystem::space(dir.path()).available;
  CHECK((*pool)->capacity().raw() >= kSlabSize);
  CHECK((*pool)->capacity().raw() <= free + free / 4);
}

TEST_CASE("a pool above the limit of a file's size is refused, not killed", "[remote]") {
  TempDir dir;
  const ChildEnd end = RunInChild([&] {
    const rlimit limit{kSlabSize, kSlabSize};
    setrlimit(RLIMIT_FSIZE, &limit);
    const auto big = FileBackend::Create(dir.file("big"), kTwoSlabs);
    const auto fitting = FileBackend::Create(dir.file("fitting"), Bytes(0));
    std::puts(big.status().ToString().c_str());
    std::fflush(nullptr);
    return big.ok() || !fitting.ok() || (*fitting)->capacity() != Bytes(kSlabSize) ? 1 : 0;
  });
  INFO(end.text);
  CHECK(end.status == 0);
  CHECK_THAT(end.text, Contains("SPIRITOS_POOL_SIZE"));
}

TEST_CASE("a full file system refuses a slab and fails writes into holes", "[remote]") {
  const auto io = GENERATE(FileBackend::Io::kRings, FileBackend::Io::kSynchronous);
  IoResult first_placed{};
  IoResult second_placed{};
  IoResult again_placed{};
  int in_slab = -1;
  int in_hole = -1;
  int beside_hole = -1;
  std::string error;
  const bool ran = OnSmallFileSystem(kSlabSize + kSlabSize / 2, [&](const TempDir& dir) {
    auto pool = FileBackend::Create(dir.file("pool"), kTwoSlabs, io);
    if (!pool.ok()) {
      error = pool.status().ToString();
      return;
    }
    const Pages pages(64);
    SlotId slab;
    SlotId none;
    first_placed = (*pool)->PlaceSlab(&slab);
    second_placed = (*pool)->PlaceSlab(&none);
    in_slab = Run(**pool, IoOp::kWrite, Lane::kWriteBack, slab, 64, pages[0]);
    (*pool)->Forget(slab, 64);
    {  // Somebody else takes the space.
      std::ofstream filler(dir.file("filler"));
      const std::string block(1 << 20, 'x');
      while (filler.write(block.data(), static_cast<std::streamsize>(block.size())).flush()) {
      }
    }
    {
      std::ofstream filler(dir.file("crumbs"));
      while (filler.write("crumb", 5).flush()) {
      }
    }
    in_hole = Run(**pool, IoOp::kWrite, Lane::kWriteBack, slab, 64, pages[0]);
    beside_hole = Run(**pool, IoOp::kWrite, Lane::kWriteBack, slab + PageCount(64), 64, pages[0]);
    (*pool)->ReleaseSlab(slab);
    again_placed = (*pool)->PlaceSlab(&slab);
  });
  if (!ran) return;
  INFO(error);
  REQUIRE(error.empty());
  CHECK(first_placed == IoResult::kOk);
  CHECK(second_placed == IoResult::kNoSpace);
  CHECK(in_slab == 0);
  CHECK(in_hole == ENOSPC);
  CHECK(beside_hole == 0);
  CHECK(again_placed == IoResult::kNoSpace);
}

TEST_CASE("a file system with less than a slab free is refused", "[remote]") {
  std::string text;
  if (!OnSmallFileSystem(kSlabSize / 2, [&](const TempDir& dir) {
        text = MessageOf({.pool = "file://" + dir.file("pool")});
      })) {
    return;
  }
  CHECK_THAT(text, Contains("less than a slab") && Contains("SPIRITOS_POOL"));
}

TEST_CASE("memory that cannot be read fails its write alone", "[remote]") {
  TempDir dir;
  auto pool = FileBackend::Create(dir.file("pool"), kTwoSlabs);
  REQUIRE(pool.ok());
  SlotId slab;
  REQUIRE((*pool)->PlaceSlab(&slab) == IoResult::kOk);
  const Pages pages(2);
  REQUIRE(mprotect(pages[1], kPageSize, PROT_NONE) == 0);
  IoRequest good;
  IoRequest bad;
  Prepare(bad, IoOp::kWrite, Lane::kWriteBack, slab, 1, pages[1]);
  Prepare(good, IoOp::kWrite, Lane::kWriteBack, slab + PageCount(1), 1, pages[0]);
  SubmitWhenFree(**pool, bad);
  SubmitWhenFree(**pool, good);
  (*pool)->Wait(bad);
  (*pool)->Wait(good);
  CHECK(bad.status.load() == IoStatus::kFailed);
  CHECK(bad.error == EFAULT);
  CHECK(good.status.load() == IoStatus::kDone);
}

TEST_CASE("read-ahead under way does not interrupt its thread's system calls", "[remote]") {
  TempDir dir;
  // A child, for the end of a ring interrupts whoever has used it: pools of other
  // tests must not have been this thread's.
  const ChildEnd end = RunInChild([&] {
    auto pool = FileBackend::Create(dir.file("pool"), kTwoSlabs);
    SlotId slab;
    if (!pool.ok() || (*pool)->PlaceSlab(&slab) != IoResult::kOk) return 100;
    const Pages pages(64);
    // What was never written takes no time to read.
    if (Run(**pool, IoOp::kWrite, Lane::kWriteBack, slab, 64, pages[0]) != 0) return 102;
    const UniqueFd epoll(epoll_create1(EPOLL_CLOEXEC));
    int interrupted = 0;
    for (int round = 0; round < 50; ++round) {
      IoRequest request;
      Prepare(request, IoOp::kRead, Lane::kPrefetch, slab, 64, pages[0]);
      SubmitWhenFree(**pool, request);
      epoll_event event;
      if (epoll_wait(epoll.get(), &event, 1, 2) != 0) ++interrupted;
      (*pool)->Wait(request);
      if (request.status.load() != IoStatus::kDone) return 101;
    }
    return interrupted;
  });
  INFO(end.text);
  CHECK(end.status == 0);
}

TEST_CASE("the factory shapes a pool when a distance is asked for", "[remote]") {
  TempDir dir;
  const auto text = [&](const RemoteOptions& options) {
    const auto pool = MakePool(options);
    INFO(pool.status().ToString());
    REQUIRE(pool.ok());
    return (*pool)->description();
  };
  const std::string file = "file://" + dir.file("pool");
  CHECK_THAT(text({.pool_size = kTwoSlabs}), !Contains("emulated"));
  CHECK_THAT(text({.pool = file, .pool_size = kTwoSlabs}),
             Contains(dir.file("pool")) && !Contains("emulated"));
  CHECK_THAT(text({.pool_size = kTwoSlabs, .emulated_latency_ns = 5000}),
             Contains("emulated") && Contains("5.0 us"));
  CHECK_THAT(text({.pool = file, .pool_size = kTwoSlabs, .emulated_bytes_per_second = 1'000'000}),
             Contains("emulated") && Contains("1.0 MB/s") && Contains(dir.file("pool")));
}

}  // namespace
}  // namespace spiritos
