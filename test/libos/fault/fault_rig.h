// SPDX-License-Identifier: Apache-2.0
// FaultRig: one fault backend over a piece of covered memory, with a sink that
// serves every fault and remembers it.
//
// The backends are listed here: a new one is tested by being listed. Every test
// that makes a rig runs once for each backend and each set of kernel calls.
#pragma once

#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <catch2/catch.hpp>
#include <cstring>
#include <memory>
#include <span>
#include <vector>

#include "libos/base/check.h"
#include "libos/base/failpoint.h"
#include "libos/base/mapping.h"
#include "libos/base/metrics.h"
#include "libos/fault/fault_backend.h"
#include "libos/fault/probe.h"
#include "libos/fault/uffd_sigbus.h"
#include "libos/fault/uffd_thread.h"

namespace spiritos {

struct FaultCandidate {
  const char* name;
  absl::Status KernelCalls::*possible;
  std::unique_ptr<FaultBackend> (*make)(const KernelCalls&, FaultSink&, Metrics&);
};

inline const FaultCandidate kFaultCandidates[] = {
    {"uffd_sigbus", &KernelCalls::sigbus_mode,
     [](const KernelCalls& calls, FaultSink& sink,
        Metrics& metrics) -> std::unique_ptr<FaultBackend> {
       return UffdSigbus::Create(calls, sink, metrics).value();
     }},
    {"uffd_thread", &KernelCalls::thread_mode,
     [](const KernelCalls& calls, FaultSink& sink,
        Metrics& metrics) -> std::unique_ptr<FaultBackend> {
       return UffdThread::Create(calls, 2, sink, metrics).value();
     }},
};

// Probed once: it takes milliseconds.
inline const KernelCalls& ProbedKernel() {
  static const KernelCalls calls = ProbeKernel();
  return calls;
}

// What a served page holds: its own number in every word.
inline void MakePattern(Vpn vpn, std::span<uint64_t, kPageSize / 8> words) {
  std::fill(words.begin(), words.end(), vpn.raw() * 0x9E3779B97F4A7C15ull);
}
inline uint64_t PatternOf(Vpn vpn) { return vpn.raw() * 0x9E3779B97F4A7C15ull; }

// Serves a fault with the page's pattern, or by a Thaw where the page is there.
class ServingSink final : public FaultSink {
 public:
  static constexpr uint32_t kMaxPages = 4096;

  FaultOutcome OnFault(Vpn vpn, FaultKind kind) noexcept override {
    // Between storing into a page and serving it only the kernel orders threads,
    // which is more than a race detector sees: acquire, pairs with the rig's.
    SPIRITOS_CHECK(ready.load(std::memory_order_acquire), "a fault before the rig stands");
    last_vpn = vpn.raw();
    last_kind = kind;
    last_thread = static_cast<pid_t>(syscall(SYS_gettid));
    const auto index = static_cast<uint64_t>((vpn - first).raw());
    // Before the page changes: who compares counts must not miss this one.
    if (index < kMaxPages) begun[index].fetch_add(1);
    faults.fetch_add(1);
    const FaultOutcome outcome = Serve(vpn);
    if (index < kMaxPages) ended[index].fetch_add(1);
    return outcome;
  }

  FaultOutcome Serve(Vpn vpn) noexcept {
    if (retries.load() != 0 && retries.fetch_sub(1) > 0) return FaultOutcome::kRetry;
    alignas(64) std::array<uint64_t, kPageSize / 8> words;
    MakePattern(vpn, words);
    const auto filled = backend->Fill(vpn, 1, reinterpret_cast<const std::byte*>(words.data()),
                                      FillMode::kWritable);
    if (filled.result == MapResult::kOk) return FaultOutcome::kMapped;
    if (filled.result != MapResult::kPresent) return FaultOutcome::kNotOurs;
    return backend->Thaw({vpn, 1}).result == MapResult::kOk ? FaultOutcome::kMapped
                                                            : FaultOutcome::kNotOurs;
  }

