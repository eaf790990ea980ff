// SPDX-License-Identifier: Apache-2.0
// LostAccess: tells accesses that fail, as those to lost pages do, from those that do not.
//
// While it lives SIGBUS is its: it must be there before the space is. One thread at a time.
#pragma once

#include <setjmp.h>
#include <signal.h>

#include <catch2/catch.hpp>
#include <cstddef>

namespace spiritos {

class LostAccess {
 public:
  LostAccess() {
    struct sigaction action {};
    action.sa_sigaction = OnLoss;
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    REQUIRE(sigaction(SIGBUS, &action, &before_) == 0);
  }
  ~LostAccess() { sigaction(SIGBUS, &before_, nullptr); }
  LostAccess(const LostAccess&) = delete;
  LostAccess& operator=(const LostAccess&) = delete;

  // Whether a load from there fails, and says where.
  static bool FailsAt(const volatile std::byte* at) {
    if (sigsetjmp(back_, 1) != 0) return failed_at_ == at;
    static_cast<void>(*at);
    return false;
  }

 private:
  static void OnLoss(int, siginfo_t* info, void*) {
    failed_at_ = info->si_addr;
    siglongjmp(back_, 1);
  }

  static inline sigjmp_buf back_;
  static inline const void* volatile failed_at_ = nullptr;
  struct sigaction before_ {};
};

}  // namespace spiritos
