// SPDX-License-Identifier: Apache-2.0
// TempDir: a directory of the test's own, gone with it.
//
// Under TMPDIR, so that a run can be pointed at another file system, else under
// /var/tmp: pools are files for direct I/O, which a /tmp in memory may refuse.
#pragma once

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <string>

#include "libos/base/check.h"

namespace spiritos {

class TempDir {
 public:
  TempDir() {
    const char* const under = getenv("TMPDIR");
    path_ = std::string(under != nullptr ? under : "/var/tmp") + "/spiritos-test-XXXXXX";
    SPIRITOS_CHECK(mkdtemp(path_.data()) != nullptr, "no directory {}: errno {} (TMPDIR)", path_,
                   errno);
  }
  ~TempDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;

  const std::string& path() const { return path_; }
  std::string file(const char* name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

}  // namespace spiritos
