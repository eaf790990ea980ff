// SPDX-License-Identifier: Apache-2.0
// A userfaultfd in SIGBUS mode with the shortest handler there is.
#include "bench/floor.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <random>
#include <thread>
#include <vector>

#include "bench/harness.h"
#include "libos/base/check.h"
#include "libos/base/clock.h"
#include "libos/base/core.h"
#include "libos/base/units.h"

namespace spiritos::bench {
namespace {

int uffd = -1;
std::byte* target = nullptr;
std::byte* pool = nullptr;
bool step_over = false;
uint64_t run_bytes = kPageSize;

std::byte* MapPages(uint32_t pages) {
  void* p = mmap(nullptr, size_t{pages} << kPageShift, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  SPIRITOS_CHECK(p != MAP_FAILED, "mmap of {} pages", pages);
  madvise(p, size_t{pages} << kPageShift, MADV_NOHUGEPAGE);
  return static_cast<std::byte*>(p);
}

void CopyIn(uint64_t offset) {
  uffdio_copy copy{.dst = reinterpret_cast<uintptr_t>(target) + offset,
                   .src = reinterpret_cast<uintptr_t>(pool) + offset,
                   .len = run_bytes,
                   .mode = UFFDIO_COPY_MODE_DONTWAKE,
                   .copy = 0};
  if (ioctl(uffd, UFFDIO_COPY, &copy) != 0) abort();
}

// A load of the form `movzbl (%rax), %eax` is three bytes long.
constexpr int kLoadLength = 3;

void OnSigbus(int, siginfo_t* info, void* context) {
  if (step_over) {
    static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_RIP] += kLoadLength;
    return;
  }
  const auto offset = static_cast<uint64_t>(static_cast<std::byte*>(info->si_addr) - target);
  CopyIn(offset & ~(run_bytes - 1));
}

void LoadByte(const std::byte* at) { asm volatile("movzbl (%%rax), %%eax" : : "a"(at) : "memory"); }

template <typename Body>
double NsPerRun(const std::vector<uint32_t>& order, Body&& body) {
  const uint64_t begin = NowNs();
  for (const uint32_t index : order) body(index * run_bytes);
  return static_cast<double>(NowNs() - begin) / static_cast<double>(order.size());
}

}  // namespace

FloorCosts MeasureFloor(uint32_t pages, uint32_t run, bool pinned) {
  run_bytes = uint64_t{run} << kPageShift;
  uffd = static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC | 1 /* UFFD_USER_MODE_ONLY */));
  uffdio_api api{.api = UFFD_API, .features = UFFD_FEATURE_SIGBUS, .ioctls = 0};
  SPIRITOS_CHECK(uffd >= 0 && ioctl(uffd, UFFDIO_API, &api) == 0, "userfaultfd: errno {}", errno);
  target = MapPages(pages);
  pool = MapPages(pages);
  std::memset(pool, 0x5A, size_t{pages} << kPageShift);
  uffdio_register request{
      .range = {.start = reinterpret_cast<uintptr_t>(target), .len = uint64_t{pages} << kPageShift},
      .mode = UFFDIO_REGISTER_MODE_MISSING,
      .ioctls = 0};
  SPIRITOS_CHECK(ioctl(uffd, UFFDIO_REGISTER, &request) == 0, "UFFDIO_REGISTER: errno {}", errno);
  struct sigaction action {};
  action.sa_sigaction = OnSigbus;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigfillset(&action.sa_mask);
  sigaction(SIGBUS, &action, nullptr);

  std::vector<uint32_t> order(pages / run);
  std::iota(order.begin(), order.end(), 0u);
  std::shuffle(order.begin(), order.end(), std::mt19937(1));
  FloorCosts costs;
  step_over = true;
  costs.signal_ns = NsPerRun(order, [](uint64_t offset) { LoadByte(target + offset); });
  step_over = false;
  costs.fault_ns = NsPerRun(order, [](uint64_t offset) { LoadByte(target + offset); });
  costs.load_ns = NsPerRun(order, [](uint64_t offset) { LoadByte(target + offset); });
  madvise(target, size_t{pages} << kPageShift, MADV_DONTNEED);
  const std::vector<uint32_t> mine(order.begin(), order.begin() + order.size() / 2);
  const std::vector<uint32_t> others(order.begin() + order.size() / 2, order.end());
  std::atomic<bool> go{false};
  std::thread second([&] {
    if (pinned) SPIRITOS_CHECK(PinThisThread({1}).ok(), "pinning to CPU 1");
    while (!go.load()) CpuRelax();
    NsPerRun(others, [](uint64_t offset) { LoadByte(target + offset); });
  });
  const uint64_t begin = NowNs();
  go = true;
  NsPerRun(mine, [](uint64_t offset) { LoadByte(target + offset); });
  second.join();
  costs.two_ns = static_cast<double>(NowNs() - begin) / static_cast<double>(order.size());
  madvise(target, size_t{pages} << kPageShift, MADV_DONTNEED);
  costs.copy_ns = NsPerRun(order, CopyIn);
  munmap(target, size_t{pages} << kPageShift);
  munmap(pool, size_t{pages} << kPageShift);
  close(uffd);
  return costs;
}

}  // namespace spiritos::bench
