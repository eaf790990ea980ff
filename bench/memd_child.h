// SPDX-License-Identifier: Apache-2.0
// MemdChild: a memory server process, for as long as this object lives.
#pragma once

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "libos/base/fd.h"

namespace spiritos::bench {

class MemdChild {
 public:
  // Runs `program memd ARGUMENTS...` until it says that it is ready, with the affinity
  // of the calling thread.
  static absl::StatusOr<MemdChild> Start(const std::string& program,
                                         const std::vector<std::string>& arguments) {
    std::vector<std::string> words{program, "memd"};
    words.insert(words.end(), arguments.begin(), arguments.end());
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) return absl::ErrnoToStatus(errno, "pipe");
    const UniqueFd from(ends[0]);
    UniqueFd to(ends[1]);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, to.get(), STDOUT_FILENO);
    MemdChild child;
    const int error =
        posix_spawn(&child.process_, program.c_str(), &actions, nullptr, argv.data(), environ);
    posix_spawn_file_actions_destroy(&actions);
    if (error != 0) {
      child.process_ = -1;
      return absl::ErrnoToStatus(error, "starting " + program + " (./run build, or --spiritos)");
    }
    to.Reset();
    char c;
    while (!child.said_.ends_with('\n') && read(from.get(), &c, 1) == 1) child.said_ += c;
    if (!child.said_.starts_with("ready")) return absl::InternalError("memd is not ready");
    return child;
  }
  MemdChild(MemdChild&& other) noexcept
      : process_(std::exchange(other.process_, -1)), said_(std::move(other.said_)) {}
  MemdChild& operator=(MemdChild&&) = delete;
  ~MemdChild() {
    if (process_ < 0) return;
    kill(process_, SIGTERM);
    while (waitpid(process_, nullptr, 0) < 0 && errno == EINTR) {
    }
  }

  pid_t process() const { return process_; }
  // The address with that scheme in what it said.
  std::string Address(const std::string& scheme) const {
    const size_t at = said_.find(scheme);
    return at == said_.npos ? "" : said_.substr(at, said_.find_first_of(" ,\n", at) - at);
  }

 private:
  MemdChild() = default;
  pid_t process_ = -1;
  std::string said_;
};

}  // namespace spiritos::bench
