// SPDX-License-Identifier: Apache-2.0
// What is read where, and what follows from it.
#include "runtime/cli/doctor_checks.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <linux/capability.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "libos/base/status.h"
#include "libos/fault/probe.h"
#include "libos/options_env.h"
#include "libos/remote/pool_factory.h"

namespace spiritos::cli {
namespace {

using Grade = Finding::Grade;

constexpr int kOldestMajor = 6;
constexpr int kOldestMinor = 1;
constexpr uint64_t kUsualMaps = 65530;
constexpr uint64_t kBookBytes = 28;  // Of near memory, for each far page.
constexpr const char* kSeccompFix =
    "in a container allow userfaultfd by --security-opt "
    "seccomp=seccomp-userfaultfd.json (it comes with spiritos)";

std::string TextOf(const absl::Status& status) { return std::string(status.message()); }

// The first line of a file; empty when it cannot be read.
std::string ReadLine(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

bool HasCapability(unsigned capability) {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct sets[2]{};
  if (syscall(SYS_capget, &header, sets) != 0) return false;
  return (sets[capability / 32].effective >> (capability % 32) & 1) != 0;
}

Finding CheckProcessor() {
  if (__builtin_cpu_supports("pclmul")) return {"processor", Grade::kGood, "has PCLMULQDQ", ""};
  return {"processor", Grade::kFix, "has no PCLMULQDQ, which checksums of pages need",
          "use a processor of 2010 or later, or let the virtual machine see it"};
}

Finding CheckKernel(const KernelCalls& calls) {
  utsname name;
  uname(&name);
  int major = 0;
  int minor = 0;
  std::sscanf(name.release, "%d.%d", &major, &minor);
  if (major < kOldestMajor || (major == kOldestMajor && minor < kOldestMinor)) {
    return {"kernel", Grade::kFix, fmt::format("{} is too old", name.release),
            fmt::format("install Linux {}.{} or newer", kOldestMajor, kOldestMinor)};
  }
  std::string lacks;
  if (!calls.uffd_move) lacks += ", no UFFDIO_MOVE (Linux 6.8)";
  if (!calls.process_madvise_self) lacks += ", no vectored zap of oneself (Linux 6.13)";
  if (lacks.empty()) return {"kernel", Grade::kGood, fmt::format("{} has all", name.release), ""};
  return {"kernel", Grade::kNote, fmt::format("{}{}: pages leave more slowly", name.release, lacks),
          "a newer kernel is faster; none is needed"};
}

Finding CheckSigbusMode(const KernelCalls& calls) {
  if (calls.sigbus_mode.ok()) {
    return {"userfaultfd", Grade::kGood, "faults are served in the faulting thread", ""};
  }
  return {"userfaultfd", Grade::kFix, TextOf(calls.sigbus_mode), kSeccompFix};
}

Finding CheckThreadMode(const KernelCalls& calls) {
  if (calls.thread_mode.ok()) {
    return {"kernel-mode faults", Grade::kGood, "handler threads may serve them", ""};
  }
  const bool device = access("/dev/userfaultfd", F_OK) == 0;
  return {"kernel-mode faults", Grade::kNote,
          fmt::format("SPIRITOS_FAULT_MODE=thread is refused: /dev/userfaultfd is {}, "
                      "vm.unprivileged_userfaultfd is {}, CAP_SYS_PTRACE is {}",
                      device ? "not for this user" : "missing",
                      ReadLine("/proc/sys/vm/unprivileged_userfaultfd"),
                      HasCapability(CAP_SYS_PTRACE) ? "there" : "missing"),
          "for that mode give /dev/userfaultfd a group by a udev rule with MODE=\"0660\", or "
          "the program CAP_SYS_PTRACE"};
}

bool HasSwap() {
  std::ifstream swaps("/proc/swaps");
  std::string line;
  std::getline(swaps, line);  // The heading.
  return static_cast<bool>(std::getline(swaps, line));
}

Finding CheckMemlock(const Options& options) {
  rlimit limit{};
  getrlimit(RLIMIT_MEMLOCK, &limit);
  if (limit.rlim_cur == RLIM_INFINITY || HasCapability(CAP_IPC_LOCK)) {
    return {"locked memory", Grade::kGood, "without limit", ""};
  }
  const uint64_t covered = limit.rlim_cur / kBookBytes * kPageSize;
  const std::string says = fmt::format("{} KiB hold the books of {} MiB of far memory",
                                       limit.rlim_cur >> 10, covered >> 20);
  if (covered >= 4 * options.budget.raw()) return {"locked memory", Grade::kGood, says, ""};
  return {"locked memory", HasSwap() ? Grade::kFix : Grade::kNote,
          says + ": the kernel may swap out the others, and each fault waits for them",
          "raise memlock: LimitMEMLOCK=infinity in a unit, or /etc/security/limits.conf"};
}

Finding CheckMaps() {
  const std::string text = ReadLine("/proc/sys/vm/max_map_count");
  const uint64_t count = std::strtoull(text.c_str(), nullptr, 10);
  if (count >= kUsualMaps) return {"vm.max_map_count", Grade::kGood, text, ""};
  return {"vm.max_map_count", Grade::kFix, fmt::format("{} mappings are few", text),
          fmt::format("sysctl -w vm.max_map_count={}", kUsualMaps)};
}

Finding CheckOvercommit() {
  const std::string mode = ReadLine("/proc/sys/vm/overcommit_memory");
  if (mode != "2") return {"vm.overcommit_memory", Grade::kGood, mode, ""};
  return {"vm.overcommit_memory", Grade::kFix,
          "2: regions larger than what is left of local memory are refused",
          "sysctl -w vm.overcommit_memory=0"};
}

Finding CheckHugePages() {
  const std::string transparent = ReadLine("/sys/kernel/mm/transparent_hugepage/enabled");
  if (transparent.find("[never]") == transparent.npos && !transparent.empty()) {
    return {"huge pages", Grade::kGood, "transparent ones: " + transparent, ""};
  }
  return {"huge pages", Grade::kNote, "no transparent ones: lookups in the books miss the TLB more",
          "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled"};
}

Finding CheckSwap() {
  if (!HasSwap()) return {"swap", Grade::kGood, "none", ""};
  return {"swap", Grade::kNote,
          "on, " + ReadLine("/proc/sys/vm/swappiness") +
              " vm.swappiness: under "
              "pressure the kernel swaps frames that count as local",
          "leave room beside the budgets, or set memory.swap.max=0 for the program's cgroup"};
}

Finding CheckRdma() {
  std::error_code error;
  std::string devices;
  for (const auto& entry : std::filesystem::directory_iterator("/sys/class/infiniband", error)) {
    devices += fmt::format("{}{}", devices.empty() ? "" : " ", entry.path().filename().string());
  }
  if (!devices.empty()) return {"RDMA devices", Grade::kGood, devices, ""};
  return {"RDMA devices", Grade::kNote, "none: servers are reached over TCP or shared memory",
          "for RDMA load the device's driver, or rdma_rxe over Ethernet"};
}

Finding CheckOptionsOf(const absl::StatusOr<Options>& options) {
  if (options.ok()) return {"SPIRITOS_ variables", Grade::kGood, "understood", ""};
  return {"SPIRITOS_ variables", Grade::kFix, TextOf(options.status()),
          "correct it; README.md has the table"};
}

Finding CheckPool(const Options& options) {
  const std::string& pool = options.remote.pool;
  // A pool in a file would be made by trying; a pool in this process is always there.
  if (!pool.starts_with("tcp://") && !pool.starts_with("shm://") && !pool.starts_with("rdma://")) {
    return {"pool", Grade::kGood, pool + " needs no server", ""};
  }
  const auto made = MakePool(options.remote);
  if (made.ok()) return {"pool", Grade::kGood, (*made)->description(), ""};
  return {"pool", Grade::kFix, fmt::format("{}: {}", pool, TextOf(made.status())),
          "start `spiritos memd` there, or correct SPIRITOS_POOL"};
}

}  // namespace

std::vector<Finding> Examine() {
  const absl::StatusOr<Options> parsed = OptionsFromEnvironment();
  const Options options = parsed.ok() ? *parsed : Options();
  const KernelCalls calls = ProbeKernel();
  return {CheckProcessor(),      CheckKernel(calls), CheckSigbusMode(calls), CheckThreadMode(calls),
          CheckMemlock(options), CheckMaps(),        CheckOvercommit(),      CheckHugePages(),
          CheckSwap(),           CheckRdma(),        CheckOptionsOf(parsed), CheckPool(options)};
}

}  // namespace spiritos::cli
