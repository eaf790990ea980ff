// SPDX-License-Identifier: Apache-2.0
// System calls with arguments in memory that is here, away, half away, leaving or forbidden.
//
//   system_calls FOLDER [pins]   (of a file system with O_DIRECT)
//
// It is run twice, as it is and under the shim: what it prints must be equal, a line for each
// call and residence. It knows of no far memory, but asks the kernel for pages to leave; on
// standard error it says how many of those that were to be absent were so.
//
// `pins`: asynchronous I/O comes first, after which pages leave by another way.
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include <cstdio>
#include <string>
#include <vector>

#include "test/e2e/system_calls/trial.h"

namespace system_calls {
namespace {

// Of memory that the program has besides; under the shim more than may be here.
constexpr size_t kCrowdPages = 12288;
constexpr int kRounds = 8;
constexpr int kSlowRounds = 2;

class Crowd {
 public:
  Crowd() {
    void* const at = mmap(nullptr, kCrowdPages * kPage, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    Require(at != MAP_FAILED, "mmap");
    words_ = static_cast<uint64_t*>(at);
    for (size_t page = 0; page < kCrowdPages; ++page) WordOf(page) = page * 7 + 1;
  }
  bool IsWhole() const {
    for (size_t page = 0; page < kCrowdPages; ++page) {
      if (WordOf(page) != page * 7 + 1) return false;
    }
    return true;
  }

 private:
  uint64_t& WordOf(size_t page) const { return words_[page * kPage / sizeof(uint64_t)]; }
  uint64_t* words_;
};

void MakePatternFile() {
  std::vector<std::byte> bytes(kPatternSize);
  FillPattern(bytes.data(), bytes.size());
  const File file(open(kPatternFile, O_CREAT | O_WRONLY | O_TRUNC, 0600));
  Require(write(file, bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()), "write");
}

std::string Try(Stage& stage, const Row& row, Residence residence) {
  Trial trial(stage, residence);
  row.run(trial);
  return trial.Finish();
}

// Rounds that see different things are told apart by their lines.
void Run(Stage& stage, const Row& row) {
  for (size_t i = 0; i < kResidenceNames.size(); ++i) {
    const auto residence = static_cast<Residence>(i);
    const int rounds = residence != Residence::kLeaving ? 1 : row.slow ? kSlowRounds : kRounds;
    std::string before;
    for (int round = 0; round < rounds; ++round) {
      std::string line = Try(stage, row, residence);
      if (line == before) continue;
      std::printf("%s, %s:%s\n", row.name, kResidenceNames[i], line.c_str());
      before = std::move(line);
    }
  }
}

void PinBefore() {
  aio_context_t context = 0;
  if (syscall(SYS_io_setup, 1, &context) == 0) syscall(SYS_io_destroy, context);
}

}  // namespace
}  // namespace system_calls

int main(int argc, char** argv) {
  using namespace system_calls;
  const bool pins = argc == 3 && std::string_view(argv[2]) == "pins";
  if (argc != 2 && !pins) {
    std::fprintf(stderr, "usage: system_calls FOLDER [pins]\n");
    return 2;
  }
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  Require(chdir(argv[1]) == 0, argv[1]);
  sigset_t blocked;
  sigemptyset(&blocked);
  sigaddset(&blocked, kBlockedSignal);
  sigprocmask(SIG_BLOCK, &blocked, nullptr);
  if (pins) PinBefore();
  const Crowd crowd;
  MakePatternFile();
  Stage stage;
  size_t calls = 0;
  for (const std::span<const Row> rows :
       {IoRows(), WaitRows(), NameRows(), SocketRows(), TimeRows(), SignalRows(), ProcessRows(),
        MemoryRows(), PinningRows()}) {
    for (const Row& row : rows) Run(stage, row);
    calls += rows.size();
  }
  std::printf("%zu calls, %zu residences; the rest of the memory is %s\n", calls,
              kResidenceNames.size(), crowd.IsWhole() ? "whole" : "WRONG");
  unlink(kPatternFile);
  std::fprintf(stderr, "absent %llu\nwanted %llu\n",
               static_cast<unsigned long long>(stage.absent()),
               static_cast<unsigned long long>(stage.wanted()));
  return 0;
}
