// SPDX-License-Identifier: Apache-2.0
// Looks whether the program can run with the shim, says how, and becomes it.
#include "runtime/cli/run.h"

#include <elf.h>
#include <fcntl.h>
#include <fmt/core.h>
#include <sys/stat.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "libos/base/fd.h"
#include "libos/fault/probe.h"
#include "runtime/cli/config_file.h"
#include "runtime/settings.h"

namespace spiritos::cli {
namespace {

constexpr int kCannotBegin = 125;
constexpr int kCannotRun = 126;
constexpr int kNotFound = 127;
constexpr const char* kServerSocket = "/run/spiritos/memd.sock";

struct RunOptions {
  std::string config;
  std::string local;
  std::string pool;
  std::string stats = "none";
  std::string children = "inherit";
  std::vector<std::string> set;
  bool allow_unseen_pins = false;
  bool quiet = false;
};

// In place of the first `--`, which the parser would take as the end of its own options and
// then miss a word of its own.
char separator[] = "\x1f";

std::vector<std::string> CommandOf(std::vector<std::string> words) {
  if (!words.empty() && words.front() == separator) words.erase(words.begin());
  std::replace(words.begin(), words.end(), std::string(separator), std::string("--"));
  return words;
}

int Fail(int status, const std::string& message) {
  fmt::print(stderr, "spiritos run: {}\n", message);
  return status;
}

std::string PoolOf(const RunOptions& options) {
  if (!options.pool.empty()) return options.pool;
  return access(kServerSocket, R_OK | W_OK) == 0 ? fmt::format("shm://{}", kServerSocket)
                                                 : "embedded:";
}

std::string ConfOf(const RunOptions& options) {
  std::string pool = PoolOf(options);
  std::replace(pool.begin(), pool.end(), ',', '+');
  std::string conf =
      fmt::format("pool={},stats={},children={}", pool, options.stats, options.children);
  if (!options.local.empty()) conf += ",local=" + options.local;
  if (options.allow_unseen_pins) conf += ",unseen-pins=allow";
  for (const std::string& pair : options.set) conf += "," + pair;
  return conf;
}

// As execvp(3) looks for it; empty when there is none.
std::string FindCommand(const std::string& name) {
  if (name.find('/') != std::string::npos) return access(name.c_str(), F_OK) == 0 ? name : "";
  const char* const path = std::getenv("PATH");
  std::string rest = path == nullptr ? "/bin:/usr/bin" : path;
  while (!rest.empty()) {
    const std::string folder = rest.substr(0, rest.find(':'));
    rest.erase(0, std::min(rest.size(), folder.size() + 1));
    std::string candidate = (folder.empty() ? "." : folder) + "/" + name;
    if (access(candidate.c_str(), X_OK) == 0 && !std::filesystem::is_directory(candidate)) {
      return candidate;
    }
  }
  return "";
}

// Why the shim would not be loaded into it, or not act; empty when it will.
std::string Obstacle(const std::string& path) {
  struct stat info;
  if (stat(path.c_str(), &info) != 0) return std::strerror(errno);
  if ((info.st_mode & (S_ISUID | S_ISGID)) != 0) {
    return "it is set-user-ID or set-group-ID, and such programs ignore LD_PRELOAD";
  }
  const UniqueFd file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  Elf64_Ehdr header;
  if (!file.valid() || pread(file.get(), &header, sizeof(header), 0) != sizeof(header) ||
      std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0) {
    return "";  // A script, perhaps: its interpreter is loaded like any program.
  }
  if (header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_machine != EM_X86_64) {
    return "it is no 64-bit x86 program";
  }
  for (unsigned i = 0; i < header.e_phnum; ++i) {
    Elf64_Phdr segment;
    const auto at = static_cast<off_t>(header.e_phoff + i * sizeof(segment));
    if (pread(file.get(), &segment, sizeof(segment), at) != sizeof(segment)) break;
    if (segment.p_type == PT_INTERP) return "";
  }
  return "it is linked statically, and so loads no other library";
}

// Beside this program in a build folder, else where it is installed.
std::string FindShim() {
  std::error_code error;
  const std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe", error);
  const std::array<std::filesystem::path, 2> places = {
      self.parent_path() / "../shim/libspiritos-preload.so",
      std::filesystem::path(SPIRITOS_LIBDIR) / "libspiritos-preload.so"};
  for (const auto& place : places) {
    if (std::filesystem::exists(place, error)) return std::filesystem::canonical(place, error);
  }
  return "";
}

int Run(const RunOptions& options, std::vector<std::string> command) {
  if (command.empty())
    return Fail(kCannotBegin, "no command (spiritos run --local 256M -- COMMAND)");
  const std::string conf = ConfOf(options);
  const absl::StatusOr<Settings> settings = ParseSettings(conf);
  if (!settings.ok()) return Fail(kCannotBegin, std::string(settings.status().message()));
  const std::string path = FindCommand(command.front());
  if (path.empty() && command.front().starts_with('-')) {
    return Fail(kCannotBegin,
                fmt::format("unknown option {} (spiritos run --help)", command.front()));
  }
  if (path.empty())
    return Fail(kNotFound, fmt::format("{}: there is no such command", command.front()));
  if (const std::string obstacle = Obstacle(path); !obstacle.empty()) {
    return Fail(kCannotRun, fmt::format("{}: {}", path, obstacle));
  }
  if (const absl::Status status = ProbeKernel().thread_mode; !status.ok()) {
    return Fail(kCannotBegin, fmt::format("{} (spiritos doctor)", std::string(status.message())));
  }
  const std::string shim = FindShim();
  if (shim.empty())
    return Fail(kCannotBegin, "libspiritos-preload.so is not installed in " SPIRITOS_LIBDIR);
  if (!options.quiet) {
    fmt::print(stderr, "spiritos: {}: {} MiB local, the rest in {}; faults in handler threads\n",
               command.front(), settings->space.budget.raw() >> 20, PoolOf(options));
  }
  const char* const preloaded = std::getenv("LD_PRELOAD");
  const std::string preload =
      preloaded == nullptr || *preloaded == '\0' ? shim : shim + ":" + preloaded;
  setenv("LD_PRELOAD", preload.c_str(), 1);
  setenv("SPIRITOS_CONF", conf.c_str(), 1);
  std::vector<char*> arguments;
  for (std::string& word : command) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  execv(path.c_str(), arguments.data());
  const int error = errno;
  return Fail(error == ENOENT ? kNotFound : kCannotRun,
              fmt::format("{}: {}", path, std::strerror(error)));
}

}  // namespace

void AddRun(CLI::App& app, int* status) {
  auto options = std::make_shared<RunOptions>();
  CLI::App* const run = app.add_subcommand(
      "run", "Run a program whose heap and large mappings are far beyond a local budget.");
  run->add_option("--config", options->config,
                  "a TOML file with any of the options below: local = \"4G\"");
  run->add_option(
      "--local", options->local,
      "what it may hold in local memory, as 256M, 4G, or 25% of what it may have; auto: "
      "as much as others are not short of");
  run->add_option("--pool", options->pool,
                  "where the rest goes: shm:///PATH, tcp://HOST:PORT, file:///PATH, embedded:; a "
                  "memory server of this machine if there is one, else embedded:");
  run->add_option("--stats", options->stats,
                  "print statistics: when it ends (exit), at each SIGUSR2 too (signal), or a line "
                  "each so many SECONDS too; or none")
      ->type_name("exit|signal|SECONDS|none")
      ->capture_default_str();
  run->add_option("--children", options->children, "whether programs that it starts run likewise")
      ->check(CLI::IsMember({"inherit", "none"}))
      ->capture_default_str();
  run->add_flag(
      "--allow-unseen-pins", options->allow_unseen_pins,
      "let it use io_uring, AIO and verbs even where the kernel (before Linux 6.8) cannot "
      "keep what they have pinned: what devices store may be lost");
  run->add_option("--set", options->set, "another option, KEY=VALUE: SPIRITOS_KEY in lower case")
      ->allow_extra_args(false);
  run->add_flag("--quiet", options->quiet, "do not say how it will run");
  run->footer("What follows the program's name is the program's; `--` before it is allowed.");
  run->prefix_command();
  run->callback([run, options, status] {
    if (!options->config.empty()) {
      if (const absl::Status read = ApplyConfigFile(options->config, *run); !read.ok()) {
        *status = Fail(kCannotBegin, std::string(read.message()));
        return;
      }
    }
    *status = Run(*options, CommandOf(run->remaining()));
  });
}

void MarkCommand(int argc, char** argv) {
  if (argc < 2 || std::strcmp(argv[1], "run") != 0) return;
  const auto at =
      std::find_if(argv, argv + argc, [](char* word) { return std::strcmp(word, "--") == 0; });
  if (at != argv + argc) *at = separator;
}

}  // namespace spiritos::cli
