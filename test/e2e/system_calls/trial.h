// SPDX-License-Identifier: Apache-2.0
// Trial: one system call whose arguments are where, and as accessible, as the trial says.
//
//   arguments: Out(), In() ... --> Ready() --> the call --> Returned() --> See() what came of it
//                                     ^-------- again, for a row of several calls --------'
//
// An argument lies across the border of two pages of its own, unless it must be aligned.
// From Ready() to Returned() only the call may touch them: they may be PROT_NONE.
// What a trial has seen is one line of text that depends on no address, process or time.
#pragma once

#include <signal.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

namespace system_calls {

constexpr size_t kPage = 4096;

// Says what the machine refused, which no row is about, and ends the program.
void Require(bool good, const char* what);

class File {
 public:
  explicit File(int fd) : fd_(fd) { Require(fd >= 0, "a descriptor"); }
  ~File() { Close(); }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  operator int() const { return fd_; }
  void Close() {
    if (fd_ >= 0) close(std::exchange(fd_, -1));
  }

 private:
  int fd_;
};

enum class Residence {
  kPresent,
  kAbsent,
  kLowAbsent,   // The first of an argument's two pages.
  kHighAbsent,  // The second.
  kLeaving,     // A thread sends the pages away all the time.
  kReadOnly,
  kReadOnlyAbsent,
  kNone,      // PROT_NONE.
  kHighNone,  // The first page is absent, the second PROT_NONE.
  kUnmapped,
};
constexpr std::array<const char*, 10> kResidenceNames = {
    "present",   "absent",           "absent|present", "present|absent", "leaving",
    "read-only", "read-only absent", "none",           "absent|none",    "unmapped"};

// Sends pages away for as long as it is told to, in a thread of its own.
class Sweeper {
 public:
  Sweeper();
  ~Sweeper();
  // Returns when a first pass is over.
  void Start(std::vector<std::byte*> pages);
  void Stop();

 private:
  void Run();
  enum State : uint32_t { kIdle, kSweeping, kEnding };

  std::vector<std::byte*> pages_;  // Of the thread, while it sweeps.
  std::atomic<uint32_t> state_{kIdle};
  std::atomic<bool> sweeping_{false};
  std::atomic<uint64_t> passes_{0};
  std::thread thread_;
};

// The memory that trials use, one after another.
class Stage {
 public:
  Stage();
  // Of the pages that a call was to find absent.
  uint64_t wanted() const { return wanted_; }
  uint64_t absent() const { return absent_; }

 private:
  friend class Trial;
  static constexpr size_t kSize = size_t{4} << 20;
  // As far apart as read-ahead at a first touch reaches.
  static constexpr size_t kStride = 16 * kPage;

  std::byte* const pages_;
  std::byte* const holes_;  // Like the others, until a trial unmaps some.
  Sweeper sweeper_;
  uint64_t wanted_ = 0;
  uint64_t absent_ = 0;
};

class Trial {
 public:
  Trial(Stage& stage, Residence residence) : stage_(stage), residence_(residence) {}
  ~Trial() { Settle(); }
  Trial(const Trial&) = delete;
  Trial& operator=(const Trial&) = delete;

  // Memory for a call to fill. Nothing that follows may write to it but calls.
  std::byte* Out(size_t size) { return Place(size, 1); }
  template <typename T>
  T* Out() {
    return reinterpret_cast<T*>(Place(sizeof(T), 1));
  }
  template <typename T>
  T* In(const T& value) {
    static_assert(std::is_trivially_copyable_v<T>);
    return reinterpret_cast<T*>(std::memcpy(Place(sizeof(T), 1), &value, sizeof(T)));
  }
  template <typename T, size_t count>
  T* In(const std::array<T, count>& values) {
    return reinterpret_cast<T*>(std::memcpy(Place(sizeof(values), 1), &values, sizeof(values)));
  }
  char* Text(std::string_view text);
  // Aligned, so in one page.
  template <typename T>
  T* Word(const T& value) {
    return reinterpret_cast<T*>(std::memcpy(Place(sizeof(T), sizeof(T)), &value, sizeof(T)));
  }
  // Two whole pages.
  std::byte* Pages() { return Place(2 * kPage, kPage); }
  // Of these it counts only that they do not change, or nothing at all: addresses, times.
  template <typename T>
  T* Kept(T* at, size_t count = 1) {
    const auto* const bytes = reinterpret_cast<const std::byte*>(at);
    kept_.push_back({bytes, {bytes, bytes + count * sizeof(T)}});
    return at;
  }
  template <typename T>
  T* Ignored(T* at, size_t count = 1) {
    ignored_.push_back({reinterpret_cast<std::byte*>(at), count * sizeof(T)});
    return at;
  }
  template <typename T>
  static T Get(const T* at, size_t index = 0) {
    std::remove_const_t<T> value;
    std::memcpy(&value, reinterpret_cast<const std::byte*>(at) + index * sizeof(T), sizeof(T));
    return value;
  }

  void Ready();
  // The call's result; -1 stands for errno.
  long Returned(long result);
  // A new descriptor, which is closed at the end: its number is not seen.
  int ReturnedFd(long fd);
  void See(long value);
  void See(std::string_view text);
  // Everything seen, and a digest of the arguments' pages.
  std::string Finish();

  Residence residence() const { return residence_; }
  // The arguments can be used: no error is expected of the call.
  bool usable() const { return residence_ <= Residence::kLeaving; }

 private:
  struct Bytes {
    const std::byte* at;
    std::vector<std::byte> value;
  };
  std::byte* Place(size_t size, size_t alignment);
  std::byte* LowPage(size_t argument) const;
  void Touch() const;
  // Sends pages away: the low ones, the high ones, or both.
  void Evict(bool low, bool high);
  void Protect(bool low, int protection) const;
  void Unmap();
  void MapAgain();
  // The arguments are as usable as ever.
  void Settle();

  Stage& stage_;
  const Residence residence_;
  size_t arguments_ = 0;
  bool ready_ = false;
  std::vector<Bytes> kept_;
  std::vector<std::span<std::byte>> ignored_;
  std::vector<std::byte> unmapped_;
  std::vector<int> files_;
  std::string line_;
};

struct Row {
  const char* name;
  void (*run)(Trial&);
  // Starts a process or waits for a time: fewer rounds while pages leave.
  bool slow = false;
};

// All rows work in the current folder and leave nothing there.
std::span<const Row> IoRows();
std::span<const Row> WaitRows();
std::span<const Row> NameRows();
std::span<const Row> SocketRows();
std::span<const Row> TimeRows();
std::span<const Row> SignalRows();
std::span<const Row> ProcessRows();
std::span<const Row> MemoryRows();
// Last: from its first call on, what the kernel has pinned stays, for which pages leave by
// another way.
std::span<const Row> PinningRows();

// In every thread: rows may send it to the process.
constexpr int kBlockedSignal = SIGUSR2;

// A file in the current folder whose bytes are Pattern(0) and so on.
constexpr const char* kPatternFile = "pattern";
constexpr size_t kPatternSize = 4 * kPage;
constexpr std::byte Pattern(size_t at) { return std::byte((at * 2654435761u >> 13) & 0xFF); }
void FillPattern(std::byte* at, size_t size);

}  // namespace system_calls
