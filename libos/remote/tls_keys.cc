// SPDX-License-Identifier: Apache-2.0
// Lines of keys, and files that hold secrets.
#include "libos/remote/tls_keys.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>

#include "libos/base/fd.h"
#include "libos/base/status.h"
#include "libos/remote/wire.h"

namespace spiritos {
namespace {

// Of any file read here: thousands of tenants' keys.
constexpr size_t kLongest = size_t{1} << 20;

bool ParseSecret(std::string_view hex, std::array<std::byte, TlsKey::kSize>* secret) {
  if (hex.size() != 2 * TlsKey::kSize) return false;
  for (size_t i = 0; i < secret->size(); ++i) {
    const char* const digits = hex.data() + 2 * i;
    uint8_t value = 0;
    const auto [end, error] = std::from_chars(digits, digits + 2, value, 16);
    if (error != std::errc() || end != digits + 2) return false;
    (*secret)[i] = std::byte{value};
  }
  return true;
}

}  // namespace

absl::StatusOr<TlsKey> TlsKey::Make(std::string_view tenant) {
  if (!IsTenantName(tenant)) {
    return InvalidArgument("tenant \"{}\" is not 1 to 47 printable characters (--tenant)", tenant);
  }
  TlsKey key{.tenant = std::string(tenant)};
  if (getrandom(key.secret.data(), key.secret.size(), 0) != TlsKey::kSize) {
    return ErrnoStatus(errno, "making a key");
  }
  return key;
}

std::string TlsKey::ToLine() const {
  std::string line = tenant + ":";
  for (const std::byte byte : secret) line += fmt::format("{:02x}", static_cast<uint8_t>(byte));
  return line;
}

absl::StatusOr<std::string> ReadSecretFile(const std::string& path, std::string_view knob) {
  const UniqueFd file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file.valid()) return ErrnoStatus(errno, fmt::format("opening {} ({})", path, knob));
  struct stat info;
  if (fstat(file.get(), &info) != 0) {
    return ErrnoStatus(errno, fmt::format("looking at {} ({})", path, knob));
  }
  if ((info.st_mode & (S_IRWXG | S_IRWXO)) != 0) {
    return absl::PermissionDeniedError(
        fmt::format("{} holds a secret, and its mode {:04o} lets others at it: chmod 600 {} ({})",
                    path, info.st_mode & 07777, path, knob));
  }
  std::string text;
  while (text.size() <= kLongest) {
    char buffer[4096];
    const ssize_t got = read(file.get(), buffer, sizeof(buffer));
    if (got == 0) return text;
    if (got < 0 && errno != EINTR) {
      return ErrnoStatus(errno, fmt::format("reading {} ({})", path, knob));
    }
    if (got > 0) text.append(buffer, static_cast<size_t>(got));
  }
  return InvalidArgument("{} is longer than {} bytes ({})", path, kLongest, knob);
}

absl::StatusOr<std::vector<TlsKey>> ReadKeys(const std::string& path, std::string_view knob) {
  SPIRITOS_ASSIGN_OR_RETURN(const std::string text, ReadSecretFile(path, knob));
  std::vector<TlsKey> keys;
  std::string_view rest = text;
  for (int number = 1; !rest.empty(); ++number) {
    const size_t end = std::min(rest.find('\n'), rest.size());
    const std::string_view line = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 1, rest.size()));
    if (line.empty()) continue;
    const size_t colon = line.rfind(':');
    TlsKey key;
    if (colon == line.npos || !IsTenantName(line.substr(0, colon)) ||
        !ParseSecret(line.substr(colon + 1), &key.secret)) {  // Never shown: it may be a key.
      return InvalidArgument(
          "{}:{}: not TENANT:KEY with {} hexadecimal digits, as `spiritos key` prints it ({})",
          path, number, 2 * TlsKey::kSize, knob);
    }
    key.tenant = line.substr(0, colon);
    const bool known = std::any_of(keys.begin(), keys.end(),
                                   [&](const TlsKey& k) { return k.tenant == key.tenant; });
    if (known) {
      return InvalidArgument("{}:{}: a second key for tenant {} ({})", path, number, key.tenant,
                             knob);
    }
    keys.push_back(std::move(key));
  }
  if (keys.empty()) return InvalidArgument("{} has no key ({})", path, knob);
  return keys;
}

}  // namespace spiritos
