// SPDX-License-Identifier: Apache-2.0
// The table of the memory server's options.
#include "runtime/cli/memd_options.h"

#include <fmt/core.h>
#include <sys/resource.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <utility>

#include "libos/base/status.h"
#include "libos/options_env.h"

namespace spiritos::cli {
namespace {

// An option whose text `parse` turns into `*to`, or says what is wrong with it.
template <typename T>
CLI::Option* AddParsed(CLI::App& app, const std::string& name,
                       absl::StatusOr<T> (*parse)(std::string_view), T* to,
                       const std::string& help) {
  const auto set = [name, parse, to](const std::string& text) {
    auto parsed = parse(text);
    if (!parsed.ok()) throw CLI::ValidationError(name, std::string(parsed.status().message()));
    *to = *std::move(parsed);
  };
  return app.add_option_function<std::string>(name, set, help);
}

}  // namespace

absl::StatusOr<ServerOptions> OptionsOf(const MemdFlags& flags) {
  ServerOptions options = flags.server;
  options.tenant_bandwidth = flags.tenant_bandwidth.raw();
  options.rdma = flags.rdma.port >= 0;
  const HostPort& place = options.rdma ? flags.rdma : flags.tcp;
  if (options.rdma && flags.tcp.port >= 0 && flags.tcp.ToString() != place.ToString()) {
    return InvalidArgument(
        "--rdma {} listens for TCP there too, so --tcp {} cannot be another place",
        place.ToString(), flags.tcp.ToString());
  }
  options.tcp_host = place.host;
  options.tcp_port = place.port;
  return options;
}

absl::Status RaiseDescriptorLimit(const ServerOptions& options) {
  constexpr rlim_t kForConnections = 256;
  const rlim_t wanted = options.memory.raw() / kSlabSize + kForConnections;
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  if (limit.rlim_max < wanted) {
    return absl::ResourceExhaustedError(fmt::format(
        "{} open files are too few for {} slabs and {} connections: raise the hard limit, by "
        "LimitNOFILE={} in the unit, or ulimit -Hn (--memory)",
        limit.rlim_max, wanted - kForConnections, kForConnections, wanted));
  }
  limit.rlim_cur = limit.rlim_max;
  return setrlimit(RLIMIT_NOFILE, &limit) == 0 ? absl::OkStatus()
                                               : ErrnoStatus(errno, "raising RLIMIT_NOFILE");
}

void AddMemdOptions(CLI::App& memd, MemdFlags* flags) {
  ServerOptions& server = flags->server;
  memd.add_option("--config", flags->config,
                  "TOML file of these options, without their dashes; the command line wins");
  AddParsed(memd, "--memory", ParseBytes, &server.memory, "memory to serve, taken at once")
      ->type_name("SIZE")
      ->default_str("1G");
  memd.add_option("--unix", server.unix_path, "socket for programs of this machine")
      ->type_name("PATH");
  AddParsed(memd, "--tcp", HostPort::Parse, &flags->tcp,
            "address and port to listen on; port 0 picks one")
      ->type_name("[HOST:]PORT");
  AddParsed(memd, "--rdma", HostPort::Parse, &flags->rdma,
            "address of an RDMA device, and port, to listen on; for TCP too")
      ->type_name("[HOST:]PORT");
  memd.add_option("--host", server.host,
                  "name of what fails as one, if not the machine; copies of a page are on "
                  "different hosts")
      ->type_name("NAME");
  memd.add_option("--state", server.state_path,
                  "folder in a tmpfs where slabs outlive a restart; not with --unix")
      ->type_name("DIR");
  AddParsed(memd, "--metrics", HostPort::Parse, &flags->metrics,
            "address and port for OpenMetrics over HTTP, and for `spiritos stat`")
      ->type_name("[HOST:]PORT");
  const auto set_lease = [&server](const double& seconds) {
    server.lease_ms = static_cast<uint64_t>(seconds * 1000);
  };
  memd.add_option_function<double>("--lease", set_lease,
                                   "how long a silent program keeps its memory")
      ->type_name("SECONDS")
      ->check(CLI::Range(1.0, 4e6))
      ->default_str("60");
  memd.add_option("--quota", server.slab_quota, "slabs of 64 MiB one tenant may have; 0 = all")
      ->capture_default_str();
  AddParsed(memd, "--tenant-bandwidth", ParseBytes, &flags->tenant_bandwidth,
            "bytes a second to and from one tenant over TCP; 0 = any")
      ->type_name("SIZE")
      ->default_str("0");
  memd.add_option("--tls-psk", server.tls.psk,
                  "file of tenants' keys, a line of `spiritos key` each")
      ->type_name("FILE");
  memd.add_option("--tls-cert", server.tls.cert, "certificate of this server, PEM")
      ->type_name("FILE");
  memd.add_option("--tls-key", server.tls.key, "its key, PEM")->type_name("FILE");
  memd.add_option("--tls-ca", server.tls.ca, "authority of programs' certificates, PEM")
      ->type_name("FILE");
  const auto set_lock = [&server](int64_t count) { server.lock_memory = count <= 0; };
  memd.add_flag_function("--no-lock", set_lock, "do not lock the memory");
}

}  // namespace spiritos::cli