  FaultBackend* backend = nullptr;
  Vpn first;
  std::atomic<bool> ready{false};
  std::atomic<uint64_t> faults{0};
  std::atomic<uint64_t> last_vpn{0};
  std::atomic<FaultKind> last_kind{FaultKind::kUnknown};
  std::atomic<pid_t> last_thread{0};
  std::atomic<int> retries{0};  // Faults that are answered by kRetry first.
  // By page: faults that came, and those whose service is over.
  std::array<std::atomic<uint32_t>, kMaxPages> begun{};
  std::array<std::atomic<uint32_t>, kMaxPages> ended{};
};

struct FaultRig {
  FaultRig(const FaultCandidate& candidate, const KernelCalls& calls, uint32_t pages)
      : memory(Mapping::Anonymous(BytesOf(PageCount(pages)), kPageSize, "test").value()),
        metrics(std::make_unique<Metrics>()),
        sink(std::make_unique<ServingSink>()),
        backend(candidate.make(calls, *sink, *metrics)) {
    sink->backend = backend.get();
    sink->first = first();
    sink->ready.store(true, std::memory_order_release);
    REQUIRE(backend->Cover(memory.range()).ok());
    covered = true;
  }
  ~FaultRig() { Uncover(); }
  FaultRig(const FaultRig&) = delete;
  FaultRig& operator=(const FaultRig&) = delete;

  void Uncover() {
    if (covered) backend->Uncover(memory.range());
    covered = false;
  }
  Vpn first() const { return Vpn::Of(memory.data()); }
  Vpn page(uint32_t index) const { return first() + PageCount(index); }
  PageRun run(uint32_t index, uint32_t count) const { return {page(index), count}; }
  // Whether exactly these pages of [0, count) are present.
  bool PresentAre(uint32_t count, std::initializer_list<uint32_t> expected) const {
    bool right = true;
    for (uint32_t i = 0; i < count; ++i) {
      const bool wanted = std::find(expected.begin(), expected.end(), i) != expected.end();
      right = right && backend->Present(page(i)) == wanted;
    }
    return right;
  }

  // The program's own accesses; relaxed, as threads of a test may race on purpose.
  std::atomic_ref<uint64_t> word(uint32_t index, uint32_t offset = 0) const {
    return std::atomic_ref<uint64_t>(
        *reinterpret_cast<uint64_t*>(page(index).address() + offset * 8));
  }
  uint64_t Load(uint32_t index) const { return word(index).load(std::memory_order_relaxed); }
  void Store(uint32_t index, uint64_t value) const {
    word(index).store(value, std::memory_order_relaxed);
  }

  // `count` pages from `index` filled with `value` in every word.
  MapOutcome Fill(uint32_t index, uint32_t count, uint64_t value,
                  FillMode mode = FillMode::kWritable) const {
    std::vector<uint64_t> words(size_t{count} * kPageSize / 8, value);
    return backend->Fill(page(index), count, reinterpret_cast<const std::byte*>(words.data()),
                         mode);
  }
  uint64_t Metered(Metric metric) const { return metrics->Get(metric); }

  Mapping memory;
  std::unique_ptr<Metrics> metrics;
  std::unique_ptr<ServingSink> sink;
  std::unique_ptr<FaultBackend> backend;
  bool covered = false;
};

// A rig of `pages` pages for this run of the test case, or null where the kernel
// or the user does not allow its backend. Once in a test case.
inline std::unique_ptr<FaultRig> MakeFaultRig(uint32_t pages) {
  const size_t which = GENERATE(range(size_t{0}, std::size(kFaultCandidates)));
  const bool oldest = GENERATE(false, true);
  const FaultCandidate& candidate = kFaultCandidates[which];
  const KernelCalls calls = oldest ? OldestCalls(ProbedKernel()) : ProbedKernel();
  UNSCOPED_INFO(candidate.name << (oldest ? ", oldest calls" : ", best calls"));
  if (const absl::Status& possible = calls.*candidate.possible; !possible.ok()) {
    WARN("skipped: " << candidate.name << ": " << possible.ToString());
    return nullptr;
  }
  return std::make_unique<FaultRig>(candidate, calls, pages);
}

}  // namespace spiritos
