// SPDX-License-Identifier: Apache-2.0
// The shim's beginning and end in a process: reads SPIRITOS_CONF, makes the heap.
#include <dlfcn.h>
#include <elf.h>
#include <fcntl.h>
#include <fmt/core.h>
#include <gnu/libc-version.h>
#include <link.h>
#include <sys/auxv.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <string>

#include "libos/base/fd.h"
#include "libos/base/log.h"
#include "runtime/settings.h"
#include "runtime/shim/next.h"
#include "runtime/shim/program_heap.h"
#include "runtime/shim/shim.h"

namespace spiritos::shim {

thread_local constinit int near_depth = 0;
constinit Next next;
constinit std::atomic<FarMap*> far_map{nullptr};
constinit std::atomic<FarHeap*> far_heap{nullptr};
constinit Code loader;
constinit Code libc;

namespace {

// What `spiritos run` fails with, before the program has begun.
constexpr int kCannotBegin = 125;
// Address space costs nothing, except where it is limited (ulimit -v).
constexpr Bytes kMostReserve(uint64_t{1} << 40);
constexpr Bytes kLeastReserve(uint64_t{1} << 30);

// Above what programs ask for by number, and below the usual limit of 1024.
constexpr int kFdFloor = 700;

template <typename Function>
void FindNext(Function*& function, const char* name) {
  function = reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

Code CodeAt(uintptr_t base, const ElfW(Phdr) * segments, size_t count) {
  Code code{base, base};
  for (size_t i = 0; i < count; ++i) {
    if (segments[i].p_type != PT_LOAD) continue;
    code.end = std::max<uintptr_t>(code.end, base + segments[i].p_vaddr + segments[i].p_memsz);
  }
  return code;
}

void FindLoader() {
  const auto base = getauxval(AT_BASE);
  if (base == 0) return;
  const auto* const header = reinterpret_cast<const ElfW(Ehdr)*>(base);
  loader =
      CodeAt(base, reinterpret_cast<const ElfW(Phdr)*>(base + header->e_phoff), header->e_phnum);
}

void FindLibc() {
  dl_iterate_phdr(
      [](dl_phdr_info* object, size_t, void*) {
        const Code code = CodeAt(object->dlpi_addr, object->dlpi_phdr, object->dlpi_phnum);
        if (!code.holds(reinterpret_cast<uintptr_t>(&gnu_get_libc_version))) return 0;
        libc = code;
        return 1;
      },
      nullptr);
}

// Of the budget's size, so that a heap that just fits does not wake for a chunk's rest.
Bytes ChunkFor(Bytes budget) {
  return std::clamp(Bytes(std::bit_floor(budget.raw() / 32)), Bytes(kZoneSize), Bytes(64 << 20));
}

absl::Status Begin(const Settings& settings) {
  const Bytes budget = settings.space.budget;
  auto* const map = new FarMap({settings.space, settings.allow_unseen_pins});
  absl::StatusOr<std::unique_ptr<FarHeap>> heap;
  for (Bytes reserve = kMostReserve; reserve >= kLeastReserve; reserve = Bytes(reserve.raw() / 4)) {
    heap = MakeProgramHeap(*map, reserve, ChunkFor(budget));
    if (heap.ok()) break;
  }
  if (!heap.ok()) return heap.status();
  SetFdFloor(kFdFloor);
  if (!settings.children) {
    unsetenv("SPIRITOS_CONF");
    unsetenv("LD_PRELOAD");
  }
  far_map.store(map, std::memory_order_release);
  far_heap.store(heap->release(), std::memory_order_release);
  StartReports(settings);
  StartAutoBudget(settings);
  return absl::OkStatus();
}

}  // namespace

void FindNextFunctions() {
  const NearScope near;
  FindNext(next.close, "close");
  FindNext(next.pread, "pread64");
  FindNext(next.readv, "readv");
  FindNext(next.preadv, "preadv64");
  FindNext(next.preadv2, "preadv64v2");
  FindNext(next.recvmsg, "recvmsg");
  FindNext(next.open, "open64");
  FindNext(next.openat, "openat64");
  FindNext(next.fcntl, "fcntl64");
  FindNext(next.read, "read");  // Last: who finds it finds all.
  FindNext(next.malloc_usable_size, "malloc_usable_size");
  FindNext(next.pthread_create, "pthread_create");
}

namespace {

// After the constructors of the libraries below, before those of the program.
[[gnu::constructor]] void Construct() {
  const NearScope near;
  FindNextFunctions();
  FindLoader();
  FindLibc();
  RegisterForkHandlers();
  const char* const text = secure_getenv("SPIRITOS_CONF");
  if (text == nullptr) return;
  FindDirectFiles();
  const absl::StatusOr<Settings> settings = ParseSettings(text);
  const absl::Status status = settings.ok() ? Begin(*settings) : settings.status();
  if (!status.ok()) {
    LogWarning(status.ToString());
    _exit(kCannotBegin);
  }
}

[[gnu::destructor]] void Destruct() {
  const NearScope near;
  ReportAll();
}

}  // namespace
}  // namespace spiritos::shim
