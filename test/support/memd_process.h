// SPDX-License-Identifier: Apache-2.0
// MemdProcess: `spiritos memd` on the RDMA device, as a process that can be killed.
//
// The program is the one that SPIRITOS_PROGRAM names; the build sets it.
#pragma once

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cerrno>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "libos/base/fd.h"
#include "libos/remote/dial.h"
#include "test/support/rdma_device.h"

namespace spiritos {

class MemdProcess {
 public:
  // `keys` is a file of keys: programs must have one, as the device is no loopback.
  MemdProcess(const std::string& keys, const std::vector<std::string>& arguments) {
    const char* const program = std::getenv("SPIRITOS_PROGRAM");
    REQUIRE(program != nullptr);
    std::vector<std::string> words{program,     "memd",      "--rdma", RdmaAddress() + ":0",
                                   "--no-lock", "--tls-psk", keys};
    words.insert(words.end(), arguments.begin(), arguments.end());
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    int ends[2];
    REQUIRE(pipe2(ends, O_CLOEXEC) == 0);
    output_ = UniqueFd(ends[0]);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
    const int error = posix_spawn(&process_, program, &actions, nullptr, argv.data(), environ);
    posix_spawn_file_actions_destroy(&actions);
    close(ends[1]);
    REQUIRE(error == 0);
    const std::string line = ReadyLine();
    INFO("memd said: " << line);
    const size_t at = line.find("rdma://");
    REQUIRE(at != line.npos);
    address_ = *ServerAddress::Parse(std::string_view(line).substr(at, line.size() - at - 1));
  }
  ~MemdProcess() { Kill(); }
  MemdProcess(const MemdProcess&) = delete;
  MemdProcess& operator=(const MemdProcess&) = delete;

  const ServerAddress& rdma() const { return address_; }
  void Kill() {
    if (process_ < 0) return;
    kill(process_, SIGKILL);
    while (waitpid(process_, nullptr, 0) < 0 && errno == EINTR) {
    }
    process_ = -1;
  }

 private:
  // All up to the first newline, or to the end.
  std::string ReadyLine() {
    std::string line;
    char c;
    while (!line.ends_with('\n') && read(output_.get(), &c, 1) == 1) line += c;
    return line;
  }

  pid_t process_ = -1;
  UniqueFd output_;
  ServerAddress address_;
};

}  // namespace spiritos
