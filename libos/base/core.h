// SPDX-License-Identifier: Apache-2.0
// Core: which CPU runs this thread, how many there are, how to wait politely.
//
// The only reader of the kernel's restartable-sequence area (rseq(2); glibc
// registers it since 2.35), whose cpu_id costs a load. The answer is a hint: the
// thread may move at once, so per-core state stays atomic and merely local.
#pragma once

#include <cstdint>

namespace spiritos {

// Per-core arrays have this many entries; CPUs beyond it share.
inline constexpr uint32_t kMaxCores = 256;

// Entries of per-core arrays in use: the possible CPUs, at most kMaxCores.
uint32_t CoreCount() noexcept;

// This thread's index into per-core arrays, below CoreCount(). Context: signal.
uint32_t CurrentCore() noexcept;

// CPUs this process may run on now (its affinity mask and cpuset).
uint32_t UsableCores() noexcept;

// Tells the CPU that the caller spins.
inline void CpuRelax() { __builtin_ia32_pause(); }

}  // namespace spiritos
