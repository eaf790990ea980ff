// SPDX-License-Identifier: Apache-2.0
// Asking for slabs, waiting for the keeper, giving up.
#include "libos/remote/slab_desk.h"

#include <cerrno>

#include "libos/base/clock.h"
#include "libos/base/parker.h"
#include "libos/base/status.h"

namespace spiritos {
absl::Status SlabDesk::Init(uint64_t slabs) {
  SPIRITOS_ASSIGN_OR_RETURN(memory_, Mapping::Anonymous(Bytes(slabs * sizeof(std::atomic<Stage>)),
                                                        kPageSize, "the list of slabs"));
  // Zeroed pages are entries in their first state; they are touched as they are used.
  stages_ = reinterpret_cast<std::atomic<Stage>*>(memory_.data());
  size_ = slabs;
  return absl::OkStatus();
}

uint64_t SlabDesk::Want(bool* soon) noexcept {
  *soon = false;
  for (uint64_t index = 0; index < size_; ++index) {
    Stage stage = Stage::kFree;
    if (!stages_[index].compare_exchange_strong(stage, Stage::kWanted, std::memory_order_acq_rel)) {
      *soon = *soon || stage == Stage::kReleasing;
      continue;
    }
    uint64_t used = used_.load(std::memory_order_relaxed);
    while (used <= index &&
           !used_.compare_exchange_weak(used, index + 1, std::memory_order_acq_rel)) {
    }
    return index;
  }
  return size_;
}

IoResult SlabDesk::Await(uint64_t* index, uint64_t patience_ns) noexcept {
  const int saved_errno = errno;
  const uint64_t deadline = NowNs() + patience_ns;
  IoResult result = IoResult::kNoSpace;
  uint64_t wanted = size_;
  while (true) {
    const uint32_t answers = answers_.load(std::memory_order_acquire);
    bool soon = true;
    if (wanted == size_) {
      wanted = Want(&soon);
      Call();
    }
    const Stage stage = wanted == size_ ? Stage::kWanted : StageOf(wanted);
    const uint64_t now = NowNs();
    if (stage == Stage::kPlaced) {
      *index = wanted;
      result = IoResult::kOk;
      break;
    }
    if (stage == Stage::kRefused || now >= deadline || (wanted == size_ && !soon)) {
      if (wanted != size_) Release(wanted);  // The keeper tidies up what it has done.
      break;
    }
    FutexWait(answers_, answers, deadline - now);
  }
  errno = saved_errno;
  return result;
}

void SlabDesk::Announce() noexcept {
  answers_.fetch_add(1, std::memory_order_release);
  FutexWake(answers_, INT32_MAX);
}

void SlabDesk::Free(uint64_t index) noexcept {
  stages_[index].store(Stage::kFree, std::memory_order_release);
  Announce();
}

void SlabDesk::Release(uint64_t index) noexcept {
  stages_[index].store(Stage::kReleasing, std::memory_order_release);
  Call();
}

void SlabDesk::Call() noexcept {
  const int saved_errno = errno;
  calls_.fetch_add(1, std::memory_order_release);
  FutexWake(calls_, 1);
  errno = saved_errno;
}

void SlabDesk::AwaitCall(uint32_t seen, uint64_t timeout_ns) noexcept {
  FutexWait(calls_, seen, timeout_ns);
}

bool SlabDesk::AnyReleasing() const {
  for (uint64_t index = 0; index < used(); ++index) {
    if (StageOf(index) == Stage::kReleasing) return true;
  }
  return false;
}

bool SlabDesk::AnswerWanted(absl::FunctionRef<Stage(uint64_t)> place) {
  bool all = true;
  for (uint64_t index = 0; index < used(); ++index) {
    if (StageOf(index) != Stage::kWanted) continue;
    const Stage stage = place(index);
    if (stage == Stage::kWanted || (stage == Stage::kRefused && AnyReleasing())) {
      all = false;
      continue;
    }
    Stage wanted = Stage::kWanted;
    if (stages_[index].compare_exchange_strong(wanted, stage, std::memory_order_acq_rel)) {
      Announce();
    } else {
      Call();  // Nobody wants it any more: it is to be released.
    }
  }
  return all;
}

}  // namespace spiritos
