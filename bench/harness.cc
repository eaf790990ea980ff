// SPDX-License-Identifier: Apache-2.0
// Implements the harness: parsing, statistics, pinning, tables, JSON, progress.
#include "bench/harness.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <sstream>

#include "libos/base/clock.h"
#include "libos/base/fd.h"
#include "libos/base/status.h"

namespace spiritos::bench {
namespace {

std::string_view Trim(std::string_view text) {
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.front())))
    text.remove_prefix(1);
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.back())))
    text.remove_suffix(1);
  return text;
}

// The chosen word of "always [madvise] never".
std::string Chosen(std::string_view text) {
  const size_t open = text.find('['), close = text.find(']');
  if (open == text.npos || close == text.npos || close < open) return std::string(Trim(text));
  return std::string(text.substr(open + 1, close - open - 1));
}

std::string CpuModel() {
  const auto text = ReadTextFile("/proc/cpuinfo");
  if (!text.ok()) return "unknown";
  const size_t at = text->find("model name");
  if (at == text->npos) return "unknown";
  const size_t colon = text->find(':', at);
  return std::string(
      Trim(std::string_view(*text).substr(colon + 1, text->find('\n', colon) - colon - 1)));
}

}  // namespace

absl::StatusOr<Bytes> ParseSize(std::string_view text) {
  text = Trim(text);
  uint64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  const std::string_view unit = text.substr(static_cast<size_t>(end - text.data()));
  unsigned shift = 0;
  if (unit == "K" || unit == "k") {
    shift = 10;
  } else if (unit == "M" || unit == "m") {
    shift = 20;
  } else if (unit == "G" || unit == "g") {
    shift = 30;
  } else if (!unit.empty()) {
    return InvalidArgument("size '{}' has an unknown unit (K, M or G)", text);
  }
  if (error != std::errc() || number == 0 || number > (UINT64_MAX >> shift))
    return InvalidArgument("'{}' is not a size", text);
  return Bytes(number << shift);
}

std::string FormatSize(Bytes size) {
  const uint64_t raw = size.raw();
  if (raw != 0 && raw % (1 << 30) == 0) return fmt::format("{}G", raw >> 30);
  if (raw != 0 && raw % (1 << 20) == 0) return fmt::format("{}M", raw >> 20);
  if (raw != 0 && raw % (1 << 10) == 0) return fmt::format("{}K", raw >> 10);
  return fmt::format("{}", raw);
}

std::string FormatRate(double per_second) {
  const char* unit = "";
  for (const char* next : {"k", "M", "G"}) {
    if (per_second < 999.5) break;
    per_second /= 1000;
    unit = next;
  }
  return fmt::format("{:.{}f}{}", per_second, per_second < 10 ? 2 : per_second < 100 ? 1 : 0, unit);
}

std::string FormatNs(double ns) {
  const char* unit = "ns";
  for (const char* next : {"us", "ms", "s"}) {
    if (ns < 999.5) break;
    ns /= 1000;
    unit = next;
  }
  return fmt::format("{:.{}f}{}", ns, ns < 10 ? 2 : ns < 100 ? 1 : 0, unit);
}

std::string MessageOf(const absl::Status& status) { return std::string(status.message()); }

std::vector<std::string> SplitList(std::string_view text, char separator) {
  std::vector<std::string> parts;
  while (!text.empty()) {
    const size_t end = std::min(text.find(separator), text.size());
    if (const auto part = Trim(text.substr(0, end)); !part.empty()) parts.emplace_back(part);
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return parts;
}

absl::StatusOr<std::string> ReadTextFile(const std::string& path) {
  const UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return ErrnoStatus(errno, path);
  std::string text;
  char part[4096];
  for (;;) {
    const ssize_t n = read(fd.get(), part, sizeof(part));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoStatus(errno, path);
    if (n == 0) return text;
    text.append(part, static_cast<size_t>(n));
  }
}

namespace {

absl::Status WriteWhole(const std::string& path, int flags, std::string_view text) {
  const UniqueFd fd(open(path.c_str(), O_WRONLY | O_CLOEXEC | flags, 0644));
  if (!fd.valid()) return ErrnoStatus(errno, path);
  ssize_t n;
  do {
    n = write(fd.get(), text.data(), text.size());
  } while (n < 0 && errno == EINTR);
  if (n != static_cast<ssize_t>(text.size()))
    return ErrnoStatus(n < 0 ? errno : EIO, fmt::format("writing '{}' to {}", text, path));
  return absl::OkStatus();
}

}  // namespace

absl::Status WriteTextFile(const std::string& path, std::string_view text) {
  return WriteWhole(path, 0, text);
}
absl::Status SaveTextFile(const std::string& path, std::string_view text) {
  return WriteWhole(path, O_CREAT | O_TRUNC, text);
}

absl::StatusOr<uint64_t> ReadNumberFile(const std::string& path) {
  SPIRITOS_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path));
  if (text.empty() || !std::isdigit(static_cast<unsigned char>(text[0])))
    return InvalidArgument("{} holds no number", path);
  return std::strtoull(text.c_str(), nullptr, 10);
}

