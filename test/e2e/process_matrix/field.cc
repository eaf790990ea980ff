// SPDX-License-Identifier: Apache-2.0
// Memory whose bytes are known.
#include "test/e2e/process_matrix/field.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace process_matrix {
namespace {

constexpr size_t kWords = kPage / sizeof(uint64_t);
std::array<uint32_t, Field::kPages> versions;

uint64_t ContentOf(size_t page, uint32_t version) {
  return (page + 1) * 0x9E3779B97F4A7C15ull ^ version;
}

}  // namespace

void Require(bool good, const char* what) {
  if (good) return;
  std::printf("%s: %s\n", what, std::strerror(errno));
  std::fflush(stdout);
  _exit(2);
}

std::byte* MapBytes(size_t size) {
  void* const at = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  Require(at != MAP_FAILED, "mmap");
  return static_cast<std::byte*>(at);
}

void SendAway(const void* at, size_t size) {
  const auto begin = reinterpret_cast<uintptr_t>(at) / kPage * kPage;
  const auto end = (reinterpret_cast<uintptr_t>(at) + size + kPage - 1) / kPage * kPage;
  Require(madvise(reinterpret_cast<void*>(begin), end - begin, MADV_PAGEOUT) == 0, "MADV_PAGEOUT");
}

Field::Field() : bytes_(MapBytes(kPages * kPage)) { StoreAll(1); }

void Field::Store(size_t page, uint32_t version) {
  auto* const words = reinterpret_cast<volatile uint64_t*>(at(page));
  versions[page] = version;
  words[page % kWords] = ContentOf(page, version);
  words[kWords - 1 - page % kWords] = ContentOf(page, version);
}

void Field::StoreAll(uint32_t version, size_t first, size_t step) {
  for (size_t page = first; page < kPages; page += step) Store(page, version);
}

bool Field::IsWhole(size_t page) const {
  const auto* const words = reinterpret_cast<volatile uint64_t*>(at(page));
  const uint64_t content = ContentOf(page, versions[page]);
  return words[page % kWords] == content && words[kWords - 1 - page % kWords] == content;
}

bool Field::IsWhole() const {
  for (size_t page = 0; page < kPages; ++page) {
    if (!IsWhole(page)) return false;
  }
  return true;
}

std::string AwaitEnd(pid_t child) {
  int status = 0;
  pid_t ended;
  do {
    ended = waitpid(child, &status, 0);
  } while (ended < 0 && errno == EINTR);
  if (ended != child) return std::string("nobody: ") + std::strerror(errno);
  if (WIFSIGNALED(status)) return std::string("SIG") + sigabbrev_np(WTERMSIG(status));
  return "exit " + std::to_string(WEXITSTATUS(status));
}

void Findings::ExpectEnd(pid_t child, const std::string& how) {
  const std::string end = AwaitEnd(child);
  Expect(end == how, "a child ended by " + end + ", not by " + how);
}

}  // namespace process_matrix
