// SPDX-License-Identifier: Apache-2.0
// I/O to and from memory past its page tables, in a program that knows of no far memory.
//
// usage: unseen_io FOLDER [early]   (of a file system with O_DIRECT)
//
// `early`: it asks for io_uring while its memory is still small, too.
// A second thread goes through more memory than is local meanwhile, so that what the kernel
// has pinned is a victim like any other. Prints what was checked; ends with 1 at the first
// wrong byte.
#include <fcntl.h>
#include <liburing.h>
#include <linux/aio_abi.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <thread>

namespace {

constexpr size_t kPage = 4096;
constexpr size_t kFilePages = 2048;
constexpr size_t kBufferPages = 2048;
constexpr size_t kOtherPages = 16384;

[[noreturn]] void Fail(const char* what) {
  std::printf("%s: %s\n", what, std::strerror(errno));
  std::exit(2);
}

uint64_t* MapPages(size_t pages) {
  void* const at =
      mmap(nullptr, pages * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED) Fail("mmap");
  return static_cast<uint64_t*>(at);
}

uint64_t& WordOf(uint64_t* at, size_t page, size_t word = 0) {
  return at[page * kPage / sizeof(uint64_t) + word];
}

uint64_t ContentOf(size_t file_page) { return file_page * 0x9E3779B97F4A7C15ull + 1; }

void CheckPages(uint64_t* at, size_t first, size_t count, size_t file_page, const char* what) {
  for (size_t page = 0; page < count; ++page) {
    for (const size_t word : {size_t{0}, kPage / 8 - 1}) {
      if (WordOf(at, first + page, word) == ContentOf(file_page + page)) continue;
      std::printf("%s: page %zu of %zu is wrong\n", what, page, count);
      std::exit(1);
    }
  }
}

// Needs every frame there is, and says how often it has been through.
class Crowd {
 public:
  Crowd() : pages_(MapPages(kOtherPages)), thread_([this] { Run(); }) {}
  ~Crowd() {
    stop_ = true;
    thread_.join();
  }
  void AwaitPasses(uint64_t more) const {
    const uint64_t until = passes_ + more;
    while (passes_ < until) std::this_thread::yield();
  }

 private:
  void Run() {
    for (uint64_t pass = 0; !stop_; ++pass, ++passes_) {
      for (size_t page = 0; page < kOtherPages && !stop_; ++page) {
        if (WordOf(pages_, page) != (pass == 0 ? 0 : pass + page)) std::abort();
        WordOf(pages_, page) = pass + 1 + page;
      }
    }
  }