uint64_t ReadKeyedNumber(const std::string& path, std::string_view key) {
  const auto text = ReadTextFile(path);
  if (!text.ok()) return 0;
  for (const std::string& line : SplitList(*text, '\n')) {
    if (line.size() > key.size() && line.starts_with(key) && line[key.size()] == ' ')
      return std::strtoull(line.c_str() + key.size(), nullptr, 10);
  }
  return 0;
}

double Median(std::vector<double> values) {
  if (values.empty()) return NAN;
  std::sort(values.begin(), values.end());
  const size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

double Spread(const std::vector<double>& values) {
  const double median = Median(values);
  std::vector<double> distance;
  distance.reserve(values.size());
  for (const double value : values) distance.push_back(std::fabs(value - median));
  return median == 0 ? 0 : Median(distance) / median;
}

std::vector<int> UsableCpus() {
  cpu_set_t set;
  std::vector<int> cpus;
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return cpus;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu)
    if (CPU_ISSET(cpu, &set)) cpus.push_back(cpu);
  return cpus;
}

absl::Status PinThisThread(const std::vector<int>& cpus) {
  cpu_set_t set;
  CPU_ZERO(&set);
  for (const int cpu : cpus) CPU_SET(cpu, &set);
  if (sched_setaffinity(0, sizeof(set), &set) != 0)
    return ErrnoStatus(errno, fmt::format("pinning to CPU {}", cpus.empty() ? -1 : cpus[0]));
  return absl::OkStatus();
}

MachineInfo DescribeMachine() {
  MachineInfo machine;
  machine.cpu_model = CpuModel();
  utsname name{};
  if (uname(&name) == 0) machine.kernel = fmt::format("{} {}", name.sysname, name.release);
  machine.cpus = static_cast<int>(UsableCpus().size());
  struct sysinfo info {};
  if (sysinfo(&info) == 0) machine.memory = Bytes(uint64_t{info.totalram} * info.mem_unit);
  getloadavg(&machine.load, 1);
  const auto huge = ReadTextFile("/sys/kernel/mm/transparent_hugepage/enabled");
  machine.huge_pages = huge.ok() ? Chosen(*huge) : "none";
  const auto lru = ReadTextFile("/sys/kernel/mm/lru_gen/enabled");
  machine.lru =
      lru.ok() && !Trim(*lru).ends_with("0") ? "multi-generational" : "active and inactive lists";
  return machine;
}

std::string FormatMachine(const MachineInfo& machine) {
  return fmt::format("{}; {} usable CPUs; {:.1f} GiB; {}; load {:.2f}; huge pages {}; LRU: {}",
                     machine.cpu_model, machine.cpus,
                     static_cast<double>(machine.memory.raw()) / (1 << 30), machine.kernel,
                     machine.load, machine.huge_pages, machine.lru);
}

namespace {

// Ticks of all CPUs since boot, of proc(5): all kinds, and what the host took.
struct CpuTicks {
  uint64_t all = 0;
  uint64_t stolen = 0;
};
CpuTicks ReadCpuTicks() {
  CpuTicks ticks;
  std::istringstream stat(ReadTextFile("/proc/stat").value_or(""));
  std::string name;
  stat >> name;
  constexpr int kStealColumn = 7;  // After it come guests, which count as user time too.
  uint64_t value = 0;
  for (int column = 0; column <= kStealColumn && stat >> value; ++column) {
    ticks.all += value;
    if (column == kStealColumn) ticks.stolen = value;
  }
  return ticks;
}
CpuTicks at_start;

}  // namespace

double StolenShare() {
  const CpuTicks now = ReadCpuTicks();
  const uint64_t all = now.all - at_start.all;
  return all == 0 ? 0
                  : static_cast<double>(now.stolen - at_start.stolen) / static_cast<double>(all);
}

void PrintStolenShare(std::FILE* out) {
  const double share = StolenShare();
  constexpr double kTooMuch = 0.02;
  if (share > kTooMuch) {
    fmt::print(out,
               "warning: the host took {:.1f} % of the CPUs' time meanwhile (steal); figures "
               "scatter, repeat the run\n",
               100 * share);
  }
}

