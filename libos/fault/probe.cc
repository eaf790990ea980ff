// SPDX-License-Identifier: Apache-2.0
// Tries the calls on scratch memory and times them.
#include "libos/fault/probe.h"

#include <sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <thread>
#include <vector>

#include "libos/base/clock.h"
#include "libos/base/core.h"
#include "libos/base/fd.h"
#include "libos/base/mapping.h"
#include "libos/base/parker.h"
#include "libos/base/status.h"
#include "libos/fault/uffd.h"

namespace spiritos {
namespace {

double Median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<long>(values.size() / 2),
                   values.end());
  return values[values.size() / 2];
}

// Whether MADV_DONTNEED through process_madvise empties a page of our own.
bool TryProcessMadvise() {
  auto scratch = Mapping::Anonymous(Bytes(kPageSize), kPageSize, "probe");
  if (!scratch.ok()) return false;
  std::memset(scratch->data(), 1, kPageSize);
  const UniqueFd self(static_cast<int>(syscall(SYS_pidfd_open, getpid(), 0)));
  if (!self.valid()) return false;
  iovec piece{scratch->data(), kPageSize};
  const auto zapped =
      syscall(SYS_process_madvise, self.get(), &piece, size_t{1}, MADV_DONTNEED, 0u);
  return zapped == static_cast<long>(kPageSize) && scratch->data()[0] == std::byte{0};
}

// Nanoseconds of one UFFDIO_COPY of one page into absent memory.
double MeasureFill(Uffd& uffd) {
  constexpr uint32_t kPages = 128;
  auto target = Mapping::Anonymous(Bytes(kPages * kPageSize), kPageSize, "probe");
  auto source = Mapping::Anonymous(Bytes(kPageSize), kPageSize, "probe");
  if (!target.ok() || !source.ok() || !uffd.Register(target->range()).ok()) return 0;
  std::memset(source->data(), 1, kPageSize);
  std::vector<double> samples;
  for (uint32_t i = 0; i < kPages; ++i) {
    const uint64_t begin = NowNs();
    uffd.Copy(Vpn::Of(target->data()) + PageCount(i), source->data(), 1, false, false);
    samples.push_back(static_cast<double>(NowNs() - begin));
  }
  return Median(std::move(samples));
}

// Nanoseconds that a shootdown adds when another thread of this process runs:
// zapping a page with a spinner, less the same without.
double MeasureShootdown() {
  if (UsableCores() < 2) return 0;
  auto scratch = Mapping::Anonymous(Bytes(kPageSize), kPageSize, "probe");
  if (!scratch.ok()) return 0;
  const auto zap = [&] {
    std::vector<double> samples;
    for (int i = 0; i < 101; ++i) {
      scratch->data()[0] = std::byte{1};
      const uint64_t begin = NowNs();
      madvise(scratch->data(), kPageSize, MADV_DONTNEED);
      samples.push_back(static_cast<double>(NowNs() - begin));
    }
    return Median(std::move(samples));
  };
  const double alone = zap();
  std::atomic<bool> running{false};
  std::atomic<bool> stop{false};
  std::thread spinner([&] {
    running = true;
    while (!stop) CpuRelax();
  });
  while (!running) sched_yield();
  const double together = zap();
  stop = true;
  spinner.join();
  return std::max(0.0, together - alone);
}

// Nanoseconds from a futex wake to the sleeper running, one way.
double MeasureWakeup() {
  std::atomic<uint32_t> ball{0};
  constexpr int kRounds = 51;
  std::thread partner([&] {
    for (uint32_t i = 0; i < kRounds; ++i) {
      while (ball.load() == 2 * i) FutexWait(ball, 2 * i);
      ball.store(2 * i + 2);
      FutexWake(ball, 1);
    }
  });
  std::vector<double> samples;
  for (uint32_t i = 0; i < kRounds; ++i) {
    const uint64_t begin = NowNs();
    ball.store(2 * i + 1);
    FutexWake(ball, 1);
    while (ball.load() == 2 * i + 1) FutexWait(ball, 2 * i + 1);
    samples.push_back(static_cast<double>(NowNs() - begin) / 2);
  }
  partner.join();
  return Median(std::move(samples));
}

std::string YesOrWhy(const absl::Status& status) {
  if (status.ok()) return "yes";
  const auto message = status.message();
  return fmt::format("no: {}", std::string_view(message.data(), message.size()));
}

}  // namespace

KernelCalls ProbeKernel() {
  KernelCalls calls;
  auto sigbus = Uffd::Open(Uffd::Mode::kSigbus);
  auto events = Uffd::Open(Uffd::Mode::kEvents);
  calls.sigbus_mode = sigbus.status();
  calls.thread_mode = events.status();
  if (sigbus.ok()) {
    calls.uffd_move = sigbus->features().move();
    calls.fill_ns = MeasureFill(*sigbus);
  }
  calls.process_madvise_self = TryProcessMadvise();
  calls.shootdown_ns = MeasureShootdown();
  calls.wakeup_ns = MeasureWakeup();
  return calls;
}

KernelCalls OldestCalls(KernelCalls calls) {
  calls.uffd_move = false;
  calls.process_madvise_self = false;
  return calls;
}

std::string KernelCalls::ToText() const {
  utsname name;
  uname(&name);
  return fmt::format(
      "kernel: {}\n"
      "faults in the faulting thread (sigbus): {}\n"
      "faults in handler threads (thread): {}\n"
      "UFFDIO_MOVE: {}\n"
      "vectored zap of oneself: {}\n"
      "shootdown {:.1f} us, wake-up {:.1f} us, fill {:.1f} us\n",
      name.release, YesOrWhy(sigbus_mode), YesOrWhy(thread_mode),
      uffd_move ? "yes" : "no (Linux >= 6.8)", process_madvise_self ? "yes" : "no (Linux >= 6.13)",
      shootdown_ns / 1e3, wakeup_ns / 1e3, fill_ns / 1e3);
}

}  // namespace spiritos
