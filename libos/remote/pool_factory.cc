// SPDX-License-Identifier: Apache-2.0
// The table of pool schemes, and the wrappers around them.
#include "libos/remote/pool_factory.h"

#include <string_view>
#include <utility>

#include "libos/base/status.h"
#include "libos/remote/backup_backend.h"
#include "libos/remote/embedded_backend.h"
#include "libos/remote/encrypting_backend.h"
#include "libos/remote/file_backend.h"
#include "libos/remote/server_pool.h"
#include "libos/remote/shaped_backend.h"
#include "libos/remote/shm_backend.h"
#include "libos/remote/tls_tunnel.h"

namespace spiritos {
namespace {

constexpr std::string_view kFileScheme = "file://";
constexpr std::string_view kShmScheme = "shm://";
constexpr std::string_view kTcpScheme = "tcp://";
constexpr std::string_view kRdmaScheme = "rdma://";

constexpr char kDefaultTenant[] = "default";

// Of a pool that is made without a budget.
constexpr Bytes kBackupBuffer(16 << 20);

// Connections over TLS, and the tenant that they prove to be.
absl::Status Secure(const RemoteOptions& options, ServerPool::Options* servers) {
  SPIRITOS_ASSIGN_OR_RETURN(std::unique_ptr<TlsContext> tls, TlsContext::ForClient(options.tls));
  if (!options.tenant.empty() && options.tenant != tls->tenant()) {
    return InvalidArgument("{} is of tenant \"{}\", not \"{}\" (SPIRITOS_TENANT)",
                           options.tls.psk.empty() ? options.tls.cert : options.tls.psk,
                           tls->tenant(), options.tenant);
  }
  servers->tenant = tls->tenant();
  SPIRITOS_ASSIGN_OR_RETURN(servers->tunnel, TlsTunnel::Create(std::move(tls)));
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<RemoteBackend>> ConnectServers(const RemoteOptions& options) {
  ServerPool::Options servers{.tenant = options.tenant.empty() ? kDefaultTenant : options.tenant,
                              .copies = options.copies,
                              .dead_ms = options.dead_after_ns / 1'000'000,
                              .give_up_ms = options.give_up_after_ns / 1'000'000,
                              .backed = !options.backup.empty(),
                              .capacity = options.pool_size};
  if (options.tls.any()) SPIRITOS_RETURN_IF_ERROR(Secure(options, &servers));
  std::string_view rest = options.pool;
  while (!rest.empty()) {
    const size_t comma = rest.find(',');
    SPIRITOS_ASSIGN_OR_RETURN(ServerAddress address, ServerAddress::Parse(rest.substr(0, comma)));
    if (!options.tls.any() && !IsLoopback(address.host)) {
      return InvalidArgument(
          "{} is another machine, and on the way anybody could read and answer: set "
          "SPIRITOS_TLS_PSK, or SPIRITOS_TLS_CERT, SPIRITOS_TLS_KEY and SPIRITOS_TLS_CA "
          "(SPIRITOS_POOL)",
          address.ToString());
    }
    if (options.copies > 1 && address.kind != ServerAddress::Kind::kTcp) {
      return InvalidArgument(
          "mirror={} is for servers over TCP, which look at the versions of what is copied to "
          "them; {} is none (SPIRITOS_DURABILITY, SPIRITOS_POOL)",
          options.copies, address.ToString());
    }
    servers.servers.push_back(std::move(address));
    rest = comma == rest.npos ? std::string_view() : rest.substr(comma + 1);
  }
  return ServerPool::Create(std::move(servers));
}

// As large as what it is behind.
absl::StatusOr<std::unique_ptr<RemoteBackend>> Backed(std::unique_ptr<RemoteBackend> servers,
                                                      const RemoteOptions& options) {
  SPIRITOS_ASSIGN_OR_RETURN(std::unique_ptr<FileBackend> file,
                            FileBackend::Create(options.backup, servers->capacity(),
                                                FileBackend::Io::kRings, "SPIRITOS_DURABILITY"));
  const Bytes buffer = options.backup_buffer.raw() == 0 ? kBackupBuffer : options.backup_buffer;
  return BackupBackend::Create(std::move(servers), std::move(file), buffer);
}

absl::StatusOr<std::unique_ptr<RemoteBackend>> MakeInnermost(const RemoteOptions& options) {
  const std::string_view pool = options.pool;
  if (options.copies > 1 && !pool.starts_with(kTcpScheme) && !pool.starts_with(kRdmaScheme)) {
    return InvalidArgument(
        "mirror={} needs a pool of servers, tcp://host:port,tcp://host:port, not \"{}\" "
        "(SPIRITOS_DURABILITY, SPIRITOS_POOL)",
        options.copies, pool);
  }
  const bool of_servers = pool.starts_with(kTcpScheme) || pool.starts_with(kRdmaScheme);
  if (!options.backup.empty() && !of_servers) {
    return InvalidArgument(
        "backup={} is for servers that can be lost, tcp://host:port or rdma://host:port, not "
        "\"{}\": the death of a shm:// server loses nothing (SPIRITOS_DURABILITY, SPIRITOS_POOL)",
        options.backup, pool);
  }
  if (pool == "embedded:") return EmbeddedBackend::Create(options.pool_size);
  if (pool.starts_with(kFileScheme) && pool.substr(kFileScheme.size()).starts_with('/')) {
    return FileBackend::Create(std::string(pool.substr(kFileScheme.size())), options.pool_size);
  }
  if (of_servers) {
    SPIRITOS_ASSIGN_OR_RETURN(std::unique_ptr<RemoteBackend> servers, ConnectServers(options));
    if (options.backup.empty()) return servers;
    return Backed(std::move(servers), options);
  }
  if (pool.starts_with(kShmScheme)) {
    SPIRITOS_ASSIGN_OR_RETURN(ServerAddress address, ServerAddress::Parse(pool));
    return ShmBackend::Create(std::move(address),
                              options.tenant.empty() ? kDefaultTenant : options.tenant,
                              options.pool_size, options.verify);
  }
  return InvalidArgument(
      "pool \"{}\" is none of embedded:, file:///path, shm:///socket, tcp://host:port, "
      "rdma://host:port (SPIRITOS_POOL)",
      pool);
}

}  // namespace

absl::StatusOr<std::unique_ptr<RemoteBackend>> MakePool(const RemoteOptions& options) {
  SPIRITOS_ASSIGN_OR_RETURN(std::unique_ptr<RemoteBackend> pool, MakeInnermost(options));
  const ShapedBackend::Distance distance{options.emulated_latency_ns,
                                         options.emulated_bytes_per_second};
  if (distance.latency_ns != 0 || distance.bytes_per_second != 0) {
    SPIRITOS_ASSIGN_OR_RETURN(pool, ShapedBackend::Create(std::move(pool), distance));
  }
  if (options.encrypt == Encryption::kNone) return pool;
  return EncryptingBackend::Create(std::move(pool));
}

}  // namespace spiritos
