// SPDX-License-Identifier: Apache-2.0
// Where a trial's arguments are, and what became of them.
#include "test/e2e/system_calls/trial.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>

namespace system_calls {
namespace {

constexpr std::byte kFiller{0xEE};
constexpr int kMostEvictions = 4;

std::byte* MapBytes(size_t size, int protection = PROT_READ | PROT_WRITE) {
  void* const at = mmap(nullptr, size, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  Require(at != MAP_FAILED, "mmap");
  return static_cast<std::byte*>(at);
}

// With more room above, where the kernel puts what asks for none in particular: not into the
// holes, then.
std::byte* MapBelowRoom(size_t size) {
  constexpr size_t kRoom = size_t{64} << 20;
  std::byte* const room = MapBytes(kRoom, PROT_NONE);
  std::byte* const at = MapBytes(size);
  Require(munmap(room, kRoom) == 0, "munmap");
  return at;
}

bool IsPresent(std::byte* page) {
  unsigned char present = 1;
  Require(mincore(page, kPage, &present) == 0, "mincore");
  return (present & 1) != 0;
}

void SendAway(std::byte* page) { Require(madvise(page, kPage, MADV_PAGEOUT) == 0, "MADV_PAGEOUT"); }

}  // namespace

void Require(bool good, const char* what) {
  if (good) return;
  std::printf("%s: %s\n", what, std::strerror(errno));
  std::exit(2);
}

void FillPattern(std::byte* at, size_t size) {
  for (size_t i = 0; i < size; ++i) at[i] = Pattern(i);
}

Sweeper::Sweeper() : thread_([this] { Run(); }) {}

Sweeper::~Sweeper() {
  state_ = kEnding;
  state_.notify_one();
  thread_.join();
}

void Sweeper::Start(std::vector<std::byte*> pages) {
  pages_ = std::move(pages);
  const uint64_t before = passes_;
  sweeping_ = true;
  state_ = kSweeping;
  state_.notify_one();
  while (passes_ == before) std::this_thread::yield();
}

void Sweeper::Stop() {
  state_ = kIdle;
  while (sweeping_) std::this_thread::yield();
}

void Sweeper::Run() {
  while (state_ != kEnding) {
    state_.wait(kIdle);
    while (state_ == kSweeping) {
      for (std::byte* const page : pages_) madvise(page, kPage, MADV_PAGEOUT);
      ++passes_;
    }
    sweeping_ = false;
  }
}

Stage::Stage() : pages_(MapBytes(kSize)), holes_(MapBelowRoom(kSize)) {}

std::byte* Trial::LowPage(size_t argument) const {
  std::byte* const begin = residence_ == Residence::kUnmapped ? stage_.holes_ : stage_.pages_;
  return begin + argument * Stage::kStride;
}

std::byte* Trial::Place(size_t size, size_t alignment) {
  Require(!ready_ && size <= 2 * kPage && (arguments_ + 1) * Stage::kStride <= Stage::kSize,
          "room for an argument");
  std::byte* const low = LowPage(arguments_++);
  std::memset(low, static_cast<int>(kFiller), 2 * kPage);
  // Half of it, at least, is below the border.
  const size_t below = (size / 2 + alignment - 1) / alignment * alignment;
  return low + kPage - below;
}

char* Trial::Text(std::string_view text) {
  auto* const at = reinterpret_cast<char*>(Place(text.size() + 1, 1));
  std::memcpy(at, text.data(), text.size());
  at[text.size()] = 0;
  return at;
}

void Trial::Touch() const {
  for (size_t i = 0; i < arguments_; ++i) {
    for (const size_t page : {size_t{0}, size_t{1}}) {
      auto* const byte = reinterpret_cast<volatile std::byte*>(LowPage(i) + page * kPage);
      *byte = *byte;
    }
  }
}

void Trial::Evict(bool low, bool high) {
  std::vector<std::byte*> pages;
  for (size_t i = 0; i < arguments_; ++i) {
    if (low) pages.push_back(LowPage(i));
    if (high) pages.push_back(LowPage(i) + kPage);
  }
  for (int tries = 0; tries < kMostEvictions; ++tries) {
    for (std::byte* const page : pages) SendAway(page);
    if (std::none_of(pages.begin(), pages.end(), IsPresent)) break;
  }
  stage_.wanted_ += pages.size();
  stage_.absent_ +=
      pages.size() - static_cast<size_t>(std::count_if(pages.begin(), pages.end(), IsPresent));
}

void Trial::Protect(bool low, int protection) const {
  for (size_t i = 0; i < arguments_; ++i) {
    std::byte* const first = LowPage(i) + (low ? 0 : kPage);
    const size_t size = low ? 2 * kPage : kPage;
    Require(mprotect(first, size, protection) == 0, "mprotect");
  }
}

void Trial::Unmap() {
  unmapped_.resize(arguments_ * 2 * kPage);
  for (size_t i = 0; i < arguments_; ++i) {
    std::memcpy(&unmapped_[i * 2 * kPage], LowPage(i), 2 * kPage);
  }
  for (size_t i = 0; i < arguments_; ++i) Require(munmap(LowPage(i), 2 * kPage) == 0, "munmap");
}

void Trial::MapAgain() {
  for (size_t i = 0; i < arguments_; ++i) {
    constexpr int kFlags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE;
    void* const at = mmap(LowPage(i), 2 * kPage, PROT_READ | PROT_WRITE, kFlags, -1, 0);
    Require(at == LowPage(i), "mmap to where nothing is");
    std::memcpy(at, &unmapped_[i * 2 * kPage], 2 * kPage);
  }
}

void Trial::Ready() {
  Touch();
  ready_ = true;
  switch (residence_) {
    case Residence::kPresent:
      break;
    case Residence::kAbsent:
      Evict(true, true);
      break;
    case Residence::kLowAbsent:
      Evict(true, false);
      break;
    case Residence::kHighAbsent:
      Evict(false, true);
      break;
    case Residence::kLeaving: {
      std::vector<std::byte*> pages;
      for (size_t i = 0; i < arguments_; ++i) {
        pages.push_back(LowPage(i));
        pages.push_back(LowPage(i) + kPage);
      }
      stage_.sweeper_.Start(std::move(pages));
      break;
    }
    case Residence::kReadOnly:
      Protect(true, PROT_READ);
      break;
    case Residence::kReadOnlyAbsent:
      Evict(true, true);
      Protect(true, PROT_READ);
      break;
    case Residence::kNone:
      Protect(true, PROT_NONE);
      break;
    case Residence::kHighNone:
      Evict(true, false);
      Protect(false, PROT_NONE);
      break;
    case Residence::kUnmapped:
      Unmap();
      break;
  }
  errno = 0;
}

void Trial::Settle() {
  if (!std::exchange(ready_, false)) return;
  switch (residence_) {
    case Residence::kLeaving:
      stage_.sweeper_.Stop();
      break;
    case Residence::kReadOnly:
    case Residence::kReadOnlyAbsent:
    case Residence::kNone:
    case Residence::kHighNone:
      Protect(true, PROT_READ | PROT_WRITE);
      break;
    case Residence::kUnmapped:
      MapAgain();
      break;
    default:
      break;
  }
}

long Trial::Returned(long result) {
  const int error = errno;
  Settle();
  line_ += ' ';
  line_ += result == -1 ? strerrorname_np(error) : std::to_string(result);
  return result;
}

int Trial::ReturnedFd(long fd) {
  const int error = errno;
  Settle();
  line_ += ' ';
  line_ += fd < 0 ? strerrorname_np(error) : "file";
  if (fd >= 0) files_.push_back(static_cast<int>(fd));
  return static_cast<int>(fd);
}

void Trial::See(long value) { line_ += ' ' + std::to_string(value); }

void Trial::See(std::string_view text) {
  line_ += ' ';
  line_ += text;
}

std::string Trial::Finish() {
  Settle();
  for (const int fd : std::exchange(files_, {})) close(fd);
  for (const Bytes& bytes : kept_) {
    if (std::memcmp(bytes.at, bytes.value.data(), bytes.value.size()) != 0) See("(changed)");
    std::memset(const_cast<std::byte*>(bytes.at), 0, bytes.value.size());
  }
  for (const std::span<std::byte> bytes : ignored_) std::memset(bytes.data(), 0, bytes.size());
  uint64_t digest = 0xCBF29CE484222325ull;
  for (size_t i = 0; i < arguments_; ++i) {
    for (size_t at = 0; at < 2 * kPage; ++at) {
      digest = (digest ^ static_cast<uint64_t>(LowPage(i)[at])) * 0x100000001B3ull;
    }
  }
  char text[20];
  std::snprintf(text, sizeof(text), " %016llx", static_cast<unsigned long long>(digest));
  return line_ + text;
}

}  // namespace system_calls
