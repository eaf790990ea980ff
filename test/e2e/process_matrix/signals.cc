// SPDX-License-Identifier: Apache-2.0
// Signals that come while memory does: storms of them, and calls that they interrupt.
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <string>
#include <thread>

#include "test/e2e/process_matrix/field.h"

namespace process_matrix {
namespace {

constexpr size_t kSize = size_t{4} << 20;
constexpr size_t kCounters = kSize / kPage;

// What handlers count in, a word in each page; and how often they were called, for sure.
std::byte* counters;
std::atomic<uint64_t> calls{0};

volatile uint64_t& CounterOf(size_t page) {
  return *reinterpret_cast<volatile uint64_t*>(counters + page * kPage + page % 500 * 8);
}
void OnSignal(int) {
  const int saved_errno = errno;
  volatile uint64_t& counter = CounterOf(calls.fetch_add(1) % kCounters);
  counter = counter + 1;
  errno = saved_errno;
}

class Counted {
 public:
  explicit Counted(int signal, int flags) : signal_(signal) {
    counters = MapBytes(kSize);
    SendAway(counters, kSize);
    calls = 0;
    struct sigaction action {};
    action.sa_handler = OnSignal;
    action.sa_flags = flags;
    Require(sigaction(signal, &action, &before_) == 0, "sigaction");
  }
  ~Counted() {
    sigaction(signal_, &before_, nullptr);
    munmap(counters, kSize);
  }
  Counted(const Counted&) = delete;
  Counted& operator=(const Counted&) = delete;
  // REQUIRES: no more come.
  static bool AreAllThere() {
    uint64_t sum = 0;
    for (size_t page = 0; page < kCounters; ++page) sum += CounterOf(page);
    return sum == calls;
  }

 private:
  const int signal_;
  struct sigaction before_;
};

void SetTimer(int which, suseconds_t period_us) {
  const itimerval timer{{0, period_us}, {0, period_us}};
  Require(setitimer(which, &timer, nullptr) == 0, "setitimer");
}

void Storm(Field& field, Findings& findings, int which, int signal) {
  constexpr uint64_t kTimes = 120;
  const Counted counted(signal, SA_RESTART);
  SetTimer(which, 1000);
  for (uint32_t round = 0; calls < kTimes; ++round) {
    field.StoreAll(400 + round, round % 3, 3);
    findings.Expect(field.IsWhole(), "memory in a storm of signals");
  }
  SetTimer(which, 0);
  findings.Expect(counted.AreAllThere(), "what the handler stored");
}

void AlarmStorm(Field& field, Findings& findings) { Storm(field, findings, ITIMER_REAL, SIGALRM); }
void ProfileStorm(Field& field, Findings& findings) {
  Storm(field, findings, ITIMER_PROF, SIGPROF);
}

void ForksInAStorm(Field& field, Findings& findings) {
  const Counted counted(SIGALRM, SA_RESTART);
  SetTimer(ITIMER_REAL, 1000);
  for (uint32_t round = 0; round < 4; ++round) {
    const uint64_t before = calls;
    while (calls == before) field.StoreAll(410 + round, 0, 31);
    const pid_t child = fork();
    Require(child >= 0, "fork");
    if (child == 0) {
      // Its own timer: none is inherited.
      SetTimer(ITIMER_REAL, 1000);
      const uint64_t so_far = calls;
      while (calls == so_far) field.StoreAll(415, 0, 7);
      SetTimer(ITIMER_REAL, 0);
      _exit(field.IsWhole() && counted.AreAllThere() ? 0 : 1);
    }
    findings.ExpectEnd(child, "exit 0");
  }
  SetTimer(ITIMER_REAL, 0);
  findings.Expect(counted.AreAllThere(), "what the handler stored");
}

// Another thread is sent signals while it goes through memory.
void SentToAThread(Field& field, Findings& findings) {
  const Counted counted(SIGUSR1, SA_RESTART);
  std::atomic<bool> stop{false};
  std::atomic<bool> good{true};
  std::thread reader([&] {
    while (!stop) {
      field.StoreAll(420, 2, 5);
      if (!field.IsWhole()) good = false;
    }
  });
  for (uint64_t sent = 0; sent < 200; ++sent) {
    pthread_kill(reader.native_handle(), SIGUSR1);
    while (calls <= sent) std::this_thread::yield();
  }
  stop = true;
  reader.join();
  findings.Expect(good, "the thread's memory");
  findings.Expect(calls == 200 && counted.AreAllThere(), "what the handler stored");
}

// A thread that reads from an empty pipe into memory that is away.
class Reader {
 public:
  static constexpr size_t kRead = 6000;
  Reader() : to_(MapBytes(kSize) + kPage - 3000) {
    Require(pipe(ends_.data()) == 0, "pipe");
    std::memset(to_, 0x55, kRead);
    SendAway(to_, kRead);
    thread_ = std::thread([this] {
      tid_ = static_cast<pid_t>(syscall(SYS_gettid));
      result_ = read(ends_[0], to_, kRead);
      error_ = errno;
      done_ = true;
    });
  }
  ~Reader() {
    if (thread_.joinable()) thread_.join();
    for (const int end : ends_) close(end);
    munmap(to_ + 3000 - kPage, kSize);
  }
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;

