// SPDX-License-Identifier: Apache-2.0
// Harness: what every benchmark program needs around its measurement.
//
//   option text -> sizes and lists      runs -> Median, Spread
//   CPUs        -> pinning              results -> Table for people, Json for programs
//   the machine -> MachineInfo, and warnings about what disturbs a run
//
// Threads: one; nothing here runs while a measurement does, the progress line
// is written between runs only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libos/base/units.h"

namespace spiritos::bench {

// Exit status of a program that cannot run here and says why: Meson and
// Automake both read 77 as "skipped".
inline constexpr int kExitSkipped = 77;

// ---- Text and files ---------------------------------------------------------

// "512M", "2G", "64K" or plain bytes; powers of 1024.
absl::StatusOr<Bytes> ParseSize(std::string_view text);
// The shortest exact form that ParseSize() reads: "512M".
std::string FormatSize(Bytes size);
// Three significant digits with a decimal suffix: "105k", "1.23M".
std::string FormatRate(double per_second);
// Nanoseconds in a readable unit: "840n", "12.7u", "1.2m".
std::string FormatNs(double ns);

// The message of a status as a type that fmt prints.
std::string MessageOf(const absl::Status& status);

std::vector<std::string> SplitList(std::string_view text, char separator = ',');

// Whole small files of sysfs, procfs and cgroupfs; the written text gets no
// newline. Errors name the path.
absl::StatusOr<std::string> ReadTextFile(const std::string& path);
absl::Status WriteTextFile(const std::string& path, std::string_view text);
// A file of results: made if there is none.
absl::Status SaveTextFile(const std::string& path, std::string_view text);
absl::StatusOr<uint64_t> ReadNumberFile(const std::string& path);
// The number behind `key` in a file of "key value" lines; 0 if it is not there.
uint64_t ReadKeyedNumber(const std::string& path, std::string_view key);

// ---- Statistics -------------------------------------------------------------

double Median(std::vector<double> values);
// Median absolute deviation from the median, as a fraction of the median.
double Spread(const std::vector<double>& values);

// ---- CPUs and the machine ---------------------------------------------------

// CPUs the process may use, ascending.
std::vector<int> UsableCpus();
// Restricts the calling thread, and threads it starts from now on.
absl::Status PinThisThread(const std::vector<int>& cpus);

struct MachineInfo {
  std::string cpu_model;
  std::string kernel;
  int cpus = 0;
  Bytes memory;
  double load = 0;  // One-minute average when the program started.
  std::string huge_pages;
  std::string lru;  // "classic" or the multi-generational one.
};
MachineInfo DescribeMachine();
std::string FormatMachine(const MachineInfo& machine);
// Reasons to distrust figures taken now; empty on a quiet machine.
std::vector<std::string> MachineWarnings(const MachineInfo& machine);
// What every benchmark begins with: the machine and the warnings.
MachineInfo PrintMachine(std::FILE* out);
// Of all CPUs' time since PrintMachine(), what a host gave to others: 0 to 1. Says
// so if it is enough to spoil figures.
double StolenShare();
void PrintStolenShare(std::FILE* out);

// ---- Output -----------------------------------------------------------------

// Cells with aligned columns, in the form of a Markdown table.
class Table {
 public:
  explicit Table(std::vector<std::string> header) { rows_.push_back(std::move(header)); }
  void Add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }
  std::string ToText() const;

 private:
  std::vector<std::vector<std::string>> rows_;
};

// Builds one JSON text front to back; commas are its business, nesting is the
// caller's. Not-a-number and infinities become null.
class Json {
 public:
  Json& Open(char bracket);  // '{' or '['
  Json& Close();
  Json& Key(std::string_view key);
  Json& Value(std::string_view text);
  Json& Value(const char* text) { return Value(std::string_view(text)); }
  Json& Value(double number);
  Json& Value(uint64_t number);
  Json& Value(bool truth);
  template <typename T>
  Json& Field(std::string_view key, T value) {
    return Key(key).Value(value);
  }
  const std::string& text() const { return text_; }

 private:
  void Separate();
  std::string text_;
  std::string open_;  // Closing brackets still owed.
};

// What every benchmark ends with: what the host took meanwhile; the file for --json,
// if one is asked for; the program's exit status.
int SaveFigures(const std::string& path, const Json& json);

// Says on stderr how far a long benchmark is: one line that rewrites itself on
// a terminal, a line per step elsewhere.
class Progress {
 public:
  explicit Progress(int total_steps);
  ~Progress() { Finish(); }
  void Step(std::string_view what);
  // A message that stays, above the bar.
  void Note(std::string_view text);
  void AddSteps(int n) { total_ += n; }
  void Finish();

 private:
  void Erase();
  int total_;
  int done_ = 0;
  bool terminal_;
  bool drawn_ = false;
  uint64_t start_ns_;
};

}  // namespace spiritos::bench
