// SPDX-License-Identifier: Apache-2.0
// micro_remote: what a memory server in its own process costs, against what the same
// bytes cost without it.
//
// Interleaved, medians over the runs; the program on CPU 0, the server on CPU 1:
//   random read     a space at 25 % local over embedded:, shm: and tcp:; ns a read
//   one page        a demand read over tcp: against 64 bytes one way and 64 + 4096 the
//                   other over a bare loopback socket, both sides looking without a pause
//   stream          16-page to 64-page messages over tcp:, read and written, against a
//                   bare socket that sends or takes as many bytes
//   encrypted       the same streams with pages sealed and opened by the program
//   under load      a demand read while the other lanes are full, against an idle one's
//                   median and the time of one of their messages
//   checks          a stream whose every page is hashed, as faults and sweeps hash them,
//                   against one whose pages are not; and the CRC, which only what is
//                   written has
//   idle            CPU time of program and server while nothing happens
#include <fmt/core.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <functional>
#include <random>
#include <vector>

#include "bench/command_line.h"
#include "bench/harness.h"
#include "bench/isolated.h"
#include "bench/memd_child.h"
#include "libos/base/check.h"
#include "libos/base/clock.h"
#include "libos/base/mapping.h"
#include "libos/mem/page_hash.h"
#include "libos/remote/pool_factory.h"
#include "libos/remote/wire.h"
#include "libos/space.h"

