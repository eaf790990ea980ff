// SPDX-License-Identifier: Apache-2.0
// Field: much memory, and what each page of it holds. Rows: what is asked of it.
//
// What a page is to hold is known from a table beside it, in memory that is the program's own
// data; a child of fork(2) has both as of the fork. A row tells its findings in words:
// nothing means that it passes.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace process_matrix {

constexpr size_t kPage = 4096;

// Says what the machine refused, which no row is about, and ends the program.
void Require(bool good, const char* what);
// Anonymous memory of the kernel's.
std::byte* MapBytes(size_t size);
void SendAway(const void* at, size_t size);

class Field {
 public:
  static constexpr size_t kPages = 4096;

  Field();
  void Store(size_t page, uint32_t version);
  // Every page from `first` on, `step` apart.
  void StoreAll(uint32_t version, size_t first = 0, size_t step = 1);
  // Each page holds what was stored last.
  bool IsWhole() const;
  bool IsWhole(size_t page) const;
  std::byte* at(size_t page) const { return bytes_ + page * kPage; }

 private:
  std::byte* const bytes_;
};

// What became of rows: the first thing that is not as expected.
class Findings {
 public:
  void Expect(bool good, const std::string& what) {
    if (!good && text_.empty()) text_ = "FAIL: " + what;
  }
  void ExpectEnd(pid_t child, const std::string& how);
  // What the row is about is not to be had here.
  void Refuse(const std::string& why) {
    if (text_.empty()) text_ = "refused (" + why + ")";
  }
  const std::string& text() const { return text_; }

 private:
  std::string text_;
};

// How a child has ended: "exit 0", "SIGSEGV".
std::string AwaitEnd(pid_t child);

struct Row {
  const char* name;
  void (*run)(Field&, Findings&);
};
std::span<const Row> ForkRows();
std::span<const Row> ProgramRows();
std::span<const Row> FaultRows();
std::span<const Row> SignalRows();

// Installs a handler of SIGBUS while there is little memory.
void InstallEarly();
// What a process does that has become this program once more; its exit status.
int RunAgain();

}  // namespace process_matrix
