// SPDX-License-Identifier: Apache-2.0
// The parent's half of worker.h.
#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <memory>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "examples/package_graph/worker.h"

extern char** environ;

namespace package_graph {
namespace {

struct CloseFile {
  void operator()(std::FILE* file) const { std::fclose(file); }
};

struct Child {
  pid_t pid;
  std::unique_ptr<std::FILE, CloseFile> output;
};

absl::StatusOr<Child> Start(const std::string& options) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return absl::ErrnoToStatus(errno, "pipe2");
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
  std::string arguments[] = {"package_graph", "--worker", options};
  char* argv[] = {arguments[0].data(), arguments[1].data(), arguments[2].data(), nullptr};
  pid_t pid = 0;
  int error = posix_spawn(&pid, "/proc/self/exe", &actions, nullptr, argv, environ);
  posix_spawn_file_actions_destroy(&actions);
  close(ends[1]);
  std::unique_ptr<std::FILE, CloseFile> output(fdopen(ends[0], "r"));
  if (error != 0) return absl::ErrnoToStatus(error, "cannot start a run");
  return Child{pid, std::move(output)};
}

std::string HowItEnded(int wait_status) {
  if (WIFSIGNALED(wait_status)) {
    return std::string("the run was killed by signal ") + strsignal(WTERMSIG(wait_status));
  }
  return "the run ended with code " + std::to_string(WEXITSTATUS(wait_status)) +
         " and without a report";
}

}  // namespace

absl::StatusOr<Report> RunChild(const WorkerOptions& options,
                                const std::function<void(const Sample&)>& see) {
  absl::StatusOr<Child> child = Start(nlohmann::json(options).dump());
  if (!child.ok()) return child.status();
  std::optional<Report> report;
  std::string error;
  char* line = nullptr;
  size_t capacity = 0;
  for (ssize_t n; (n = getline(&line, &capacity, child->output.get())) >= 0;) {
    auto message = nlohmann::json::parse(line, line + n, nullptr, /*allow_exceptions=*/false);
    if (message.contains("sample")) {
      see(message["sample"].get<Sample>());
    } else if (message.contains("report")) {
      report = message["report"].get<Report>();
    } else if (message.contains("error")) {
      error = message["error"].get<std::string>();
    }
  }
  std::free(line);
  int wait_status = 0;
  waitpid(child->pid, &wait_status, 0);
  if (!error.empty()) return absl::FailedPreconditionError(error);
  if (!report || wait_status != 0) return absl::AbortedError(HowItEnded(wait_status));
  return *std::move(report);
}

}  // namespace package_graph