  // The kernel says which call it sleeps in.
  void AwaitSleep() const {
    while (tid_ == 0) std::this_thread::yield();
    const std::string path = "/proc/self/task/" + std::to_string(tid_) + "/syscall";
    for (std::array<char, 64> text{}; std::strncmp(text.data(), "0 ", 2) != 0;) {
      const int fd = open(path.c_str(), O_RDONLY);
      Require(fd >= 0 && read(fd, text.data(), text.size() - 1) > 0, path.c_str());
      close(fd);
      std::this_thread::yield();
    }
  }
  void Interrupt() { pthread_kill(thread_.native_handle(), SIGUSR1); }
  bool done() const { return done_; }
  void Write() const {
    std::array<std::byte, kRead> bytes;
    bytes.fill(std::byte{0x66});
    Require(write(ends_[1], bytes.data(), kRead) == static_cast<ssize_t>(kRead), "write");
  }
  // REQUIRES: joined.
  bool Holds(ssize_t result, int error, std::byte byte) const {
    bool same = result_ == result && (result >= 0 || error_ == error);
    for (size_t i = 0; i < kRead; ++i) same = same && to_[i] == byte;
    return same;
  }
  void Join() { thread_.join(); }

 private:
  std::byte* const to_;
  std::array<int, 2> ends_;
  std::atomic<pid_t> tid_{0};
  std::atomic<bool> done_{false};
  ssize_t result_ = 0;
  int error_ = 0;
  std::thread thread_;
};

void Interrupted(Field& field, Findings& findings) {
  const Counted counted(SIGUSR1, 0);
  Reader reader;
  reader.AwaitSleep();
  field.StoreAll(430, 0, 9);
  reader.Interrupt();
  reader.Join();
  findings.Expect(reader.Holds(-1, EINTR, std::byte{0x55}), "the call ends with EINTR");
  findings.Expect(calls == 1 && counted.AreAllThere(), "the handler is called");
}

void Restarted(Field& field, Findings& findings) {
  const Counted counted(SIGUSR1, SA_RESTART);
  Reader reader;
  for (uint64_t sent = 0; sent < 5; ++sent) {
    reader.AwaitSleep();
    reader.Interrupt();
    while (calls <= sent) std::this_thread::yield();
  }
  field.StoreAll(431, 1, 9);
  findings.Expect(!reader.done(), "the call goes on");
  reader.Write();
  reader.Join();
  findings.Expect(reader.Holds(static_cast<ssize_t>(Reader::kRead), 0, std::byte{0x66}),
                  "it reads everything");
  findings.Expect(calls == 5 && counted.AreAllThere(), "the handler is called");
}

// Not restarted, whatever the handler's flags.
void PollInterrupted(Field&, Findings& findings) {
  const Counted counted(SIGALRM, SA_RESTART);
  std::array<int, 2> ends;
  Require(pipe(ends.data()) == 0, "pipe");
  std::byte* const bytes = MapBytes(kSize);
  auto* const polled = new (bytes + kPage - 12) pollfd{ends[0], POLLIN, 0};
  SendAway(bytes, kSize);
  SetTimer(ITIMER_REAL, 1000);
  findings.Expect(poll(polled, 1, -1) == -1 && errno == EINTR, "poll(2) ends with EINTR");
  SetTimer(ITIMER_REAL, 0);
  findings.Expect(polled->fd == ends[0] && polled->revents == 0, "what it was asked");
  findings.Expect(calls > 0 && counted.AreAllThere(), "the handler is called");
  for (const int end : ends) close(end);
  munmap(bytes, kSize);
}

volatile uint64_t* queue_of_values;
volatile size_t queued;
void OnValue(int, siginfo_t* info, void*) {
  queue_of_values[queued * kPage / 8] = static_cast<uint64_t>(info->si_value.sival_int);
  queued = queued + 1;
}

// Real-time signals in their order, with what they carry.
void Queued(Field& field, Findings& findings) {
  constexpr int kValues = 100;
  std::byte* const bytes = MapBytes(kSize);
  queue_of_values = reinterpret_cast<volatile uint64_t*>(bytes);
  queued = 0;
  struct sigaction action {};
  action.sa_sigaction = OnValue;
  action.sa_flags = SA_SIGINFO | SA_RESTART;
  struct sigaction before {};
  Require(sigaction(SIGRTMIN, &action, &before) == 0, "sigaction");
  sigset_t mask;
  sigemptyset(&mask);
  sigaddset(&mask, SIGRTMIN);
  pthread_sigmask(SIG_BLOCK, &mask, nullptr);
  for (int value = 1; value <= kValues; ++value) {
    sigval carried{};
    carried.sival_int = value;
    Require(pthread_sigqueue(pthread_self(), SIGRTMIN, carried) == 0, "pthread_sigqueue");
  }
  SendAway(bytes, kSize);
  field.StoreAll(440, 0, 6);
  pthread_sigmask(SIG_UNBLOCK, &mask, nullptr);
  findings.Expect(queued == kValues, "each is delivered");
  for (size_t i = 0; i < kValues; ++i) {
    findings.Expect(queue_of_values[i * kPage / 8] == i + 1, "what it carries");
  }
  sigaction(SIGRTMIN, &before, nullptr);
  munmap(bytes, kSize);
}

constexpr Row kRows[] = {
    {"a storm of SIGALRM", AlarmStorm},
    {"a storm of SIGPROF", ProfileStorm},
    {"forks in a storm of SIGALRM", ForksInAStorm},
    {"signals to a thread that faults", SentToAThread},
    {"a read is interrupted", Interrupted},
    {"a read goes on after signals", Restarted},
    {"a poll is interrupted", PollInterrupted},
    {"real-time signals in order", Queued},
};

}  // namespace

std::span<const Row> SignalRows() { return kRows; }

}  // namespace process_matrix
