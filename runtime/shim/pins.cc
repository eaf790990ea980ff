// SPDX-License-Identifier: Apache-2.0
// Calls after which the kernel may pin the program's memory unseen: io_uring, AIO, verbs; and
// process_vm_writev(2) to itself, which pins what it writes to.
//
// The first of them makes every page that is pinned stay from then on, for which eviction
// goes another way (Space::AllowUnseenPins). Where the kernel has none, the call is refused
// as if it were not there, which programs are used to from containers.
//
// Not seen: programs that contain the library that makes the call, or find it by dlsym(3);
// process_vm_writev(2) of other processes.
#include <dlfcn.h>
#include <errno.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#include "libos/base/export.h"
#include "runtime/shim/kernel.h"
#include "runtime/shim/next.h"
#include "runtime/shim/shim.h"

struct ibv_mr;
struct ibv_pd;
struct io_context;
struct io_uring;
struct io_uring_params;

namespace spiritos::shim {
namespace {

constexpr const char* kLiburing = "liburing.so.2";
constexpr const char* kLibaio = "libaio.so.1";
constexpr const char* kLibibverbs = "libibverbs.so.1";

// liburing and libaio return a negative errno.
template <typename... Arguments>
int Begin(const char* call, const char* library, Arguments... arguments) {
  if (!MayPin(call)) return -ENOSYS;
  const auto next_call = NextOf<int (*)(Arguments...)>(call, library);
  return next_call == nullptr ? -ENOSYS : next_call(arguments...);
}

template <typename... Arguments>
ibv_mr* Register(const char* call, Arguments... arguments) {
  const auto next_call = NextOf<ibv_mr* (*)(Arguments...)>(call, kLibibverbs);
  if (next_call != nullptr && MayPin(call)) return next_call(arguments...);
  errno = EOPNOTSUPP;
  return nullptr;
}

}  // namespace

bool MayPin(const char* call) {
  if (InRuntime()) return true;
  FarMap* const map = far_map.load(std::memory_order_acquire);
  if (map == nullptr) return true;
  const NearScope near;
  return map->MayPin(call);
}

void* FindNextOf(const char* name, const char* library) {
  const NearScope near;
  if (void* const found = dlsym(RTLD_NEXT, name); found != nullptr || library == nullptr) {
    return found;
  }
  // Of a library that was loaded later, for itself and its users.
  void* const handle = dlopen(library, RTLD_LAZY | RTLD_NOLOAD);
  return handle == nullptr ? nullptr : dlsym(handle, name);
}

extern "C" {

SPIRITOS_PUBLIC int io_uring_setup(unsigned entries, io_uring_params* parameters) noexcept {
  return Begin("io_uring_setup", kLiburing, entries, parameters);
}

SPIRITOS_PUBLIC int io_uring_queue_init(unsigned entries, io_uring* ring, unsigned flags) noexcept {
  return Begin("io_uring_queue_init", kLiburing, entries, ring, flags);
}

SPIRITOS_PUBLIC int io_uring_queue_init_params(unsigned entries, io_uring* ring,
                                               io_uring_params* parameters) noexcept {
  return Begin("io_uring_queue_init_params", kLiburing, entries, ring, parameters);
}

SPIRITOS_PUBLIC int io_uring_queue_init_mem(unsigned entries, io_uring* ring,
                                            io_uring_params* parameters, void* memory,
                                            size_t size) noexcept {
  return Begin("io_uring_queue_init_mem", kLiburing, entries, ring, parameters, memory, size);
}

SPIRITOS_PUBLIC int io_setup(int events, io_context** context) noexcept {
  return Begin("io_setup", kLibaio, events, context);
}

SPIRITOS_PUBLIC int io_queue_init(int events, io_context** context) noexcept {
  return Begin("io_queue_init", kLibaio, events, context);
}

SPIRITOS_PUBLIC ssize_t process_vm_writev(pid_t pid, const iovec* from, unsigned long from_count,
                                          const iovec* to, unsigned long to_count,
                                          unsigned long flags) noexcept {
  if ((pid == getpid() || pid == gettid()) && !MayPin("process_vm_writev")) {
    errno = ENOSYS;
    return -1;
  }
  return kernel::Call(SYS_process_vm_writev, pid, kernel::Word(from), static_cast<long>(from_count),
                      kernel::Word(to), static_cast<long>(to_count), static_cast<long>(flags));
}

SPIRITOS_PUBLIC ibv_mr* ibv_reg_mr(ibv_pd* domain, void* at, size_t size, int access) noexcept {
  return Register("ibv_reg_mr", domain, at, size, access);
}

SPIRITOS_PUBLIC ibv_mr* ibv_reg_mr_iova(ibv_pd* domain, void* at, size_t size, uint64_t iova,
                                        int access) noexcept {
  return Register("ibv_reg_mr_iova", domain, at, size, iova, access);
}

SPIRITOS_PUBLIC ibv_mr* ibv_reg_mr_iova2(ibv_pd* domain, void* at, size_t size, uint64_t iova,
                                         unsigned access) noexcept {
  return Register("ibv_reg_mr_iova2", domain, at, size, iova, access);
}

}  // extern "C"

}  // namespace spiritos::shim
