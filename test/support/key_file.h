// SPDX-License-Identifier: Apache-2.0
// WriteKeys: keys in a file, as --tls-psk and SPIRITOS_TLS_PSK want them.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <string>
#include <string_view>
#include <vector>

#include "libos/base/check.h"
#include "libos/base/fd.h"
#include "libos/remote/tls_keys.h"
#include "test/support/temp_dir.h"

namespace spiritos {

// The path of a new file that holds `text`.
inline std::string WriteText(const TempDir& dir, std::string_view text, mode_t mode = 0600) {
  std::string path = dir.file("keys-XXXXXX");
  const UniqueFd file(mkstemp(path.data()));
  SPIRITOS_CHECK(write(file.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size()) &&
                     fchmod(file.get(), mode) == 0,
                 "cannot write {}", path);
  return path;
}

inline std::string WriteKeys(const TempDir& dir, const std::vector<TlsKey>& keys) {
  std::string text;
  for (const TlsKey& key : keys) text += key.ToLine() + "\n";
  return WriteText(dir, text);
}

}  // namespace spiritos
