// SPDX-License-Identifier: Apache-2.0
// Child: runs a body in a forked process and tells how it ended.
//
// For what must die, and for what changes the whole process (signal handlers,
// user, limits). The body returns an exit status; whatever it prints is caught.
// Catch2's macros do not reach the parent from there. No other thread may run.
#pragma once

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cerrno>
#include <cstdio>
#include <string>

namespace spiritos {

struct ChildEnd {
  int status = -1;   // What the body returned, or -1.
  int signal = 0;    // What killed it, or 0.
  std::string text;  // Its standard output and error.
};

template <typename Body>
ChildEnd RunInChild(Body&& body) {
  int ends[2];
  REQUIRE(pipe(ends) == 0);
  std::fflush(nullptr);
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    const rlimit no_core{0, 0};
    setrlimit(RLIMIT_CORE, &no_core);
    alarm(60);  // A body that hangs is killed by SIGALRM, which the parent sees.
    dup2(ends[1], STDOUT_FILENO);
    dup2(ends[1], STDERR_FILENO);
    close(ends[0]);
    close(ends[1]);
    _exit(body());
  }
  close(ends[1]);
  ChildEnd end;
  char buffer[512];
  while (true) {
    const ssize_t n = read(ends[0], buffer, sizeof(buffer));
    if (n > 0) end.text.append(buffer, static_cast<size_t>(n));
    if (n == 0 || (n < 0 && errno != EINTR)) break;
  }
  close(ends[0]);
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (WIFEXITED(status)) end.status = WEXITSTATUS(status);
  if (WIFSIGNALED(status)) end.signal = WTERMSIG(status);
  return end;
}

}  // namespace spiritos
