// SPDX-License-Identifier: Apache-2.0
// One HTTP exchange, and the text format.
#include "runtime/cli/metrics_reader.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <poll.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <utility>

#include "libos/base/clock.h"
#include "libos/base/status.h"
#include "libos/remote/dial.h"

namespace spiritos::cli {
namespace {

constexpr size_t kMaxAnswer = size_t{64} << 20;

// A label's value as it was before it was quoted.
std::string Unquoted(std::string_view quoted) {
  std::string text;
  for (size_t i = 0; i < quoted.size() && quoted[i] != '"'; ++i) {
    if (quoted[i] == '\\' && i + 1 < quoted.size()) {
      ++i;
      text += quoted[i] == 'n' ? '\n' : quoted[i];
    } else {
      text += quoted[i];
    }
  }
  return text;
}

// All that the peer sends until it closes.
absl::StatusOr<std::string> ReadToEnd(int socket, uint64_t deadline_ns) {
  std::string all;
  std::array<char, 16384> part;
  while (all.size() < kMaxAnswer) {
    const uint64_t now = NowNs();
    if (now >= deadline_ns) return absl::DeadlineExceededError("no answer in time");
    pollfd wait{socket, POLLIN, 0};
    if (poll(&wait, 1, static_cast<int>((deadline_ns - now) / 1'000'000 + 1)) <= 0) continue;
    const ssize_t got = recv(socket, part.data(), part.size(), 0);
    if (got == 0) return all;
    if (got > 0) {
      all.append(part.data(), static_cast<size_t>(got));
    } else if (errno != EAGAIN && errno != EINTR) {
      return ErrnoStatus(errno, "reading metrics");
    }
  }
  return absl::ResourceExhaustedError("the answer has no end");
}

}  // namespace

std::vector<MetricSample> ParseMetrics(std::string_view text) {
  constexpr std::string_view kTenant = "tenant=\"";
  std::vector<MetricSample> samples;
  while (!text.empty()) {
    const std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(line.size() + 1, text.size()));
    const size_t name_end = line.find_first_of("{ ");
    const size_t value_at = line.rfind(' ');
    if (line.starts_with('#') || name_end == line.npos || name_end == 0) continue;
    MetricSample sample;
    sample.name = line.substr(0, name_end);
    const std::string_view value = line.substr(value_at + 1);
    const auto parsed = std::from_chars(value.data(), value.data() + value.size(), sample.value);
    if (parsed.ec != std::errc() || parsed.ptr != value.data() + value.size()) continue;
    const size_t label = line.find(kTenant, name_end);
    if (label != line.npos) sample.tenant = Unquoted(line.substr(label + kTenant.size()));
    samples.push_back(std::move(sample));
  }
  return samples;
}

absl::StatusOr<std::vector<MetricSample>> FetchMetrics(const HostPort& place,
                                                       uint64_t deadline_ns) {
  const ServerAddress address{ServerAddress::Kind::kTcp, place.host, fmt::format("{}", place.port)};
  SPIRITOS_ASSIGN_OR_RETURN(const UniqueFd socket, Dial(address, deadline_ns));
  const std::string request =
      fmt::format("GET /metrics HTTP/1.0\r\nHost: {}\r\n\r\n", place.ToString());
  // So few bytes fit into any new socket.
  if (send(socket.get(), request.data(), request.size(), MSG_NOSIGNAL) !=
      static_cast<ssize_t>(request.size())) {
    return ErrnoStatus(errno, fmt::format("asking {} (--metrics)", place.ToString()));
  }
  SPIRITOS_ASSIGN_OR_RETURN(const std::string answer, ReadToEnd(socket.get(), deadline_ns));
  const size_t body = answer.find("\r\n\r\n");
  const std::string status_line = answer.substr(0, answer.find('\r'));
  if (!status_line.starts_with("HTTP/1.") || status_line.find(" 200 ") == status_line.npos ||
      body == answer.npos) {
    return absl::UnavailableError(fmt::format(
        "{} does not answer with metrics, but \"{}\" (--metrics)", place.ToString(), status_line));
  }
  return ParseMetrics(std::string_view(answer).substr(body + 4));
}

}  // namespace spiritos::cli
