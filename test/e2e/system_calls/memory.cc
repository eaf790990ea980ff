// SPDX-License-Identifier: Apache-2.0
// Calls about memory itself; other processes' and other ways' access to it; asynchronous I/O.
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include <cerrno>

#include "test/e2e/system_calls/trial.h"

namespace system_calls {
namespace {

constexpr size_t kSize = 3000;
// Linux 6.13; the C library has no names for them yet.
constexpr int kGuardInstall = 102;
constexpr int kGuardRemove = 103;

std::byte* Filled(Trial& t, size_t size = kSize) {
  std::byte* const at = t.Out(size);
  FillPattern(at, size);
  return at;
}

void ReadOwn(Trial& t) {
  const std::byte* const from = Filled(t);
  std::byte* const to = t.Out(kSize);
  const iovec* const local = t.Kept(t.In(iovec{to, kSize}));
  const iovec* const remote = t.Kept(t.In(iovec{const_cast<std::byte*>(from), kSize}));
  t.Ready();
  t.Returned(process_vm_readv(getpid(), local, 1, remote, 1, 0));
}

void WriteOwn(Trial& t) {
  const std::byte* const from = Filled(t);
  std::byte* const to = t.Out(kSize);
  const iovec* const local = t.Kept(t.In(iovec{const_cast<std::byte*>(from), kSize}));
  const iovec* const remote = t.Kept(t.In(iovec{to, kSize}));
  t.Ready();
  t.Returned(process_vm_writev(getpid(), local, 1, remote, 1, 0));
}

// What `work` returns in a child, which knows where the parent's memory is.
template <typename Work>
void InChild(Trial& t, Work&& work) {
  struct Report {
    std::atomic<long> result;
    std::atomic<int> error;
    std::atomic<long> same;
  };
  void* const shared =
      mmap(nullptr, sizeof(Report), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  Require(shared != MAP_FAILED, "mmap");
  auto* const report = new (shared) Report{};
  const pid_t parent = getpid();
  t.Ready();
  const pid_t child = fork();
  if (child == 0) {
    long same = 0;
    report->result = work(parent, &same);
    report->error = errno;
    report->same = same;
    _exit(0);
  }
  Require(child > 0 && waitpid(child, nullptr, 0) == child, "fork");
  errno = report->error;
  t.Returned(report->result);
  t.See(report->same);
  munmap(shared, sizeof(Report));
}

void ReadParents(Trial& t) {
  const std::byte* const from = Filled(t);
  InChild(t, [from](pid_t parent, long* same) {
    std::array<std::byte, kSize> bytes{};
    const iovec local{bytes.data(), kSize};
    const iovec remote{const_cast<std::byte*>(from), kSize};
    const ssize_t size = process_vm_readv(parent, &local, 1, &remote, 1, 0);
    for (ssize_t i = 0; i < size; ++i) {
      *same += bytes[static_cast<size_t>(i)] == Pattern(static_cast<size_t>(i));
    }
    return size;
  });
}

void WriteParents(Trial& t) {
  std::byte* const to = t.Out(kSize);
  InChild(t, [to](pid_t parent, long*) {
    std::array<std::byte, kSize> bytes;
    FillPattern(bytes.data(), kSize);
    const iovec local{bytes.data(), kSize};
    const iovec remote{to, kSize};
    return process_vm_writev(parent, &local, 1, &remote, 1, 0);
  });
}

// Its own, by the file that debuggers use.
void ReadByFile(Trial& t) {
  const File memory(open("/proc/self/mem", O_RDWR));
  const std::byte* const from = Filled(t);
  std::array<std::byte, kSize> bytes;
  bytes.fill(std::byte{0xEE});
  t.Ready();
  t.Returned(
      pread(memory, bytes.data(), kSize, static_cast<off_t>(reinterpret_cast<uintptr_t>(from))));
  size_t same = 0;
  while (same < kSize && bytes[same] == Pattern(same)) ++same;
  t.See(static_cast<long>(same));
}

// By a debugger.
void Peek(Trial& t) {
  const uint64_t* const word = t.Word(uint64_t{0x0123456789ABCDEF});
  InChild(t, [word](pid_t parent, long* same) -> long {
    if (ptrace(PTRACE_SEIZE, parent, nullptr, nullptr) != 0) return -2;
    ptrace(PTRACE_INTERRUPT, parent, nullptr, nullptr);
    waitpid(parent, nullptr, __WALL);
    errno = 0;
    const long seen = ptrace(PTRACE_PEEKDATA, parent, word, nullptr);
    const int error = errno;
    *same = seen == 0x0123456789ABCDEF;
    ptrace(PTRACE_DETACH, parent, nullptr, nullptr);
    errno = error;
    return error == 0 ? 0 : -1;
  });
}

void Residents(Trial& t) {
  const File file(open(kPatternFile, O_RDONLY));
  void* const at = mmap(nullptr, kPatternSize, PROT_READ, MAP_SHARED, file, 0);
  Require(at != MAP_FAILED, "mmap");
  Require(*static_cast<volatile std::byte*>(at) == Pattern(0), kPatternFile);
  std::byte* const vector = t.Out(kPatternSize / kPage);
  t.Ready();
  t.Returned(mincore(at, kPatternSize, reinterpret_cast<unsigned char*>(vector)));
  munmap(at, kPatternSize);
}

// Calls on the pages themselves. Their bytes are seen at the end.
std::byte* FilledPages(Trial& t) {
  std::byte* const at = t.Pages();
  FillPattern(at, 2 * kPage);
  return at;
}

void Advise(Trial& t, int advice) {
  std::byte* const at = FilledPages(t);
  t.Ready();
  t.Returned(madvise(at, 2 * kPage, advice));
}

void Guard(Trial& t) {
  std::byte* const at = FilledPages(t);
  t.Ready();
  t.Returned(madvise(at, 2 * kPage, kGuardInstall));
  t.See(madvise(at, 2 * kPage, kGuardRemove));
}

// The kernel holds to it that two pages may not be stored to, until they may again.
void SeeProtected(Trial& t, std::byte* at) {
  if (!t.usable()) return;
  const File zero(open("/dev/zero", O_RDONLY));
  t.See(read(zero, at, 100));
  t.See(mprotect(at, 2 * kPage, PROT_READ | PROT_WRITE));
}

void Protect(Trial& t, int protection) {
  std::byte* const at = FilledPages(t);
  t.Ready();
  t.Returned(mprotect(at, 2 * kPage, protection));
  SeeProtected(t, at);
}

void ProtectByKey(Trial& t) {
  std::byte* const at = FilledPages(t);
  t.Ready();
  t.Returned(pkey_mprotect(at, 2 * kPage, PROT_READ, -1));
  SeeProtected(t, at);
}

void Lock(Trial& t) {
  std::byte* const at = FilledPages(t);
  t.Ready();
  t.Returned(mlock(at, 2 * kPage));
  t.See(munlock(at, 2 * kPage));
}

void LockOnFault(Trial& t) {
  std::byte* const at = FilledPages(t);
  t.Ready();
  t.Returned(mlock2(at, 2 * kPage, MLOCK_ONFAULT));
  t.See(munlock(at, 2 * kPage));
}

void Synchronize(Trial& t) {
  std::byte* const at = FilledPages(t);
  t.Ready();
  t.Returned(msync(at, 2 * kPage, MS_SYNC));
}

void Policy(Trial& t) {
  int* const mode = t.Out<int>();
  t.Ready();
  t.Returned(syscall(SYS_get_mempolicy, mode, nullptr, 0, nullptr, 0));
}

void AdviseProcess(Trial& t) {
  const File process(static_cast<int>(syscall(SYS_pidfd_open, getpid(), 0)));
  std::byte* const at = FilledPages(t);
  const iovec* const vector = t.Kept(t.In(iovec{at, 2 * kPage}));
  t.Ready();
  t.Returned(syscall(SYS_process_madvise, static_cast<int>(process), vector, 1, MADV_WILLNEED, 0));
}

constexpr Row kRows[] = {
    {"process_vm_readv", ReadOwn},
    {"process_vm_readv by a child", ReadParents, true},
    {"process_vm_writev by a child", WriteParents, true},
    {"/proc/self/mem", ReadByFile},
    {"ptrace PEEKDATA", Peek, true},
    {"mincore", Residents},
    {"madvise MADV_POPULATE_READ", [](Trial& t) { Advise(t, MADV_POPULATE_READ); }},
    {"madvise MADV_POPULATE_WRITE", [](Trial& t) { Advise(t, MADV_POPULATE_WRITE); }},
    {"madvise MADV_WILLNEED", [](Trial& t) { Advise(t, MADV_WILLNEED); }},
    {"madvise MADV_COLD", [](Trial& t) { Advise(t, MADV_COLD); }},
    {"madvise MADV_DONTNEED", [](Trial& t) { Advise(t, MADV_DONTNEED); }},
    {"madvise MADV_DONTNEED_LOCKED", [](Trial& t) { Advise(t, MADV_DONTNEED_LOCKED); }},
    {"madvise MADV_REMOVE", [](Trial& t) { Advise(t, MADV_REMOVE); }},
    {"madvise MADV_DONTDUMP", [](Trial& t) { Advise(t, MADV_DONTDUMP); }},
    {"madvise guards", Guard},
    {"madvise of no meaning", [](Trial& t) { Advise(t, 12345); }},
    {"process_madvise", AdviseProcess},
    {"mprotect PROT_READ", [](Trial& t) { Protect(t, PROT_READ); }},
    {"pkey_mprotect PROT_READ", ProtectByKey},
    {"mprotect PROT_NONE", [](Trial& t) { Protect(t, PROT_NONE); }},
    {"mlock, munlock", Lock},
    {"mlock2 MLOCK_ONFAULT", LockOnFault},
    {"msync", Synchronize},
    {"get_mempolicy", Policy},
};

// One request from begin to end. A structure that cannot be read is an error at once; a
// buffer that cannot be used is one of the request's.
void Asynchronous(Trial& t, unsigned short operation) {
  aio_context_t* const context = t.Ignored(t.In(aio_context_t{0}));
  const File file(open(".", O_TMPFILE | O_RDWR, 0600));
  std::array<std::byte, kSize> bytes;
  FillPattern(bytes.data(), kSize);
  Require(pwrite(file, bytes.data(), kSize, 0) == static_cast<ssize_t>(kSize), "pwrite");
  std::byte* const buffer = operation == IOCB_CMD_PREAD ? t.Out(kSize) : Filled(t);
  iocb request{};
  request.aio_fildes = static_cast<uint32_t>(static_cast<int>(file));
  request.aio_lio_opcode = operation;
  request.aio_buf = reinterpret_cast<uintptr_t>(buffer);
  request.aio_nbytes = kSize;
  // The kernel writes a key to it.
  iocb* const at = t.Ignored(t.In(request));
  iocb** const list = t.Kept(t.In(at));
  io_event* const event = t.Ignored(t.Out<io_event>());
  timespec* const timeout = t.In(timespec{100, 0});
  t.Ready();
  if (t.Returned(syscall(SYS_io_setup, 1, context)) != 0) return;
  const aio_context_t made = t.Get(context);
  t.Ready();
  if (t.Returned(syscall(SYS_io_submit, made, 1, list)) == 1) {
    t.Ready();
    t.Returned(syscall(SYS_io_getevents, made, 1, 1, event, timeout));
    t.See(static_cast<long>(t.Get(event).res));
  }
  syscall(SYS_io_destroy, made);
}

constexpr Row kPinningRows[] = {
    {"process_vm_writev", WriteOwn},
    {"asynchronous read", [](Trial& t) { Asynchronous(t, IOCB_CMD_PREAD); }, true},
    {"asynchronous write", [](Trial& t) { Asynchronous(t, IOCB_CMD_PWRITE); }, true},
};

}  // namespace

std::span<const Row> MemoryRows() { return kRows; }
std::span<const Row> PinningRows() { return kPinningRows; }

}  // namespace system_calls