MachineInfo PrintMachine(std::FILE* out) {
  at_start = ReadCpuTicks();
  const MachineInfo machine = DescribeMachine();
  fmt::print(out, "{}\n", FormatMachine(machine));
  for (const std::string& warning : MachineWarnings(machine))
    fmt::print(out, "warning: {}\n", warning);
  return machine;
}

std::vector<std::string> MachineWarnings(const MachineInfo& machine) {
  std::vector<std::string> warnings;
  if (machine.load > 0.3)
    warnings.push_back(fmt::format(
        "load average {:.2f}: other work shares the CPUs, figures will scatter", machine.load));
  if (machine.cpus < 2)
    warnings.push_back("one usable CPU: an evictor cannot be pinned apart from the program");
  const auto governor = ReadTextFile("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor");
  if (governor.ok() && Trim(*governor) != "performance")
    warnings.push_back(fmt::format("frequency governor is '{}'", Trim(*governor)));
  return warnings;
}

std::string Table::ToText() const {
  std::vector<size_t> width;
  for (const auto& row : rows_) {
    width.resize(std::max(width.size(), row.size()));
    for (size_t i = 0; i < row.size(); ++i) width[i] = std::max(width[i], row[i].size());
  }
  std::string text;
  for (size_t r = 0; r < rows_.size(); ++r) {
    for (size_t i = 0; i < width.size(); ++i)
      text += fmt::format("| {:<{}} ", i < rows_[r].size() ? rows_[r][i] : "", width[i]);
    text += "|\n";
    if (r != 0) continue;
    for (const size_t w : width) text += fmt::format("|{:-<{}}", "", w + 2);
    text += "|\n";
  }
  return text;
}

void Json::Separate() {
  if (!text_.empty() && text_.back() != '{' && text_.back() != '[' && text_.back() != ':')
    text_ += ',';
}

Json& Json::Open(char bracket) {
  Separate();
  text_ += bracket;
  open_ += bracket == '{' ? '}' : ']';
  return *this;
}

Json& Json::Close() {
  text_ += open_.back();
  open_.pop_back();
  return *this;
}

Json& Json::Key(std::string_view key) {
  Value(key);
  text_ += ':';
  return *this;
}

Json& Json::Value(std::string_view text) {
  Separate();
  text_ += '"';
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      text_ += '\\';
      text_ += c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      text_ += fmt::format("\\u{:04x}", static_cast<unsigned>(c));
    } else {
      text_ += c;
    }
  }
  text_ += '"';
  return *this;
}

Json& Json::Value(double number) {
  Separate();
  text_ += std::isfinite(number) ? fmt::format("{:.9g}", number) : "null";
  return *this;
}

Json& Json::Value(uint64_t number) {
  Separate();
  text_ += fmt::format("{}", number);
  return *this;
}

Json& Json::Value(bool truth) {
  Separate();
  text_ += truth ? "true" : "false";
  return *this;
}

int SaveFigures(const std::string& path, const Json& json) {
  PrintStolenShare(stdout);
  if (path.empty()) return 0;
  const absl::Status status = SaveTextFile(path, json.text());
  if (status.ok()) return 0;
  fmt::print(stderr, "figures not saved: {}\n", MessageOf(status));
  return 1;
}

Progress::Progress(int total_steps)
    : total_(total_steps), terminal_(isatty(STDERR_FILENO) == 1), start_ns_(NowNs()) {}

void Progress::Erase() {
  if (drawn_) std::fputs("\r\033[K", stderr);
  drawn_ = false;
}

void Progress::Step(std::string_view what) {
  const double seconds = static_cast<double>(NowNs() - start_ns_) * 1e-9;
  const int total = std::max(total_, done_ + 1);
  std::string left;
  if (done_ > 0) {
    const auto rest = static_cast<int>(seconds / done_ * (total - done_));
    left = fmt::format(", about {}:{:02} left", rest / 60, rest % 60);
  }
  if (terminal_) {
    constexpr int kWidth = 24;
    const int filled = kWidth * done_ / total;
    winsize size{};
    ioctl(STDERR_FILENO, TIOCGWINSZ, &size);
    std::string line = fmt::format("[{:#<{}}{:.<{}}] {}/{} {}{}", "", filled, "", kWidth - filled,
                                   done_, total, what, left);
    if (size.ws_col > 1 && line.size() >= size.ws_col) line.resize(size.ws_col - 1u);
    fmt::print(stderr, "\r\033[K{}", line);
    drawn_ = true;
  } else {
    fmt::print(stderr, "[{}/{}] {}{}\n", done_ + 1, total, what, left);
  }
  std::fflush(stderr);
  ++done_;
}

void Progress::Note(std::string_view text) {
  Erase();
  fmt::print(stderr, "{}\n", text);
}

void Progress::Finish() {
  Erase();
  std::fflush(stderr);
}

}  // namespace spiritos::bench
