// SPDX-License-Identifier: Apache-2.0
// Options: every knob of a space as plain data, one struct per module.
//
// Each field says its unit, what it does and the environment variable that
// sets it (libos/options_env parses them). Defaults suit one machine with an
// embedded pool. Space::Create() checks ranges and refuses with a message that
// names the knob.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "libos/base/units.h"

namespace spiritos {

enum class FaultMode {
  kAuto,    // kSigbus: linked programs pin what they hand to the kernel.
  kSigbus,  // The faulting thread serves itself; system calls on absent pages fail with EFAULT.
  kThread,  // Handler threads serve faults, those inside system calls too.
};

struct FaultOptions {
  FaultMode mode = FaultMode::kAuto;  // SPIRITOS_FAULT_MODE = auto | sigbus | thread
  // Threads that read faults in kThread mode.
  uint32_t handler_threads = 2;  // SPIRITOS_HANDLER_THREADS
  // Uses only the calls that Linux 6.1 has: no vectored zap, no UFFDIO_MOVE.
  bool oldest_calls = false;  // SPIRITOS_OLDEST_CALLS
};

struct EvictOptions {
  // Evictor threads; the space starts with one and adds more while faulting
  // threads stall. 0 = faulting threads sweep for themselves.
  uint32_t max_evictors = 4;  // SPIRITOS_MAX_EVICTORS
  // CPUs the evictors may use; empty = all that the process may, less those
  // that faulting threads are seen on.
  std::vector<int> cpus;  // SPIRITOS_EVICTOR_CPUS = 1,2
  // Whether faulting threads may sweep when no frame is free.
  enum class Assist { kMeasured, kAlways, kNever };
  Assist assist = Assist::kMeasured;  // SPIRITOS_ASSIST = measured | always | never
  // Pages that one inline sweep of a faulting thread looks at. Larger amortises
  // the two shootdowns better and lengthens the tail.
  uint32_t assist_pages = 256;  // SPIRITOS_ASSIST_PAGES
  // Zones one evictor keeps in flight: one is frozen while others are written.
  uint32_t pipeline = 2;  // SPIRITOS_EVICT_PIPELINE
};

struct PrefetchOptions {
  enum class Kind { kNone, kSequential, kTrend };
  Kind kind = Kind::kTrend;  // SPIRITOS_PREFETCH = none | sequential | trend
  // Longest run that is read ahead, in pages. Evictors with time to spare fill up to
  // four times as far from an embedded pool.
  uint32_t max_window = 64;  // SPIRITOS_PREFETCH_WINDOW
  // Pages that a first touch fills ahead with zeroes.
  uint32_t fault_around = 16;  // SPIRITOS_FAULT_AROUND
};

// Who may be at the other end of a TCP connection: a key for each tenant, or
// certificates, or neither, which only servers of this machine may go without.
struct TlsOptions {
  // A file of TENANT:KEY lines, as `spiritos key` prints them; a client's has one. Nobody
  // but its owner may read it.
  std::string psk;  // SPIRITOS_TLS_PSK
  // PEM files: our certificate, its key, and the authority that all are signed by. A
  // client's common name is its tenant.
  std::string cert;  // SPIRITOS_TLS_CERT
  std::string key;   // SPIRITOS_TLS_KEY
  std::string ca;    // SPIRITOS_TLS_CA

  bool any() const { return !psk.empty() || !cert.empty() || !key.empty() || !ca.empty(); }
};

enum class Encryption : uint8_t { kNone, kAes256Gcm };
enum class Verify : uint8_t { kMapped, kCopied };

struct RemoteOptions {
  // Where evicted pages go: `embedded:` (memory of this process), `file:///path`
  // (slots in a file, direct I/O), `shm:///socket` (a memory server of this machine),
  // `tcp://host:port` or `rdma://host:port` (a memory server; several, separated by
  // commas, are one pool).
  std::string pool = "embedded:";  // SPIRITOS_POOL
  // Whose slabs they are, to memory servers: letters, digits and marks. Empty = whose the
  // key or certificate is, else "default".
  std::string tenant;  // SPIRITOS_TENANT
  TlsOptions tls;
  // Pages are encrypted before they leave, under a key that only this process has.
  Encryption encrypt = Encryption::kNone;  // SPIRITOS_ENCRYPT = none, aes256gcm
  // Pages of a shm:// server are checked where it has them mapped, too, and could change
  // them before they are copied; or in a copy, which costs the copying. Those of all other
  // pools are checked where no server can reach them.
  Verify verify = Verify::kMapped;  // SPIRITOS_VERIFY = mapped, copied
  // Servers that hold each page: 1 = the loss of one loses its pages.
  uint32_t copies = 1;  // SPIRITOS_DURABILITY = none, mirror=2, mirror=3
  // A local file behind the servers that every page goes to as well; empty = none. The
  // loss of all servers loses nothing then.
  std::string backup;  // SPIRITOS_DURABILITY = backup=/path or mirror=2,backup=/path
  // What copies of writes that are on their way to it may take of the budget. When it is
  // full, writes wait for the file. 0 = a sixteenth of the budget, 64 MiB at most.
  Bytes backup_buffer;  // SPIRITOS_BACKUP_BUFFER
  // A server that leaves a message unanswered for so long (a quarter, if it refuses
  // connections) is gone on without, where other copies are; where not, it is waited for,
  // and then its pages are lost.
  uint64_t dead_after_ns = 600'000'000;        // SPIRITOS_DEAD_AFTER
  uint64_t give_up_after_ns = 30'000'000'000;  // SPIRITOS_GIVE_UP_AFTER
  // What the pool may hold. 0 = as much as regions ask for.
  Bytes pool_size;  // SPIRITOS_POOL_SIZE
  // Emulated distance, added by the `shaped` wrapper: 0 = off.
  uint64_t emulated_latency_ns = 0;        // SPIRITOS_EMULATE_LATENCY = 10us
  uint64_t emulated_bytes_per_second = 0;  // SPIRITOS_EMULATE_BANDWIDTH = 1G
};

struct Options {
  // Frames the space may hold, in bytes: every page that is mapped, leaving,
  // standing by, staged or free counts.
  Bytes budget = Bytes(256 << 20);  // SPIRITOS_BUDGET
  FaultOptions fault;
  EvictOptions evict;
  PrefetchOptions prefetch;
  RemoteOptions remote;
  // Its figures are where `spiritos top` finds them.
  bool live_stats = true;  // SPIRITOS_LIVE_STATS
};

// What a Space may not go below: room for the frames that faults, a window of
// read-ahead and a zone in flight hold at the same time.
inline constexpr Bytes kMinBudget = Bytes(4 << 20);

}  // namespace spiritos
