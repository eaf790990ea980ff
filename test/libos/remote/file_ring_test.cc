// SPDX-License-Identifier: Apache-2.0
// The ring on a pipe instead of a file: a read completes when the test feeds it.
#include "libos/remote/file_ring.h"

#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include <cerrno>
#include <deque>
#include <fstream>
#include <random>
#include <thread>

#include "libos/base/clock.h"
#include "test/libos/remote/remote_rig.h"
#include "test/support/together.h"

namespace spiritos {
namespace {

class PipeRig {
 public:
  PipeRig() {
    REQUIRE(pipe2(ends_, O_CLOEXEC) == 0);
    fcntl(ends_[1], F_SETPIPE_SZ, 1 << 20);
    error_ = ring_->Init(ends_[0]);
    if (error_ != 0) WARN("skipped: no io_uring: " << std::strerror(error_));
  }
  ~PipeRig() {
    if (error_ == 0) ring_->Close();
    close(ends_[0]);
    CloseFeed();
  }
  bool usable() const { return error_ == 0; }
  FileRing& ring() { return *ring_; }

  void Feed(uint32_t pages, size_t bytes = kPageSize) const {
    const std::byte page[kPageSize]{};
    for (uint32_t i = 0; i < pages; ++i) {
      if (write(ends_[1], page, bytes) != static_cast<ssize_t>(bytes)) std::abort();
    }
  }
  void CloseFeed() {
    if (ends_[1] >= 0) close(ends_[1]);
    ends_[1] = -1;
  }
  void Submit(IoRequest& request, uint32_t pages = 1) {
    Prepare(request, IoOp::kRead, Lane::kDemand, SlotId(0), pages, memory_[0]);
    if (ring_->Submit(request) != IoResult::kOk) std::abort();
  }

 private:
  int ends_[2] = {-1, -1};
  int error_ = 0;
  std::unique_ptr<FileRing> ring_ = std::make_unique<FileRing>();
  Pages memory_{8};
};

// Returns once thread `tid` sleeps in system call `number`, or at once where the
// kernel does not say what threads do.
void AwaitSystemCall(const std::atomic<pid_t>& tid, long number) {
  YieldUntil([&] { return tid.load() != 0; });
  YieldUntil([&] {
    std::ifstream file("/proc/self/task/" + std::to_string(tid.load()) + "/syscall");
    std::string first;
    return !(file >> first) || first == std::to_string(number);
  });
}

TEST_CASE("a request that the kernel cuts short is carried on to its end", "[remote]") {
  PipeRig rig;
  if (!rig.usable()) return;
  IoRequest request;
  rig.Submit(request, 3);
  rig.Feed(1);
  while (rig.ring().Poll()) {
  }
  CHECK_FALSE(request.final());
  rig.Feed(2);
  FileRing::Wait(request);
  CHECK(request.status.load() == IoStatus::kDone);
}

TEST_CASE("a file that ends early fails the request with EIO", "[remote]") {
  PipeRig rig;
  if (!rig.usable()) return;
  IoRequest request;
  rig.Submit(request, 2);
  rig.Feed(1);
  rig.CloseFeed();
  FileRing::Wait(request);
  CHECK(request.status.load() == IoStatus::kFailed);
  CHECK(request.error == EIO);
}

TEST_CASE("a ring refuses more than its window and takes again what it finished", "[remote]") {
  PipeRig rig;
  if (!rig.usable()) return;
  std::deque<IoRequest> requests(FileRing::kWindow);
  for (IoRequest& request : requests) rig.Submit(request);
  IoRequest more;
  Prepare(more, IoOp::kRead, Lane::kDemand, SlotId(0), 1, requests[0].memory);
  REQUIRE(rig.ring().Submit(more) == IoResult::kBusy);
  CHECK(more.status.load() == IoStatus::kIdle);
  rig.Feed(1);
  YieldUntil([&] { return rig.ring().Poll(); });
  REQUIRE(rig.ring().Submit(more) == IoResult::kOk);
  rig.Feed(FileRing::kWindow);
  for (IoRequest& request : requests) FileRing::Wait(request);
  FileRing::Wait(more);
  CHECK(more.status.load() == IoStatus::kDone);
}

TEST_CASE("a sleeping leader returns though another thread reaps its completion", "[remote]") {
  PipeRig rig;
  if (!rig.usable()) return;
  for (uint32_t round = 0; round < Rounds(100); ++round) {
    IoRequest request;
    rig.Submit(request);
    std::atomic<pid_t> tid{0};
    std::thread leader([&] {
      tid.store(gettid());
      FileRing::Wait(request);
    });
    AwaitSystemCall(tid, SYS_io_uring_enter);
    rig.Feed(1);
    YieldUntil([&] {
      rig.ring().Poll();
      return request.final();
    });
    leader.join();
  }
}

// A gate before the system call in which a leader sleeps. For the thread that
// closes it, a filter turns that call into SIGSYS, whose handler makes it after
// the gate was opened. The filter knows the handler's call by its last argument,
// which means nothing here.
class SleepGate {
 public:
  // For the rest of the calling thread's life. False where filters are refused.
  static bool Close() {
    stopped.store(false);
    open.store(false);
    struct sigaction action {};
    action.sa_sigaction = Handle;
    action.sa_flags = SA_SIGINFO;
    sigaction(SIGSYS, &action, nullptr);
    constexpr auto kArgument = [](unsigned n) {
      return static_cast<uint32_t>(offsetof(seccomp_data, args) + 8 * n);
    };
    sock_filter rules[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_enter, 0, 5),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, kArgument(2)),  // Completions to wait for.
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 3, 0),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, kArgument(5)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, kOurs, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    const sock_fprog program{std::size(rules), rules};
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
  }