namespace spiritos::bench {
namespace {

constexpr uint32_t kMessagePages = kMaxWirePages;
constexpr uint32_t kBufferPages = 4096;
constexpr size_t kFrame = FrameHeader::kSize;

struct Settings {
  uint32_t runs = 5;
  uint64_t far_mib = 256;
  uint64_t reads = 100'000;
  uint64_t streams = 8;  // Slabs that a stream moves.
  uint64_t idle_seconds = 5;
  std::string spiritos = "build/release/runtime/cli/spiritos";
  std::string json;
};

void Pin(int cpu) {
  static const std::vector<int> cpus = UsableCpus();  // Before the first pinning.
  const absl::Status status = PinThisThread({cpus[static_cast<size_t>(cpu) % cpus.size()]});
  SPIRITOS_CHECK(status.ok(), "pinning: {}", MessageOf(status));
}

MemdChild StartMemd(const Settings& settings, const std::vector<std::string>& where) {
  Pin(1);
  std::vector<std::string> arguments{"--memory", "1G", "--no-lock"};
  arguments.insert(arguments.end(), where.begin(), where.end());
  auto child = MemdChild::Start(settings.spiritos, arguments);
  SPIRITOS_CHECK(child.ok(), "{}", MessageOf(child.status()));
  Pin(0);
  return *std::move(child);
}

// ---- Random reads of a space -------------------------------------------------

double RandomRead(const Settings& settings, const std::string& pool) {
  Pin(0);
  Options options{.budget = Bytes(settings.far_mib << 18)};
  options.remote.pool = pool;
  auto made = Space::Create(options);
  SPIRITOS_CHECK(made.ok(), "{}", MessageOf(made.status()));
  const auto space = *std::move(made);
  const AddressRange region = space->CreateRegion(Bytes(settings.far_mib << 20)).value();
  const uint64_t pages = region.size.raw() / kPageSize;
  const auto word = [&](uint64_t page) -> volatile uint64_t& {
    return *reinterpret_cast<volatile uint64_t*>(region.begin + page * kPageSize);
  };
  for (uint64_t page = 0; page < pages; ++page) word(page) = page + 1;
  std::minstd_rand random(11);
  const auto read = [&](uint64_t count) {
    for (uint64_t i = 0; i < count; ++i) {
      const uint64_t page = random() % pages;
      const uint64_t found = word(page);
      SPIRITOS_CHECK(found == page + 1, "page {} holds {}", page, found);
    }
  };
  read(pages);  // To the steady state.
  const uint64_t begin = NowNs();
  read(settings.reads);
  return static_cast<double>(NowNs() - begin) / static_cast<double>(settings.reads);
}

// ---- A bare socket -----------------------------------------------------------

bool Move(int socket, std::byte* bytes, size_t size, bool receives) {
  while (size != 0) {
    const ssize_t n = receives ? recv(socket, bytes, size, MSG_DONTWAIT)
                               : send(socket, bytes, size, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n == 0 || (n < 0 && errno != EAGAIN)) return false;
    if (n < 0) continue;
    bytes += n;
    size -= static_cast<size_t>(n);
  }
  return true;
}

// Two connected sockets of loopback TCP, a process behind the second.
class BarePeer {
 public:
  explicit BarePeer(const std::function<void(int)>& serve) {
    const UniqueFd listener(socket(AF_INET, SOCK_STREAM, 0));
    sockaddr_in any{.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t size = sizeof(any);
    auto* const name = reinterpret_cast<sockaddr*>(&any);
    SPIRITOS_CHECK(bind(listener.get(), name, size) == 0 && listen(listener.get(), 1) == 0 &&
                       getsockname(listener.get(), name, &size) == 0,
                   "no socket");
    process_ = fork();
    if (process_ == 0) {
      Pin(1);
      const int accepted = accept(listener.get(), nullptr, nullptr);
      Prepare(accepted);
      serve(accepted);
      _exit(0);
    }
    socket_ = UniqueFd(socket(AF_INET, SOCK_STREAM, 0));
    SPIRITOS_CHECK(connect(socket_.get(), name, size) == 0, "no connection");
    Prepare(socket_.get());
  }
  ~BarePeer() {
    socket_.Reset();
    waitpid(process_, nullptr, 0);
  }
  int socket_fd() const { return socket_.get(); }

 private:
  static void Prepare(int fd) {
    const int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  }
  UniqueFd socket_;
  pid_t process_ = -1;
};

Mapping Pages(uint64_t pages) {
  auto memory = Mapping::Anonymous(Bytes(pages * kPageSize), kPageSize, "pages");
  SPIRITOS_CHECK(memory.ok(), "{}", MessageOf(memory.status()));
  std::fill_n(memory->data(), pages * kPageSize, std::byte{1});
  return *std::move(memory);
}

double BarePingPong(const Settings& settings) {
  Pin(0);
  const BarePeer peer([&](int fd) {
    const Mapping slab = Pages(kSlabPages);
    std::array<std::byte, kFrame> question{};
    std::minstd_rand random(5);
    while (Move(fd, question.data(), kFrame, true)) {
      const uint64_t page = random() % (kSlabPages - 1);
      if (!Move(fd, slab.data() + page * kPageSize, kFrame + kPageSize, false)) break;
    }
  });
  std::array<std::byte, kFrame> question{};
  const Mapping page = Pages(2);
  const auto ask = [&](uint64_t count) {
    for (uint64_t i = 0; i < count; ++i) {
      Move(peer.socket_fd(), question.data(), kFrame, false);
      Move(peer.socket_fd(), page.data(), kFrame + kPageSize, true);
    }
  };
  ask(settings.reads / 10);
  const uint64_t begin = NowNs();
  ask(settings.reads);
  return static_cast<double>(NowNs() - begin) / static_cast<double>(settings.reads);
}

// Nanoseconds a page.
double BareStream(const Settings& settings, bool reads) {
  Pin(0);
  const uint64_t messages = settings.streams * kSlabPages / kMessagePages;
  constexpr size_t kMessage = size_t{kMessagePages} * kPageSize;
  const auto move = [&](int fd, uint64_t pages, bool receives) {
    const Mapping memory = Pages(pages);
    const uint64_t begin = NowNs();
    for (uint64_t m = 0; m < messages; ++m) {
      const uint64_t at = m * kMessagePages % pages;
      if (!Move(fd, memory.data() + at * kPageSize, kMessage, receives)) break;
    }
    return NowNs() - begin;
  };
  // The server's side goes through a slab, ours through a buffer.
  const BarePeer peer([&](int fd) {
    move(fd, kSlabPages, !reads);
    std::byte last{};
    Move(fd, &last, 1, !reads);
  });
  const uint64_t ns = move(peer.socket_fd(), kBufferPages, reads);
  return static_cast<double>(ns) / static_cast<double>(messages * kMessagePages);
}

// ---- The same over a memory server -------------------------------------------

struct Pool {
  explicit Pool(const std::string& address, Encryption encrypt = Encryption::kNone) {
    auto made = MakePool({.pool = address, .tenant = "bench", .encrypt = encrypt});
    SPIRITOS_CHECK(made.ok(), "{}", MessageOf(made.status()));
    pool = *std::move(made);
    SPIRITOS_CHECK(pool->PlaceSlab(&slab) == IoResult::kOk, "no slab");
    buffer = Pages(kBufferPages);
    versions.assign(kMessagePages, 1);
  }
  ~Pool() { pool->ReleaseSlab(slab); }
  void Submit(IoRequest& request, IoOp op, Lane lane, uint64_t page, uint32_t pages,
              std::byte* memory) {
    request.op = op;
    request.lane = lane;
    request.first = slab + PageCount(static_cast<int64_t>(page));
    request.pages = pages;
    request.memory = memory;
    request.versions = versions.data();
    while (pool->Submit(request) == IoResult::kBusy) pool->Poll(lane);
  }
  void Finish(IoRequest& request) {
    pool->Wait(request);
    SPIRITOS_CHECK(request.status.load() == IoStatus::kDone, "a request failed");
  }
  // Messages m, m + 1, ... of the slab, around, through the buffer.
  void SubmitMessage(IoRequest& request, IoOp op, uint64_t m) {
    const Lane lane = op == IoOp::kRead ? Lane::kPrefetch : Lane::kWriteBack;
    Submit(request, op, lane, m * kMessagePages % kSlabPages, kMessagePages, MemoryOf(m));
  }
  std::byte* MemoryOf(uint64_t m) {
    return buffer.data() + m * kMessagePages % kBufferPages * kPageSize;
  }
  void Write() {
    for (uint64_t m = 0; m < kSlabPages / kMessagePages; ++m) {
      IoRequest request;
      SubmitMessage(request, IoOp::kWrite, m);
      Finish(request);
    }
  }
  double DemandNs(uint64_t count, std::vector<double>* each, const std::function<void()>& between) {
    std::minstd_rand random(5);
    const uint64_t begin = NowNs();
    for (uint64_t i = 0; i < count; ++i) {
      between();
      const uint64_t start = NowNs();
      IoRequest request;
      Submit(request, IoOp::kRead, Lane::kDemand, random() % kSlabPages, 1, page.data());
      Finish(request);
      if (each != nullptr) each->push_back(static_cast<double>(NowNs() - start));
    }
    return static_cast<double>(NowNs() - begin) / static_cast<double>(count);
  }

