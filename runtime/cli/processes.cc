// SPDX-License-Identifier: Apache-2.0
// A walk through /proc.
#include "runtime/cli/processes.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <optional>

#include "libos/base/clock.h"
#include "libos/base/fd.h"
#include "libos/base/status.h"
#include "libos/stats_page.h"
#include "runtime/settings.h"

namespace spiritos::cli {
namespace {

namespace fs = std::filesystem;
using json = nlohmann::ordered_json;  // Figures in the order that they were published in.

constexpr int64_t kVersion = 1;
constexpr double kSilentNs = 3e9;

std::string ReadFile(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// A folder of /proc may go while it is read: what it held by then is visited.
template <typename Visit>
std::error_code ForEachIn(const fs::path& folder, Visit&& visit) {
  std::error_code error;
  fs::directory_iterator entry(folder, error);
  for (; !error && entry != fs::directory_iterator(); entry.increment(error)) visit(entry->path());
  return error;
}

fs::path Proc(pid_t pid) { return fs::path("/proc") / std::to_string(pid); }

// What the process calls itself, in its own PID namespace.
pid_t InnerPid(pid_t pid) {
  std::ifstream status(Proc(pid) / "status");
  std::string word;
  while (status >> word && word != "NSpid:") std::getline(status, word);
  std::getline(status, word);
  const size_t last = word.find_last_not_of("0123456789");
  pid_t inner = 0;
  const size_t begin = last == std::string::npos ? 0 : last + 1;
  std::from_chars(word.data() + begin, word.data() + word.size(), inner);
  return inner;
}

// A link may say anything; a file of a pseudo-terminal or a FUSE file system could keep its
// reader waiting.
std::optional<json> ReadPage(const fs::path& link) {
  const UniqueFd place(open(link.c_str(), O_PATH | O_CLOEXEC));
  struct statfs kind;
  if (!place.valid() || fstatfs(place.get(), &kind) != 0 || kind.f_type != TMPFS_MAGIC) return {};
  const UniqueFd file(open(fmt::format("/proc/self/fd/{}", place.get()).c_str(),
                           O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  if (!file.valid()) return {};
  const absl::StatusOr<std::string> text = StatsPage::Read(file.get());
  if (!text.ok()) return {};
  json page = json::parse(*text, nullptr, /*allow_exceptions=*/false);
  const bool known = page.is_object() && page.value("version", json()) == kVersion &&
                     page["recent"].is_object() && page["stats"].is_object();
  return known ? std::optional(std::move(page)) : std::nullopt;
}

// Zero for what is none, or no sensible one.
double Number(const json& object, const char* name) {
  const auto at = object.find(name);
  if (at == object.end() || !at->is_number()) return 0;
  return std::clamp(at->get<double>(), 0.0, 1e18);
}

Bytes Pages(const json& object, const char* name) {
  return Bytes(static_cast<uint64_t>(std::min(Number(object, name), 1e15)) * kPageSize);
}

ProcessFigures FiguresOf(const json& page) {
  const json& recent = page["recent"];
  const json& stats = page["stats"];
  ProcessFigures figures;
  figures.far = true;
  figures.silent = static_cast<double>(NowNs()) - Number(page, "at_ns") > kSilentNs;
  figures.resident = Pages(stats, "used_frames");
  figures.budget = Pages(stats, "budget_pages");
  figures.far_size = Pages(stats, "far_pages");
  if (figures.silent) return figures;  // What it did is long ago.
  figures.faults_per_s = Number(recent, "faults_per_s");
  figures.fetched_bytes_per_s = Number(recent, "fetched_bytes_per_s");
  figures.written_bytes_per_s = Number(recent, "written_bytes_per_s");
  figures.fault_ns_p50 = Number(recent, "fault_ns_p50");
  figures.fault_ns_p99 = Number(recent, "fault_ns_p99");
  figures.stalled = Number(recent, "stalled");
  return figures;
}

// Whether the shim is in it, and what it was told.
std::optional<ProcessFigures> LocalFigures(pid_t pid) {
  constexpr std::string_view kVariable = "SPIRITOS_CONF=";
  const std::string all = '\0' + ReadFile(Proc(pid) / "environ");
  const size_t at = all.find('\0' + std::string(kVariable));
  if (at == std::string::npos) return {};
  if (ReadFile(Proc(pid) / "maps").find("libspiritos-preload.so") == std::string::npos) return {};
  const size_t begin = at + 1 + kVariable.size();
  const absl::StatusOr<Settings> settings =
      ParseSettings(all.substr(begin, all.find('\0', begin) - begin));
  if (!settings.ok()) return {};
  ProcessFigures figures;
  figures.budget = settings->space.budget;
  std::ifstream statm(Proc(pid) / "statm");
  uint64_t size = 0;
  uint64_t resident = 0;
  statm >> size >> resident;
  figures.resident = Bytes(resident * kPageSize);
  return figures;
}

std::string CommandOf(pid_t pid) {
  std::string name = ReadFile(Proc(pid) / "comm");
  while (!name.empty() && name.back() == '\n') name.pop_back();
  std::replace_if(
      name.begin(), name.end(), [](char c) { return c < ' ' || c > '~'; }, '?');
  return name;
}

}  // namespace

absl::StatusOr<std::vector<json>> ReadPages(pid_t pid) {
  const pid_t inner = InnerPid(pid);
  std::vector<json> pages;
  const std::error_code error = ForEachIn(Proc(pid) / "fd", [&](const fs::path& link) {
    std::error_code gone;
    if (fs::read_symlink(link, gone) != StatsPage::kLink) return;
    // A child has its parent's descriptors, too.
    std::optional<json> page = ReadPage(link);
    if (page.has_value() && page->value("pid", json()) == inner) pages.push_back(*std::move(page));
  });
  if (error == std::errc::permission_denied) {
    return absl::PermissionDeniedError(
        fmt::format("process {} is another user's (root may look at all)", pid));
  }
  if (error) return absl::NotFoundError(fmt::format("there is no process {}", pid));
  if (pages.empty()) {
    return absl::NotFoundError(fmt::format("process {} has no far memory so far", pid));
  }
  return pages;
}

std::vector<ProcessFigures> FindProcesses() {
  std::vector<ProcessFigures> found;
  ForEachIn("/proc", [&](const fs::path& path) {
    const std::string name = path.filename();
    pid_t pid = 0;
    const auto [end, bad] = std::from_chars(name.data(), name.data() + name.size(), pid);
    if (bad != std::errc() || end != name.data() + name.size()) return;
    std::vector<ProcessFigures> of_one;
    if (const absl::StatusOr<std::vector<json>> pages = ReadPages(pid); pages.ok()) {
      for (const json& page : *pages) of_one.push_back(FiguresOf(page));
    } else if (const std::optional<ProcessFigures> local = LocalFigures(pid)) {
      of_one.push_back(*local);
    }
    for (ProcessFigures& figures : of_one) {
      figures.pid = pid;
      figures.command = CommandOf(pid);
      found.push_back(std::move(figures));
    }
  });
  std::sort(found.begin(), found.end(), [](const auto& a, const auto& b) { return a.pid < b.pid; });
  return found;
}

}  // namespace spiritos::cli
