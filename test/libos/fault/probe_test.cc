// SPDX-License-Identifier: Apache-2.0
// Probe: plausible costs, flags that hold, and reasons that people can act upon.
#include "libos/fault/probe.h"

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cerrno>
#include <cstdio>

#include "libos/base/core.h"
#include "test/support/child.h"

namespace spiritos {
namespace {

TEST_CASE("measured costs are plausible", "[fault]") {
  const KernelCalls calls = ProbeKernel();
  INFO(calls.ToText());
  if (calls.sigbus_mode.ok()) {
    CHECK(calls.fill_ns > 100);
    CHECK(calls.fill_ns < 1e6);
  } else {
    CHECK(calls.fill_ns == 0);
    CHECK_FALSE(calls.uffd_move);
  }
  CHECK(calls.wakeup_ns > 100);
  CHECK(calls.wakeup_ns < 1e7);
  CHECK(calls.shootdown_ns >= 0);
  CHECK(calls.shootdown_ns < 1e7);
}

TEST_CASE("the oldest calls are those of the kernel less what came later", "[fault]") {
  KernelCalls calls;
  calls.thread_mode = absl::PermissionDeniedError("no");
  calls.uffd_move = true;
  calls.process_madvise_self = true;
  calls.shootdown_ns = 1;
  calls.wakeup_ns = 2;
  calls.fill_ns = 3;
  const KernelCalls oldest = OldestCalls(calls);
  CHECK_FALSE(oldest.uffd_move);
  CHECK_FALSE(oldest.process_madvise_self);
  CHECK(oldest.sigbus_mode.ok());
  CHECK(oldest.thread_mode == calls.thread_mode);
  CHECK(oldest.shootdown_ns == 1);
  CHECK(oldest.wakeup_ns == 2);
  CHECK(oldest.fill_ns == 3);
}

TEST_CASE("the text gives every fact its line and every refusal its reason", "[fault]") {
  KernelCalls calls;
  calls.thread_mode = absl::PermissionDeniedError("ask the administrator");
  calls.uffd_move = true;
  calls.shootdown_ns = 12345;
  const std::string text = calls.ToText();
  INFO(text);
  for (const char* line :
       {"kernel: ", "(sigbus): yes\n", "(thread): no: ask the administrator\n",
        "UFFDIO_MOVE: yes\n", "zap of oneself: no (Linux >= 6.13)\n", "shootdown 12.3 us"}) {
    CAPTURE(line);
    CHECK(text.find(line) != std::string::npos);
  }
}

// What a child's probe says, printed for the parent.
int PrintProbe() {
  const std::string text = ProbeKernel().ToText();
  std::fputs(text.c_str(), stdout);
  std::fflush(stdout);
  return 0;
}

TEST_CASE("a user without privilege has sigbus mode and learns what thread mode needs",
          "[fault][uffd]") {
  if (geteuid() != 0 || !ProbeKernel().sigbus_mode.ok()) {
    WARN("skipped: needs root, to stop being root, and userfaultfd");
    return;
  }
  const ChildEnd end = RunInChild([] {
    if (setgid(65534) != 0 || setuid(65534) != 0) return 1;
    return PrintProbe();
  });
  INFO(end.text);
  REQUIRE(end.status == 0);
  CHECK(end.text.find("(sigbus): yes\n") != std::string::npos);
  if (FILE* file = std::fopen("/proc/sys/vm/unprivileged_userfaultfd", "r")) {
    const bool open_to_all = std::fgetc(file) == '1';
    std::fclose(file);
    if (open_to_all) return;
  }
  CHECK(end.text.find("(thread): no: this user may not handle kernel-mode faults") !=
        std::string::npos);
  CHECK(end.text.find("/dev/userfaultfd") != std::string::npos);
  CHECK(end.text.find("SPIRITOS_FAULT_MODE=sigbus") != std::string::npos);
}

// From here on userfaultfd(2) fails with `error`, as container runtimes have it.
bool BlockUserfaultfd(uint32_t error) {
  sock_filter filter[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_userfaultfd, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog program{std::size(filter), filter};
  return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

TEST_CASE("a container that blocks userfaultfd is told what to allow", "[fault]") {
  for (const uint32_t error : {EPERM, ENOSYS}) {
    CAPTURE(error);
    const ChildEnd end = RunInChild([error] {
      if (!BlockUserfaultfd(error)) return 77;
      return PrintProbe();
    });
    INFO(end.text);
    if (end.status == 77) {
      WARN("skipped: no seccomp filters here");
      return;
    }
    REQUIRE(end.status == 0);
    CHECK(end.text.find("(sigbus): no: ") != std::string::npos);
    CHECK(end.text.find(error == EPERM ? "allow the system call userfaultfd in its seccomp profile"
                                       : "is not in this kernel or is blocked by seccomp") !=
          std::string::npos);
    // Nothing that needs it is claimed or measured.
    CHECK(end.text.find("UFFDIO_MOVE: no") != std::string::npos);
    CHECK(end.text.find("fill 0.0 us") != std::string::npos);
  }
}

}  // namespace
}  // namespace spiritos
