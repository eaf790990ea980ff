// SPDX-License-Identifier: Apache-2.0
// OnSmallFileSystem: a file system that fills up soon, and that nobody else sees.
#pragma once

#include <sched.h>
#include <sys/mount.h>

#include <catch2/catch.hpp>
#include <string>
#include <thread>

#include "test/support/temp_dir.h"

namespace spiritos {

// Runs `body(directory)` on a small file system that only its thread sees. False,
// with a warning, where that takes privileges that are missing.
template <typename Body>
bool OnSmallFileSystem(size_t bytes, Body&& body) {
  TempDir dir;
  std::string missing;
  std::thread([&] {
    if (unshare(CLONE_NEWNS) != 0) {
      missing = "unshare";
    } else if (mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
               mount("tmpfs", dir.path().c_str(), "tmpfs", 0,
                     ("size=" + std::to_string(bytes)).c_str()) != 0) {
      missing = "mount";
    }
    if (missing.empty()) body(dir);
  }).join();
  if (!missing.empty()) WARN("skipped: " << missing << ": needs to be root");
  return missing.empty();
}

}  // namespace spiritos
