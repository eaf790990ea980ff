// SPDX-License-Identifier: Apache-2.0
// ProgramHeap: the heap of an unmodified program, over memory that a FarMap keeps.
//
//   reserved address space |== handed out ==|== mapped, a chunk at a time ==|... no access ...|
//
// The far heap takes the lowest free addresses, so what is mapped grows with use. Chunks
// stay mapped; what the heap gives back is discarded.
//
// Threads: any.
#pragma once

#include <atomic>
#include <memory>

#include "absl/status/statusor.h"
#include "alloc/far_malloc.h"
#include "libos/base/units.h"
#include "runtime/shim/far_map.h"

namespace spiritos::shim {

// `map` outlives the heap, which has no end of its own: frees may come at any time.
// `chunk` is a power of two of at least 4 MiB.
absl::StatusOr<std::unique_ptr<FarHeap>> MakeProgramHeap(FarMap& map, Bytes reserve, Bytes chunk);

}  // namespace spiritos::shim
