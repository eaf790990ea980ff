// SPDX-License-Identifier: Apache-2.0
// Bytes in and out: files, pipes, devices, and what moves bytes between them.
#include <fcntl.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <termios.h>

#include "test/e2e/system_calls/trial.h"

namespace system_calls {
namespace {

constexpr size_t kSize = 3000;
using Vectors = std::array<iovec, 2>;

struct Pipe {
  Pipe() : Pipe(Make()) {}
  explicit Pipe(std::array<int, 2> ends) : from(ends[0]), to(ends[1]) {}
  static std::array<int, 2> Make() {
    std::array<int, 2> ends;
    Require(pipe2(ends.data(), O_NONBLOCK) == 0, "pipe2");
    return ends;
  }
  void Fill(size_t size) const {
    std::array<std::byte, kPage> bytes;
    FillPattern(bytes.data(), size);
    Require(write(to, bytes.data(), size) == static_cast<ssize_t>(size), "write");
  }
  // How much there is, and whether it is the pattern.
  void See(Trial& t) const { SeeFrom(t, from); }
  static void SeeFrom(Trial& t, int fd) {
    std::array<std::byte, 4 * kPage> bytes;
    const ssize_t size = read(fd, bytes.data(), bytes.size());
    t.See(size);
    ssize_t same = 0;
    while (same < size && bytes[static_cast<size_t>(same)] == Pattern(static_cast<size_t>(same)))
      ++same;
    t.See(same);
  }
  File from;
  File to;
};

int OpenPattern(int flags = O_RDONLY) { return open(kPatternFile, flags); }
// Without a name.
int OpenScratch() { return open(".", O_TMPFILE | O_RDWR, 0600); }
void SeeFile(Trial& t, int fd) {
  lseek(fd, 0, SEEK_SET);
  Pipe::SeeFrom(t, fd);
}

std::byte* Filled(Trial& t, size_t size = kSize) {
  std::byte* const at = t.Out(size);
  FillPattern(at, size);
  return at;
}

// Two buffers, and where they are.
iovec* OutVectors(Trial& t) {
  return t.Kept(t.In(Vectors{{{t.Out(1000), 1000}, {t.Out(500), 500}}}), 2);
}
iovec* InVectors(Trial& t) {
  std::byte* const first = t.Out(1000);
  std::byte* const second = t.Out(500);
  for (size_t i = 0; i < 1000; ++i) first[i] = Pattern(i);
  for (size_t i = 0; i < 500; ++i) second[i] = Pattern(1000 + i);
  return t.Kept(t.In(Vectors{{{first, 1000}, {second, 500}}}), 2);
}

void Read(Trial& t, int fd) {
  std::byte* const to = t.Out(kSize);
  t.Ready();
  t.Returned(read(fd, to, kSize));
}

void ReadDirectly(Trial& t) {
  const File file(OpenPattern(O_RDONLY | O_DIRECT));
  std::byte* const to = t.Pages();
  t.Ready();
  t.Returned(pread(file, to, 2 * kPage, kPage));
}

void WriteDirectly(Trial& t) {
  const File file(open(".", O_TMPFILE | O_RDWR | O_DIRECT, 0600));
  std::byte* const from = t.Pages();
  FillPattern(from, 2 * kPage);
  t.Ready();
  t.Returned(pwrite(file, from, 2 * kPage, 0));
  fcntl(file, F_SETFL, 0);
  SeeFile(t, file);
}

void SpliceVectors(Trial& t) {
  const Pipe pipe;
  const iovec* const from = InVectors(t);
  t.Ready();
  t.Returned(vmsplice(pipe.to, from, 2, 0));
  pipe.See(t);
}

void SpliceToVectors(Trial& t) {
  const Pipe pipe;
  pipe.Fill(1500);
  const iovec* const to = OutVectors(t);
  t.Ready();
  t.Returned(vmsplice(pipe.from, to, 2, 0));
  pipe.See(t);
}

void TeeOfSpliced(Trial& t) {
  const Pipe pipe;
  const Pipe copy;
  const iovec* const from = InVectors(t);
  t.Ready();
  t.Returned(vmsplice(pipe.to, from, 2, 0));
  t.Ready();
  t.Returned(tee(pipe.from, copy.to, kPage, SPLICE_F_NONBLOCK));
  copy.See(t);
  pipe.See(t);
}

void SendFileToSocket(Trial& t) {
  std::array<int, 2> ends;
  Require(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends.data()) == 0, "socketpair");
  const File to(ends[0]);
  const File from(ends[1]);
  const File file(OpenPattern());
  off_t* const offset = t.In(off_t{0});
  t.Ready();
  t.Returned(sendfile(to, file, offset, kSize));
  t.See(t.Get(offset));
}

void CopyRange(Trial& t) {
  const File file(OpenPattern());
  const File scratch(OpenScratch());
  loff_t* const from = t.In(loff_t{0});
  loff_t* const to = t.In(loff_t{0});
  t.Ready();
  t.Returned(copy_file_range(file, from, scratch, to, kSize, 0));
  SeeFile(t, scratch);
}

void SpliceFile(Trial& t) {
  const Pipe pipe;
  const File file(OpenPattern());
  loff_t* const offset = t.In(loff_t{0});
  t.Ready();
  t.Returned(splice(file, offset, pipe.to, nullptr, kSize, 0));
  pipe.See(t);
}

// A terminal of its own.
int OpenTerminal() {
  const int fd = posix_openpt(O_RDWR | O_NOCTTY);
  Require(fd >= 0 && grantpt(fd) == 0 && unlockpt(fd) == 0, "posix_openpt");
  return fd;
}

void WindowSize(Trial& t) {
  const File terminal(OpenTerminal());
  const winsize* const in = t.In(winsize{33, 99, 0, 0});
  winsize* const out = t.Out<winsize>();
  t.Ready();
  t.Returned(ioctl(terminal, TIOCSWINSZ, in));
  t.Ready();
  t.Returned(ioctl(terminal, TIOCGWINSZ, out));
}

void TerminalModes(Trial& t) {
  const File terminal(OpenTerminal());
  // The kernel's is shorter than the C library's.
  void* const modes = t.Out(36);
  t.Ready();
  t.Returned(syscall(SYS_ioctl, static_cast<int>(terminal), TCGETS, modes));
  if (!t.usable()) return;
  t.Ready();
  t.Returned(syscall(SYS_ioctl, static_cast<int>(terminal), TCSETS, modes));
}

void Watched(Trial& t) {
  const File watch(inotify_init1(IN_NONBLOCK));
  const char* const path = t.Text(".");
  std::byte* const event = t.Out(256);
  t.Ready();
  t.Returned(syscall(SYS_inotify_add_watch, static_cast<int>(watch), path, IN_CREATE));
  const File made(open("watched", O_CREAT | O_RDWR, 0600));
  unlink("watched");
  t.Ready();
  t.Returned(read(watch, event, 256));
}

void Locks(Trial& t) {
  const File file(OpenScratch());
  struct flock lock {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  lock.l_start = 10;
  lock.l_len = 20;
  for (const int command : {F_SETLK, F_GETLK, F_OFD_SETLK, F_OFD_GETLK}) {
    struct flock* const at = t.Ignored(t.In(lock));
    t.Ready();
    t.Returned(syscall(SYS_fcntl, static_cast<int>(file), command, at));
    t.See(t.Get(at).l_type);  // It holds a number of a process.
  }
}

void Owner(Trial& t) {
  const Pipe pipe;
  f_owner_ex* const owner = t.Out<f_owner_ex>();
  t.Ready();
  t.Returned(fcntl(pipe.from, F_GETOWN_EX, owner));
}

void Named(Trial& t) {
  const char* const name = t.Text("a name of memory");
  t.Ready();
  const int fd = t.ReturnedFd(memfd_create(name, MFD_CLOEXEC));
  if (fd < 0) return;
  std::byte* const from = Filled(t);
  std::byte* const to = t.Out(kSize);
  t.Ready();
  t.Returned(write(fd, from, kSize));
  t.Ready();
  t.Returned(pread(fd, to, kSize, 100));
  // The file's own pages, mapped.
  void* const mapped = mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  Require(mapped != MAP_FAILED, "mmap");
  t.Ready();
  t.Returned(pwrite(fd, from, kSize, 0));
  t.See(std::memcmp(mapped, from, kSize));
  munmap(mapped, kPage);
}

// Entries in the order of the folder, which depends on more than their names.
void Entries(Trial& t) {
  Require(mkdir("folder", 0700) == 0, "mkdir");
  for (const char* const name : {"folder/a1", "folder/b2", "folder/c3"}) {
    const File made(open(name, O_CREAT | O_RDWR, 0600));
  }
  {
    const File folder(open("folder", O_RDONLY | O_DIRECTORY));
    std::byte* const entries = t.Ignored(t.Out(240), 240);
    t.Ready();
    t.Returned(syscall(SYS_getdents64, static_cast<int>(folder), entries, 240));
    unsigned names = 0;
    for (size_t at = 0; at + 24 <= 240 && t.usable(); at += 24) {
      if (entries[at + 16] == std::byte{24}) names += static_cast<unsigned>(entries[at + 19]);
    }
    t.See(names);
  }
  for (const char* const name : {"folder/a1", "folder/b2", "folder/c3"}) unlink(name);
  rmdir("folder");
}

constexpr Row kRows[] = {
    {"read file", [](Trial& t) { Read(t, File(OpenPattern())); }},
    {"read pipe",
     [](Trial& t) {
       const Pipe pipe;
       pipe.Fill(kSize);
       Read(t, pipe.from);
       pipe.See(t);  // What an error leaves there.
     }},
    {"read eventfd",
     [](Trial& t) {
       const File file(eventfd(5, EFD_NONBLOCK));
       uint64_t* const count = t.Out<uint64_t>();
       t.Ready();
       t.Returned(read(file, count, sizeof(*count)));
       uint64_t left = 0;
       t.See(read(file, &left, sizeof(left)));
     }},
    {"read /dev/zero", [](Trial& t) { Read(t, File(open("/dev/zero", O_RDONLY))); }},
    {"read /proc", [](Trial& t) { Read(t, File(open("/proc/sys/kernel/ostype", O_RDONLY))); }},
    {"read terminal",
     [](Trial& t) {
       const File terminal(OpenTerminal());
       const File other(ioctl(terminal, TIOCGPTPEER, O_RDWR | O_NOCTTY));
       Require(write(other, "a line\n", 7) == 7, "write");
       Read(t, terminal);
     }},
    {"read O_DIRECT", ReadDirectly},
    {"write O_DIRECT", WriteDirectly},
    {"write file",
     [](Trial& t) {
       const File file(OpenScratch());
       const std::byte* const from = Filled(t);
       t.Ready();
       t.Returned(write(file, from, kSize));
       SeeFile(t, file);
     }},
    {"write pipe",
     [](Trial& t) {
       const Pipe pipe;
       const std::byte* const from = Filled(t);
       t.Ready();
       t.Returned(write(pipe.to, from, kSize));
       pipe.See(t);
     }},
    {"write eventfd",
     [](Trial& t) {
       const File file(eventfd(0, EFD_NONBLOCK));
       const uint64_t* const count = t.In(uint64_t{7});
       t.Ready();
       t.Returned(write(file, count, sizeof(*count)));
       uint64_t sum = 0;
       t.See(read(file, &sum, sizeof(sum)));
       t.See(static_cast<long>(sum));
     }},
    {"write /dev/null",
     [](Trial& t) {
       const File file(open("/dev/null", O_WRONLY));
       const std::byte* const from = Filled(t);
       t.Ready();
       t.Returned(write(file, from, kSize));
     }},
    {"pread",
     [](Trial& t) {
       const File file(OpenPattern());
       std::byte* const to = t.Out(kSize);
       t.Ready();
       t.Returned(pread(file, to, kSize, 1234));
     }},
    {"pwrite",
     [](Trial& t) {
       const File file(OpenScratch());
       const std::byte* const from = Filled(t);
       t.Ready();
       t.Returned(pwrite(file, from, kSize, 0));
       SeeFile(t, file);
     }},
    {"readv",
     [](Trial& t) {
       const File file(OpenPattern());
       const iovec* const to = OutVectors(t);
       t.Ready();
       t.Returned(readv(file, to, 2));
     }},
    {"readv pipe",
     [](Trial& t) {
       const Pipe pipe;
       pipe.Fill(1500);
       const iovec* const to = OutVectors(t);
       t.Ready();
       t.Returned(readv(pipe.from, to, 2));
       pipe.See(t);
     }},
    {"preadv",
     [](Trial& t) {
       const File file(OpenPattern());
       const iovec* const to = OutVectors(t);
       t.Ready();
       t.Returned(preadv(file, to, 2, 321));
     }},
    {"preadv2",
     [](Trial& t) {
       const File file(OpenPattern());
       const iovec* const to = OutVectors(t);
       t.Ready();
       t.Returned(preadv2(file, to, 2, 321, 0));
     }},
    {"writev",
     [](Trial& t) {
       const Pipe pipe;
       const iovec* const from = InVectors(t);
       t.Ready();
       t.Returned(writev(pipe.to, from, 2));
       pipe.See(t);
     }},
    {"pwritev",
     [](Trial& t) {
       const File file(OpenScratch());
       const iovec* const from = InVectors(t);
       t.Ready();
       t.Returned(pwritev(file, from, 2, 0));
       SeeFile(t, file);
     }},
    {"pwritev2",
     [](Trial& t) {
       const File file(OpenScratch());
       const iovec* const from = InVectors(t);
       t.Ready();
       t.Returned(pwritev2(file, from, 2, 0, RWF_DSYNC));
       SeeFile(t, file);
     }},
    {"vmsplice to a pipe", SpliceVectors},
    {"vmsplice from a pipe", SpliceToVectors},
    {"tee", TeeOfSpliced},
    {"splice", SpliceFile},
    {"sendfile", SendFileToSocket},
    {"copy_file_range", CopyRange},
    {"getdents64", Entries},
    {"ioctl FIONREAD",
     [](Trial& t) {
       const Pipe pipe;
       pipe.Fill(77);
       int* const size = t.Out<int>();
       t.Ready();
       t.Returned(ioctl(pipe.from, FIONREAD, size));
     }},
    {"ioctl FIONBIO",
     [](Trial& t) {
       const Pipe pipe;
       const int* const on = t.In(0);
       t.Ready();
       t.Returned(ioctl(pipe.from, FIONBIO, on));
       t.See(fcntl(pipe.from, F_GETFL) & O_NONBLOCK);
     }},
    {"ioctl TIOCGWINSZ", WindowSize},
    {"ioctl TCGETS", TerminalModes},
    {"fcntl locks", Locks},
    {"fcntl F_GETOWN_EX", Owner},
    {"inotify", Watched},
    {"memfd", Named},
    {"pipe2",
     [](Trial& t) {
       int* const ends = t.Ignored(t.Out<std::array<int, 2>>())->data();
       t.Ready();
       if (t.Returned(syscall(SYS_pipe2, ends, O_CLOEXEC)) != 0) return;
       const File from(t.Get(ends));
       const File to(t.Get(ends, 1));
       t.See(write(to, "ab", 2));
     }},
};

}  // namespace

std::span<const Row> IoRows() { return kRows; }

}  // namespace system_calls
