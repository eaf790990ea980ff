// SPDX-License-Identifier: Apache-2.0
// One reservation of address space, populated as slots are written.
#include "libos/remote/embedded_backend.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "libos/base/copy.h"
#include "libos/base/failpoint.h"
#include "libos/base/status.h"

namespace spiritos {
namespace {

// Without a limit: slabs for twice the machine's memory. Address space only;
// pages are taken from the machine as they are written.
Bytes DefaultCapacity() {
  const auto pages = static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES));
  return Bytes(std::max<uint64_t>(2 * pages * kPageSize, uint64_t{16} << 30));
}

}  // namespace

EmbeddedBackend::EmbeddedBackend(Mapping memory, size_t slabs)
    : memory_(std::move(memory)), slab_count_(slabs) {
  released_.reserve(slabs);
}

absl::StatusOr<std::unique_ptr<EmbeddedBackend>> EmbeddedBackend::Create(Bytes capacity) {
  if (capacity.raw() == 0) capacity = DefaultCapacity();
  const size_t slabs = capacity.raw() / kSlabSize;
  if (slabs == 0) {
    return InvalidArgument("pool size {} is below a slab of {} bytes (SPIRITOS_POOL_SIZE)",
                           capacity.raw(), kSlabSize);
  }
  SPIRITOS_ASSIGN_OR_RETURN(Mapping memory,
                            Mapping::Anonymous(Bytes(slabs * kSlabSize), size_t{1} << 21,
                                               "embedded pool (SPIRITOS_POOL_SIZE)"));
  // Huge pages where the kernel gives them: slots are read and written whole, and
  // a fault should not miss the TLB for its source as well.
  madvise(memory.data(), memory.size().raw(), MADV_HUGEPAGE);
  // Without BeforeFork() a child has no region either. Core dumps would hold it all.
  madvise(memory.data(), memory.size().raw(), MADV_DONTFORK);
  madvise(memory.data(), memory.size().raw(), MADV_DONTDUMP);
  return std::unique_ptr<EmbeddedBackend>(new EmbeddedBackend(std::move(memory), slabs));
}

IoResult EmbeddedBackend::PlaceSlab(SlotId* first) noexcept {
  LockGuard guard(lock_);
  size_t slab = 0;
  if (!released_.empty()) {
    slab = released_.back();
    released_.pop_back();
  } else if (unused_ < slab_count_) {
    slab = unused_++;
  } else {
    return IoResult::kNoSpace;
  }
  *first = SlotId(slab * kSlabPages);
  return IoResult::kOk;
}

void EmbeddedBackend::ReleaseSlab(SlotId first) noexcept {
  Forget(first, kSlabPages);
  LockGuard guard(lock_);
  released_.push_back(static_cast<uint32_t>(first.raw() / kSlabPages));  // Within the reserve.
}

IoResult EmbeddedBackend::Submit(IoRequest& request) noexcept {
  std::byte* const slots = Direct(request.first);
  const size_t bytes = size_t{request.pages} << kPageShift;
  if (request.op == IoOp::kRead) {
    if (const int error = SPIRITOS_FAILPOINT(kBackendRead)) {
      request.Finish(error);
      return IoResult::kOk;
    }
    std::memcpy(request.memory, slots, bytes);
  } else {
    if (const int error = SPIRITOS_FAILPOINT(kBackendWrite)) {
      request.Finish(error);
      return IoResult::kOk;
    }
    CopyWhileStored(slots, request.memory, bytes);
  }
  request.Finish(0);
  return IoResult::kOk;
}

void EmbeddedBackend::Forget(SlotId first, uint32_t pages) noexcept {
  const int saved_errno = errno;
  madvise(Direct(first), size_t{pages} << kPageShift, MADV_DONTNEED);
  errno = saved_errno;
}

// The kernel copies on write.
ForkedSlots EmbeddedBackend::BeforeFork() noexcept {
  const bool copied = madvise(memory_.data(), memory_.size().raw(), MADV_DOFORK) == 0;
  return copied ? ForkedSlots::kCopied : ForkedSlots::kNone;
}

void EmbeddedBackend::AfterFork(bool) noexcept {
  madvise(memory_.data(), memory_.size().raw(), MADV_DONTFORK);
}

std::string EmbeddedBackend::description() const {
  return fmt::format("embedded pool, {} slabs of 64 MiB", slab_count_);
}

}  // namespace spiritos