  std::unique_ptr<RemoteBackend> pool;
  SlotId slab;
  Mapping buffer;
  Mapping page = Pages(1);
  std::vector<uint32_t> versions;
};

// Several messages in flight on one lane; with a hasher, hashed on their way.
class Window {
 public:
  Window(Pool& pool, IoOp op, const PageHasher* hasher = nullptr)
      : pool_(pool), op_(op), hasher_(hasher) {
    for (IoRequest& request : requests_) Begin(request);
  }
  ~Window() {
    for (IoRequest& request : requests_) End(request);
  }
  // The oldest ends, another one goes out.
  void Step() {
    IoRequest& oldest = requests_[next_ % kDepth];
    End(oldest);
    Begin(oldest);
  }
  // The same for those that have ended.
  void Refill() {
    pool_.pool->Poll(op_ == IoOp::kRead ? Lane::kPrefetch : Lane::kWriteBack);
    while (requests_[next_ % kDepth].final()) Step();
  }

 private:
  static constexpr uint64_t kDepth = 8;

  void Begin(IoRequest& request) {
    if (op_ == IoOp::kWrite) Look(pool_.MemoryOf(next_));
    pool_.SubmitMessage(request, op_, next_++);
  }
  void End(IoRequest& request) {
    pool_.Finish(request);
    if (op_ == IoOp::kRead) Look(request.memory);
  }
  void Look(const std::byte* message) {
    for (uint32_t page = 0; hasher_ != nullptr && page < kMessagePages; ++page) {
      SPIRITOS_CHECK(hasher_->Hash(message + page * kPageSize) != hasher_->zero_hash(),
                     "an empty page");
    }
  }

