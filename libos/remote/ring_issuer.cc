// SPDX-License-Identifier: Apache-2.0
// Sleep, flush, repeat.
#include "libos/remote/ring_issuer.h"

#include <sched.h>
#include <signal.h>

#include "libos/base/parker.h"
#include "libos/remote/file_ring.h"

namespace spiritos {

bool RingIssuer::Start(FileRing* rings, uint32_t count) {
  rings_ = rings;
  count_ = count;
  // Signals of the application are not for this thread.
  sigset_t all;
  sigset_t old;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &old);
  started_ = pthread_create(&thread_, nullptr, Main, this) == 0;
  pthread_sigmask(SIG_SETMASK, &old, nullptr);
  return started_;
}

void RingIssuer::Stop() {
  if (!started_) return;
  stop_.store(true, std::memory_order_release);
  Kick();
  pthread_join(thread_, nullptr);
  started_ = false;
}

void RingIssuer::Kick() noexcept {
  // Seq_cst: kicks_ changes before asleep_ is read; Run() does the reverse.
  kicks_.fetch_add(1, std::memory_order_seq_cst);
  if (asleep_.load(std::memory_order_seq_cst)) FutexWake(kicks_, 1);
}

void* RingIssuer::Main(void* issuer) {
  static_cast<RingIssuer*>(issuer)->Run();
  return nullptr;
}

void RingIssuer::Run() {
  pthread_setname_np(pthread_self(), "spiritos-issue");
  while (true) {
    // Before all that kicks announce.
    const uint32_t kicks = kicks_.load(std::memory_order_seq_cst);
    if (stop_.load(std::memory_order_acquire)) return;
    bool refused = false;
    for (uint32_t r = 0; r < count_; ++r) refused |= !rings_[r].Flush();
    if (refused) {  // The kernel has no memory now. Nobody else may ask for us.
      sched_yield();
      continue;
    }
    asleep_.store(true, std::memory_order_seq_cst);
    FutexWait(kicks_, kicks);
    asleep_.store(false, std::memory_order_relaxed);
  }
}

}  // namespace spiritos