  uint64_t* const pages_;
  std::atomic<bool> stop_{false};
  std::atomic<uint64_t> passes_{0};
  std::thread thread_;
};

ssize_t ReadSomehow(unsigned how, int fd, uint64_t* to, size_t size, off_t at) {
  const std::array<iovec, 2> halves = {{{to, size / 2}, {to + size / 16, size - size / 2}}};
  switch (how % 6) {
    case 0:
      return lseek(fd, at, SEEK_SET) < 0 ? -1 : read(fd, to, size);
    case 1:
      return pread(fd, to, size, at);
    case 2:
      return lseek(fd, at, SEEK_SET) < 0 ? -1 : readv(fd, halves.data(), 2);
    case 3:
      return preadv(fd, halves.data(), 2, at);
    case 4:
      return preadv2(fd, halves.data(), 2, at, 0);
    default:
      return syscall(SYS_pread64, fd, to, size, at);
  }
}

void DirectReads(int fd, uint64_t* buffer, std::mt19937_64& random) {
  for (unsigned round = 0; round < 120; ++round) {
    const size_t count = 2 << random() % 10;
    const size_t page = random() % (kFilePages - count);
    const size_t first = random() % (kBufferPages - count);
    std::memset(&WordOf(buffer, first), 0xAA, count * kPage);
    const ssize_t size = ReadSomehow(round, fd, &WordOf(buffer, first), count * kPage,
                                     static_cast<off_t>(page * kPage));
    if (size != static_cast<ssize_t>(count * kPage)) Fail("read");
    CheckPages(buffer, first, count, page, "O_DIRECT");
  }
  // Beyond the end there is nothing; a buffer that cannot be written is an error.
  if (pread(fd, buffer, kPage, kFilePages * kPage) != 0) Fail("read at the end");
  if (mprotect(buffer, kPage, PROT_READ) != 0) Fail("mprotect");
  if (pread(fd, buffer, kPage, 0) != -1 || errno != EFAULT) Fail("read to memory without access");
  if (mprotect(buffer, kPage, PROT_READ | PROT_WRITE) != 0) Fail("mprotect");
  std::printf("O_DIRECT: 120 reads\n");
}

io_uring OpenRing() {
  io_uring ring;
  if (const int error = io_uring_queue_init(8, &ring, 0); error != 0) {
    errno = -error;
    Fail("io_uring_queue_init");
  }
  return ring;
}

void RegisteredBuffers(uint64_t* buffer, const Crowd& crowd, std::mt19937_64& random) {
  constexpr size_t kRegistered = 16;
  io_uring ring = OpenRing();
  std::array<int, 2> ends;
  if (pipe(ends.data()) != 0) Fail("pipe");
  for (unsigned round = 0; round < 10; ++round) {
    const size_t first = random() % (kBufferPages - kRegistered);
    for (size_t page = 0; page < kRegistered; ++page) WordOf(buffer, first + page, 7) = round;
    const iovec registered{&WordOf(buffer, first), kRegistered * kPage};
    if (io_uring_register_buffers(&ring, &registered, 1) != 0) Fail("io_uring_register_buffers");
    crowd.AwaitPasses(2);
    const size_t page = random() % kRegistered;
    const uint64_t value = random();
    if (write(ends[1], &value, sizeof(value)) != sizeof(value)) Fail("write");
    io_uring_prep_read_fixed(io_uring_get_sqe(&ring), ends[0], &WordOf(buffer, first + page),
                             sizeof(value), 0, 0);
    io_uring_cqe* cqe = nullptr;
    if (io_uring_submit_and_wait(&ring, 1) != 1) Fail("io_uring_submit_and_wait");
    if (io_uring_wait_cqe(&ring, &cqe) != 0 || cqe->res != sizeof(value)) Fail("READ_FIXED");
    io_uring_cqe_seen(&ring, cqe);
    if (WordOf(buffer, first + page) != value || WordOf(buffer, first + page, 7) != round) {
      std::printf("io_uring: what was read to a registered buffer is not there\n");
      std::exit(1);
    }
    if (io_uring_unregister_buffers(&ring) != 0) Fail("io_uring_unregister_buffers");
  }
  io_uring_queue_exit(&ring);
  close(ends[0]);
  close(ends[1]);
  std::printf("io_uring: 10 registered buffers\n");
}

void AsynchronousReads(int fd, uint64_t* buffer, std::mt19937_64& random) {
  aio_context_t context = 0;
  if (syscall(SYS_io_setup, 8, &context) != 0) Fail("io_setup");
  for (unsigned round = 0; round < 60; ++round) {
    const size_t count = 2 << random() % 10;
    const size_t page = random() % (kFilePages - count);
    const size_t first = random() % (kBufferPages - count);
    iocb request{};
    request.aio_fildes = static_cast<uint32_t>(fd);
    request.aio_lio_opcode = IOCB_CMD_PREAD;
    request.aio_buf = reinterpret_cast<uintptr_t>(&WordOf(buffer, first));
    request.aio_nbytes = count * kPage;
    request.aio_offset = static_cast<int64_t>(page * kPage);
    iocb* list = &request;
    if (syscall(SYS_io_submit, context, 1, &list) != 1) Fail("io_submit");
    io_event event{};
    while (syscall(SYS_io_getevents, context, 1, 1, &event, nullptr) != 1) {
      if (errno != EINTR) Fail("io_getevents");
    }
    if (event.res != static_cast<int64_t>(count * kPage)) Fail("asynchronous read");
    CheckPages(buffer, first, count, page, "AIO");
  }
  syscall(SYS_io_destroy, context);
  std::printf("AIO: 60 reads\n");
}

void Spliced(uint64_t* buffer, const Crowd& crowd, std::mt19937_64& random) {
  constexpr size_t kSpliced = 8;
  std::array<int, 2> ends;
  if (pipe(ends.data()) != 0) Fail("pipe");
  for (unsigned round = 0; round < 10; ++round) {
    const size_t first = random() % (kBufferPages - kSpliced);
    for (size_t page = 0; page < kSpliced; ++page) {
      WordOf(buffer, first + page) = ContentOf(round + page);
    }
    const iovec piece{&WordOf(buffer, first), kSpliced * kPage};
    if (vmsplice(ends[1], &piece, 1, 0) != kSpliced * kPage) Fail("vmsplice");
    crowd.AwaitPasses(1);
    for (size_t page = 0; page < kSpliced; ++page) {
      std::array<uint64_t, kPage / 8> out;
      if (read(ends[0], out.data(), kPage) != kPage) Fail("read");
      if (out[0] != ContentOf(round + page)) {
        std::printf("vmsplice: page %zu is wrong\n", page);
        std::exit(1);
      }
    }
  }
  std::printf("vmsplice: 10 pipes\n");
}

}  // namespace

int main(int argc, char** argv) {
  const bool early = argc == 3 && std::strcmp(argv[2], "early") == 0;
  if (argc != 2 && !early) return 2;
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  if (early) {
    io_uring ring = OpenRing();
    io_uring_queue_exit(&ring);
  }
  const std::string path = std::string(argv[1]) + "/direct";
  std::mt19937_64 random(7);
  uint64_t* const buffer = MapPages(kBufferPages);
  for (size_t page = 0; page < kFilePages; ++page) {
    WordOf(buffer, page) = WordOf(buffer, page, kPage / 8 - 1) = ContentOf(page);
  }
  const int fd = open(path.c_str(), O_CREAT | O_RDWR | O_TRUNC | O_DIRECT, 0600);
  if (fd < 0) Fail(path.c_str());
  // From memory to the device.
  if (pwrite(fd, buffer, kFilePages * kPage, 0) != kFilePages * kPage) Fail("write");
  {
    const Crowd crowd;
    crowd.AwaitPasses(1);
    DirectReads(fd, buffer, random);
    Spliced(buffer, crowd, random);
    RegisteredBuffers(buffer, crowd, random);
    AsynchronousReads(fd, buffer, random);
  }
  unlink(path.c_str());
  return 0;
}