  Pool& pool_;
  const IoOp op_;
  const PageHasher* const hasher_;
  uint64_t next_ = 0;
  std::array<IoRequest, kDepth> requests_;
};

enum class PageKind { kPlain, kHashed, kSealed };

double Stream(const Settings& settings, const std::string& address, IoOp op, PageKind kind) {
  Pin(0);
  Pool pool(address, kind == PageKind::kSealed ? Encryption::kAes256Gcm : Encryption::kNone);
  pool.Write();  // What is read is not empty.
  const PageHasher hasher;
  const uint64_t messages = settings.streams * kSlabPages / kMessagePages;
  const uint64_t begin = NowNs();
  {
    Window window(pool, op, kind == PageKind::kHashed ? &hasher : nullptr);
    for (uint64_t m = 8; m < messages; ++m) window.Step();
  }
  return static_cast<double>(NowNs() - begin) / static_cast<double>(messages * kMessagePages);
}

// {idle, median under load}
std::vector<double> UnderLoad(const Settings& settings, const std::string& address) {
  Pin(0);
  Pool pool(address);
  std::vector<double> idle;
  std::vector<double> loaded;
  pool.DemandNs(settings.reads / 10, nullptr, [] {});
  pool.DemandNs(settings.reads / 10, &idle, [] {});
  {
    Window reads(pool, IoOp::kRead);
    Window writes(pool, IoOp::kWrite);
    pool.DemandNs(settings.reads / 10, &loaded, [&] {
      reads.Refill();
      writes.Refill();
    });
  }
  return {Median(idle), Median(loaded)};
}

// Nanoseconds a page of those that a message has, one after another, as they are when
// they have just been hashed.
double CrcNs() {
  Pin(0);
  const Mapping memory = Pages(kMessagePages);
  uint64_t sum = 0;
  const uint64_t begin = NowNs();
  for (uint64_t i = 0; i < kBufferPages; ++i) {
    sum += Crc32c({memory.data() + i % kMessagePages * kPageSize, kPageSize});
  }
  SPIRITOS_CHECK(sum != 0, "nothing was looked at");
  return static_cast<double>(NowNs() - begin) / kBufferPages;
}

double CpuSeconds(clockid_t clock) {
  timespec time{};
  SPIRITOS_CHECK(clock_gettime(clock, &time) == 0, "no CPU clock");
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) / 1e9;
}

// Share of a CPU that a space and its server take while nothing happens.
double IdleShare(const Settings& settings, const MemdChild& server, const std::string& pool) {
  Options options{.budget = Bytes(64 << 20)};
  options.remote.pool = pool;
  const auto space = Space::Create(options).value();
  const AddressRange region = space->CreateRegion(Bytes(128 << 20)).value();
  for (size_t at = 0; at < region.size.raw(); at += kPageSize) region.begin[at] = std::byte{1};
  space->Drain();
  clockid_t theirs;
  SPIRITOS_CHECK(clock_getcpuclockid(server.process(), &theirs) == 0, "no CPU clock");
  const auto both = [&] { return CpuSeconds(theirs) + CpuSeconds(CLOCK_PROCESS_CPUTIME_ID); };
  const double before = both();
  const timespec pause{static_cast<time_t>(settings.idle_seconds), 0};
  nanosleep(&pause, nullptr);  // Idleness is what is measured.
  return (both() - before) / static_cast<double>(settings.idle_seconds);
}

// ---- Figures -----------------------------------------------------------------

struct Series {
  const char* name;
  const char* unit;
  std::vector<double> values;
  double median() const { return Median(values); }
};

int Main(int argc, char** argv) {
  Settings settings;
  CommandLine line("what a memory server costs, against the same bytes without it");
  line.Add("--runs", &settings.runs, "interleaved runs");
  line.Add("--far", &settings.far_mib, "far memory of the random reads, MiB");
  line.Add("--reads", &settings.reads, "reads of a run");
  line.Add("--slabs", &settings.streams, "slabs that a stream moves");
  line.Add("--idle", &settings.idle_seconds, "seconds of idleness");
  line.Add("--spiritos", &settings.spiritos, "the program that has memd");
  line.Add("--json", &settings.json, "also write the figures to this file");
  if (const auto ended = line.Parse(argc, argv)) return *ended;
  PrintMachine(stdout);

  char folder[] = "/tmp/spiritos-bench-XXXXXX";
  SPIRITOS_CHECK(mkdtemp(folder) != nullptr, "no folder");
  const std::string socket = std::string(folder) + "/memd.sock";
  int status = 0;
  {
    const MemdChild server = StartMemd(settings, {"--tcp", "0", "--unix", socket});
    const std::string tcp = server.Address("tcp://");
    const std::string shm = "shm://" + socket;
    enum {
      kEmbedded,
      kShm,
      kTcp,
      kBare,
      kDemand,
      kBareRead,
      kRead,
      kBareWrite,
      kWrite,
      kSealedRead,
      kSealedWrite,
      kLoaded,
      kHashedRead,
      kHashedWrite,
      kCrc,
      kSeriesCount
    };
    std::array<Series, kSeriesCount> all = {{{"random read, embedded", "ns", {}},
                                             {"random read, shm", "ns", {}},
                                             {"random read, tcp", "ns", {}},
                                             {"one page, bare socket", "ns", {}},
                                             {"one page, demand lane, p50", "ns", {}},
                                             {"read stream, bare socket", "ns a page", {}},
                                             {"read stream, prefetch lane", "ns a page", {}},
                                             {"write stream, bare socket", "ns a page", {}},
                                             {"write stream, write-back lane", "ns a page", {}},
                                             {"encrypted, read stream", "ns a page", {}},
                                             {"encrypted, write stream", "ns a page", {}},
                                             {"one page, other lanes full, p50", "ns", {}},
                                             {"read stream, hashed", "ns a page", {}},
                                             {"write stream, hashed", "ns a page", {}},
                                             {"CRC-32C of a page", "ns", {}}}};
    using Measure = std::function<std::vector<double>()>;
    const auto stream = [&](IoOp op, PageKind kind) {
      return std::vector{Stream(settings, tcp, op, kind)};
    };
    const std::vector<std::pair<std::vector<int>, Measure>> measures = {
        {{kEmbedded}, [&] { return std::vector{RandomRead(settings, "embedded:")}; }},
        {{kShm}, [&] { return std::vector{RandomRead(settings, shm)}; }},
        {{kTcp}, [&] { return std::vector{RandomRead(settings, tcp)}; }},
        {{kBare}, [&] { return std::vector{BarePingPong(settings)}; }},
        {{kDemand, kLoaded}, [&] { return UnderLoad(settings, tcp); }},
        {{kBareRead}, [&] { return std::vector{BareStream(settings, true)}; }},
        {{kRead}, [&] { return stream(IoOp::kRead, PageKind::kPlain); }},
        {{kHashedRead}, [&] { return stream(IoOp::kRead, PageKind::kHashed); }},
        {{kBareWrite}, [&] { return std::vector{BareStream(settings, false)}; }},
        {{kWrite}, [&] { return stream(IoOp::kWrite, PageKind::kPlain); }},
        {{kHashedWrite}, [&] { return stream(IoOp::kWrite, PageKind::kHashed); }},
        {{kSealedRead}, [&] { return stream(IoOp::kRead, PageKind::kSealed); }},
        {{kSealedWrite}, [&] { return stream(IoOp::kWrite, PageKind::kSealed); }},
        {{kCrc}, [] { return std::vector{CrcNs()}; }}};
    Progress progress(static_cast<int>(settings.runs * measures.size() + 1));
    for (uint32_t run = 0; run < settings.runs; ++run) {
      for (const auto& [series, measure] : measures) {
        progress.Step(all[static_cast<size_t>(series[0])].name);
        const auto numbers = RunIsolated(measure);
        SPIRITOS_CHECK(numbers.ok(), "{}", MessageOf(numbers.status()));
        for (size_t i = 0; i < series.size(); ++i) {
          all[static_cast<size_t>(series[i])].values.push_back((*numbers)[i]);
        }
      }
    }
    progress.Step("idleness");
    const auto idle = RunIsolated([&] { return std::vector{IdleShare(settings, server, tcp)}; });
    SPIRITOS_CHECK(idle.ok(), "{}", MessageOf(idle.status()));
    progress.Finish();

    Json json;
    json.Open('{').Field("program", "micro_remote");
    Table figures({"what", "median", "spread"});
    for (const Series& series : all) {
      figures.Add({series.name, fmt::format("{:.0f} {}", series.median(), series.unit),
                   fmt::format("{:.0f} %", 100 * Spread(series.values))});
      json.Field(series.name, series.median());
    }
    fmt::print("{}\n", figures.ToText());
    Table verdicts({"what", "figure", "target", "verdict"});
    const auto judge = [&](const char* what, double figure, double target, bool most) {
      const bool met = most ? figure <= target : figure >= target;
      verdicts.Add({what, fmt::format("{:.3g}", figure),
                    fmt::format("{} {:.3g}", most ? "<=" : ">=", target), met ? "met" : "MISSED"});
      json.Key(what).Open('{').Field("figure", figure).Field("target", target).Close();
    };
    const auto m = [&](int series) { return all[static_cast<size_t>(series)].median(); };
    judge("random read, shm over embedded", m(kShm) / m(kEmbedded), 1.3, true);
    judge("one page over a bare socket", m(kDemand) / m(kBare), 1.5, true);
    judge("read stream, share of a bare one's rate", m(kBareRead) / m(kRead), 0.7, false);
    judge("write stream, share of a bare one's rate", m(kBareWrite) / m(kWrite), 0.7, false);
    judge("one page under load, over 2 idle ones and a message",
          m(kLoaded) / (2 * m(kDemand) + kMessagePages * m(kRead)), 1, true);
    judge("hash, share of the read stream's time", 1 - m(kRead) / m(kHashedRead), 0.08, true);
    judge("hash and CRC, share of the write stream's time",
          1 - (m(kWrite) - m(kCrc)) / m(kHashedWrite), 0.08, true);
    judge("CPUs taken while idle", (*idle)[0], 0.005, true);
    fmt::print("{}", verdicts.ToText());
    json.Close();
    status = SaveFigures(settings.json, json);
  }
  rmdir(folder);
  return status;
}

}  // namespace
}  // namespace spiritos::bench

int main(int argc, char** argv) { return spiritos::bench::Main(argc, argv); }