  static inline std::atomic<bool> stopped{false};  // The thread is at the gate.
  static inline std::atomic<bool> open{false};

 private:
  static constexpr uint32_t kOurs = 77;

  static void Handle(int, siginfo_t*, void* context) {
    greg_t* const registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
    stopped.store(true);
    while (!open.load()) sched_yield();
    const long result = syscall(SYS_io_uring_enter, registers[REG_RDI], registers[REG_RSI],
                                registers[REG_RDX], registers[REG_R10], nullptr, kOurs);
    registers[REG_RAX] = result < 0 ? -errno : result;
  }
};

TEST_CASE("a leader about to sleep returns though its completion is reaped meanwhile", "[remote]") {
  PipeRig rig;
  if (!rig.usable()) return;
  IoRequest request;
  IoRequest other;
  rig.Submit(request);
  std::atomic<bool> refused{false};
  std::thread leader([&] {
    if (!SleepGate::Close()) {
      refused.store(true);
      return;
    }
    FileRing::Wait(request);
  });
  YieldUntil([&] { return SleepGate::stopped.load() || refused.load(); });
  rig.Feed(1);
  YieldUntil([&] {
    rig.ring().Poll();
    return request.final();
  });
  // Nor is it hidden by what completes after it.
  rig.Submit(other);
  rig.Feed(1);
  YieldUntil([&] {
    rig.ring().Poll();
    return other.final();
  });
  SleepGate::open.store(true);
  leader.join();
  if (refused.load()) WARN("skipped: no system call filters");
  CHECK(request.status.load() == IoStatus::kDone);
}

TEST_CASE("completions go on while a leader whose request is done does not run", "[remote]") {
  PipeRig rig;
  if (!rig.usable()) return;
  IoRequest awaited;
  rig.Submit(awaited);
  std::atomic<pid_t> tid{0};
  std::thread leader([&] {
    tid.store(gettid());
    FileRing::Wait(awaited);
  });
  AwaitSystemCall(tid, SYS_io_uring_enter);
  // Whatever the leader does meanwhile, these are served by polling alone.
  for (uint32_t i = 0; i < 2000; ++i) {
    IoRequest request;
    rig.Submit(request);
    rig.Feed(1);
    if (i == 0) rig.Feed(1);
    YieldUntil([&] {
      rig.ring().Poll();
      return request.final();
    });
  }
  leader.join();
  CHECK(awaited.final());
}

TEST_CASE("followers are woken for their own request and lead when the leader leaves", "[remote]") {
  constexpr uint32_t kWaiters = 4;
  PipeRig rig;
  if (!rig.usable()) return;
  for (uint32_t round = 0; round < Rounds(100); ++round) {
    std::array<IoRequest, kWaiters> requests;
    std::array<std::atomic<pid_t>, kWaiters> tids{};
    std::atomic<uint32_t> back{0};
    for (IoRequest& request : requests) rig.Submit(request);
    std::vector<std::thread> waiters;
    for (uint32_t w = 0; w < kWaiters; ++w) {
      waiters.emplace_back([&, w] {
        tids[w].store(gettid());
        FileRing::Wait(requests[w]);
        ++back;
      });
      if (round % 2 == 0) AwaitSystemCall(tids[w], w == 0 ? SYS_io_uring_enter : SYS_futex);
    }
    // Nobody polls: each page must end the wait of one thread, whichever it is.
    for (uint32_t fed = 1; fed <= kWaiters; ++fed) {
      rig.Feed(1);
      YieldUntil([&] { return back.load() >= fed; });
    }
    for (std::thread& waiter : waiters) waiter.join();
  }
}

TEST_CASE("waiters, pollers and a feeder with no rhythm never leave a waiter asleep", "[remote]") {
  constexpr uint32_t kWaiters = 4;
  const uint64_t seed = TestSeed();
  INFO("SPIRITOS_TEST_SEED=" << seed);
  PipeRig rig;
  if (!rig.usable()) return;
  const uint32_t rounds = Rounds(3000);
  std::atomic<uint32_t> submitted{0};
  std::atomic<uint32_t> finished{0};
  RunTogether(kWaiters + 2, [&](uint32_t thread) {
    std::mt19937_64 random(seed + thread);
    if (thread == kWaiters) {  // Feeds what was asked for, sometimes late.
      for (uint32_t fed = 0; fed < kWaiters * rounds; ++fed) {
        YieldUntil([&] { return submitted.load() > fed; });
        for (uint64_t i = random() % 64; i != 0; --i) sched_yield();
        rig.Feed(1);
      }
    } else if (thread == kWaiters + 1) {  // Polls now and then.
      while (finished.load() < kWaiters * rounds) {
        for (uint64_t i = random() % 256; i != 0; --i) sched_yield();
        rig.ring().Poll();
      }
    } else {
      for (uint32_t round = 0; round < rounds; ++round) {
        IoRequest request;
        rig.Submit(request);
        ++submitted;
        if (random() % 4 == 0) sched_yield();
        FileRing::Wait(request);
        ++finished;
      }
    }
  });
  CHECK(finished == kWaiters * rounds);
}

TEST_CASE("a request outlives the thread that submitted it", "[remote]") {
  PipeRig rig;
  if (!rig.usable()) return;
  IoRequest request;
  std::thread([&] { rig.Submit(request); }).join();
  rig.Feed(1);
  FileRing::Wait(request);
  CHECK(request.status.load() == IoStatus::kDone);
}

}  // namespace
}  // namespace spiritos
