// SPDX-License-Identifier: Apache-2.0
// Reading and writing addresses.
#include "runtime/cli/host_port.h"

#include <fmt/core.h>

#include <charconv>

#include "libos/base/status.h"

namespace spiritos::cli {

absl::StatusOr<HostPort> HostPort::Parse(std::string_view text) {
  HostPort place;
  const size_t colon = text.rfind(':');
  const std::string_view port = colon == text.npos ? text : text.substr(colon + 1);
  const auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), place.port);
  if (error != std::errc() || end != port.data() + port.size() || place.port < 0 ||
      place.port > 65535) {
    return InvalidArgument("\"{}\" is no port from 0 to 65535, in \"{}\"", port, text);
  }
  if (colon == text.npos) return place;
  std::string_view host = text.substr(0, colon);
  const bool bracketed = host.size() > 2 && host.front() == '[' && host.back() == ']';
  if (bracketed) host = host.substr(1, host.size() - 2);
  if (host.empty() || (!bracketed && host.find(':') != host.npos)) {
    return InvalidArgument("\"{}\" is not of the form host:port or [v6]:port", text);
  }
  place.host = host;
  return place;
}

std::string HostPort::ToString() const {
  const bool bracketed = host.find(':') != host.npos;
  return fmt::format("{}{}{}:{}", bracketed ? "[" : "", host, bracketed ? "]" : "", port);
}

}  // namespace spiritos::cli
