// SPDX-License-Identifier: Apache-2.0
// Together: threads that start at the same moment and are joined, the number of
// rounds that fits the build, and the seed of a random test.
#pragma once

#include <sched.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <random>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

namespace spiritos {

#if defined(__SANITIZE_THREAD__)
inline constexpr bool kUnderTsan = true;
#else
inline constexpr bool kUnderTsan = false;
#endif
#if defined(__SANITIZE_ADDRESS__)
inline constexpr bool kUnderAsan = true;
#else
inline constexpr bool kUnderAsan = false;
#endif

// Whether the CPU is emulated (test/support/vm without KVM).
inline bool UnderEmulation() {
  const char* const accel = std::getenv("SPIRITOS_VM_ACCEL");
  return accel != nullptr && std::string_view(accel) == "tcg";
}

// Sanitizers and emulated CPUs are 5 to 20 times slower: `n` rounds, or as many as
// take as long.
inline uint32_t Rounds(uint32_t n) {
  const uint32_t divisor = kUnderTsan || UnderEmulation() ? 10 : kUnderAsan ? 4 : 1;
  return n / divisor == 0 ? 1 : n / divisor;
}

// Spins until `ready()`, leaving the CPU to whoever makes it so.
template <typename Ready>
void YieldUntil(Ready&& ready) {
  while (!ready()) sched_yield();
}

// Runs body(0) ... body(n - 1) in a thread each. None begins before all exist.
template <typename Body>
void RunTogether(uint32_t n, Body&& body) {
  std::atomic<uint32_t> waiting{n};
  std::vector<std::thread> threads;
  for (uint32_t i = 0; i < n; ++i) {
    threads.emplace_back([&, i] {
      waiting.fetch_sub(1);
      YieldUntil([&] { return waiting.load() == 0; });
      body(i);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

// SPIRITOS_TEST_SEED, to repeat a failure, else a fresh one. The test prints it.
inline uint64_t TestSeed() {
  if (const char* text = std::getenv("SPIRITOS_TEST_SEED")) return std::stoull(text);
  std::random_device device;
  return (uint64_t{device()} << 32) | device();
}

}  // namespace spiritos
