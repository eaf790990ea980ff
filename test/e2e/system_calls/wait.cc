// SPDX-License-Identifier: Apache-2.0
// Waiting: poll and its family, futexes.
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>

#include <climits>

#include "test/e2e/system_calls/trial.h"

namespace system_calls {
namespace {

constexpr timespec kSoon{0, 1};
constexpr timespec kNever{1000, 0};

// One end has a byte.
struct Readable {
  Readable() { Require(pipe(ends.data()) == 0 && write(ends[1], "b", 1) == 1, "pipe"); }
  ~Readable() {
    close(ends[0]);
    close(ends[1]);
  }
  std::array<int, 2> ends;
};

// Descriptors have numbers that say nothing.
pollfd* Polled(Trial& t, const Readable& pipe) {
  return t.Ignored(
      t.In(std::array<pollfd, 2>{{{pipe.ends[0], POLLIN, 0}, {pipe.ends[1], POLLIN, 0}}}), 2);
}
void SeePolled(Trial& t, const pollfd* polled) {
  t.See(t.Get(polled, 0).revents);
  t.See(t.Get(polled, 1).revents);
}

void Poll(Trial& t) {
  const Readable pipe;
  pollfd* const polled = Polled(t, pipe);
  t.Ready();
  t.Returned(poll(polled, 2, -1));
  SeePolled(t, polled);
}

void PollPrecisely(Trial& t) {
  const Readable pipe;
  pollfd* const polled = Polled(t, pipe);
  timespec* const timeout = t.Ignored(t.In(kNever));
  const uint64_t* const mask = t.In(uint64_t{1} << (SIGUSR1 - 1));
  t.Ready();
  t.Returned(syscall(SYS_ppoll, polled, 2, timeout, mask, sizeof(*mask)));
  SeePolled(t, polled);
}

fd_set SetOf(int fd) {
  fd_set set;
  FD_ZERO(&set);
  FD_SET(fd, &set);
  return set;
}

void Select(Trial& t) {
  const Readable pipe;
  fd_set* const in = t.Ignored(t.In(SetOf(pipe.ends[0])));
  fd_set* const out = t.Ignored(t.In(SetOf(pipe.ends[0])));
  timeval* const timeout = t.Ignored(t.In(timeval{1000, 0}));
  t.Ready();
  t.Returned(syscall(SYS_select, FD_SETSIZE, in, out, nullptr, timeout));
  const fd_set readable = t.Get(in);
  const fd_set writable = t.Get(out);
  t.See(FD_ISSET(pipe.ends[0], &readable));
  t.See(FD_ISSET(pipe.ends[0], &writable));
}

void SelectPrecisely(Trial& t) {
  const Readable pipe;
  struct Mask {
    const uint64_t* at;
    size_t size;
  };
  fd_set* const in = t.Ignored(t.In(SetOf(pipe.ends[0])));
  timespec* const timeout = t.Ignored(t.In(kNever));
  const uint64_t* const bits = t.In(uint64_t{1} << (SIGUSR1 - 1));
  const Mask* const mask = t.Kept(t.In(Mask{bits, sizeof(*bits)}));
  t.Ready();
  t.Returned(syscall(SYS_pselect6, FD_SETSIZE, in, nullptr, nullptr, timeout, mask));
  const fd_set readable = t.Get(in);
  t.See(FD_ISSET(pipe.ends[0], &readable));
}

void EventPoll(Trial& t) {
  const Readable pipe;
  const File poll(epoll_create1(0));
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = 4711;
  epoll_event* const added = t.In(event);
  epoll_event* const got = t.Out<std::array<epoll_event, 2>>()->data();
  t.Ready();
  t.Returned(epoll_ctl(poll, EPOLL_CTL_ADD, pipe.ends[0], added));
  epoll_ctl(poll, EPOLL_CTL_ADD, pipe.ends[0], &event);
  t.Ready();
  t.Returned(epoll_wait(poll, got, 2, -1));
  const uint64_t* const mask = t.In(uint64_t{1} << (SIGUSR1 - 1));
  t.Ready();
  t.Returned(syscall(SYS_epoll_pwait, static_cast<int>(poll), got, 2, -1, mask, sizeof(*mask)));
  const timespec* const timeout = t.In(kNever);
  t.Ready();
  t.Returned(
      syscall(SYS_epoll_pwait2, static_cast<int>(poll), got, 2, timeout, mask, sizeof(*mask)));
}

long Futex(const uint32_t* word, int operation, uint32_t value, const timespec* timeout = nullptr,
           const uint32_t* other = nullptr, uint32_t third = 0) {
  return syscall(SYS_futex, word, operation, value, timeout, other, third);
}

// The word says something else: it comes back at once.
void FutexElse(Trial& t, int operation) {
  const uint32_t* const word = t.Word(uint32_t{5});
  t.Ready();
  t.Returned(Futex(word, operation, 4, nullptr, nullptr, FUTEX_BITSET_MATCH_ANY));
}

void FutexTimeout(Trial& t, int operation) {
  const uint32_t* const word = t.Word(uint32_t{5});
  const timespec* const timeout = t.In(kSoon);
  t.Ready();
  t.Returned(Futex(word, operation, 5, timeout, nullptr, FUTEX_BITSET_MATCH_ANY));
}

// A thread sleeps on the word until it is woken: by this one, or because its wait failed.
void FutexWoken(Trial& t) {
  const uint32_t* const word = t.Word(uint32_t{5});
  std::atomic<long> result{-2};
  t.Ready();
  std::thread sleeper([&] {
    long waited;
    do {
      waited = Futex(word, FUTEX_WAIT_PRIVATE, 5);
    } while (waited != 0 && errno == EINTR);
    result = waited == 0 ? 0 : errno;
  });
  long woken = 0;
  while (woken == 0 && result == -2) {
    woken = Futex(word, FUTEX_WAKE_PRIVATE, 1);
    std::this_thread::yield();
  }
  sleeper.join();
  t.Returned(woken);
  t.See(result);
}

// From one word to another, then woken there.
void FutexRequeue(Trial& t) {
  const uint32_t* const from = t.Word(uint32_t{5});
  const uint32_t* const to = t.Word(uint32_t{6});
  std::atomic<long> result{-2};
  t.Ready();
  std::thread sleeper([&] { result = Futex(from, FUTEX_WAIT_PRIVATE, 5) == 0 ? 0 : errno; });
  constexpr uintptr_t kOne = 1;
  long moved = 0;
  do {
    moved =
        Futex(from, FUTEX_CMP_REQUEUE_PRIVATE, 0, reinterpret_cast<const timespec*>(kOne), to, 5);
    std::this_thread::yield();
  } while (moved == 0 && result == -2);
  const long woken = moved > 0 ? Futex(to, FUTEX_WAKE_PRIVATE, INT_MAX) : 0;
  sleeper.join();
  t.Returned(moved);
  t.See(woken);
  t.See(result);
}

void FutexWakeOperation(Trial& t) {
  const uint32_t* const word = t.Word(uint32_t{5});
  const uint32_t* const other = t.Word(uint32_t{6});
  t.Ready();
  t.Returned(Futex(word, FUTEX_WAKE_OP_PRIVATE, 1, nullptr, other,
                   FUTEX_OP(FUTEX_OP_ADD, 11, FUTEX_OP_CMP_EQ, 6)));
  t.See(t.Get(other));
}

void FutexLock(Trial& t) {
  uint32_t* const word = t.Ignored(t.Word(uint32_t{0}));
  t.Ready();
  if (t.Returned(Futex(word, FUTEX_LOCK_PI_PRIVATE, 0)) != 0) return;
  t.See((t.Get(word) & FUTEX_TID_MASK) == static_cast<uint32_t>(gettid()));
  t.Ready();
  t.Returned(Futex(word, FUTEX_UNLOCK_PI_PRIVATE, 0));
  t.See(t.Get(word));
}

void FutexVector(Trial& t) {
#ifdef SYS_futex_waitv
  const uint32_t* const word = t.Word(uint32_t{5});
  const uint32_t* const other = t.Word(uint32_t{6});
  constexpr uint32_t kFlags = FUTEX_32 | FUTEX_PRIVATE_FLAG;
  std::array<futex_waitv, 2> waiters{};
  waiters[0] = {5, reinterpret_cast<uintptr_t>(word), kFlags, 0};
  waiters[1] = {7, reinterpret_cast<uintptr_t>(other), kFlags, 0};
  const futex_waitv* const at = t.Kept(t.In(waiters), 2);
  const timespec* const timeout = t.In(kSoon);
  t.Ready();
  t.Returned(syscall(SYS_futex_waitv, at, 2, 0, timeout, CLOCK_MONOTONIC));
#endif
}

// A thread ends with a lock in each of the pages: the kernel says so in them.
void RobustLocks(Trial& t) {
  if (!t.usable()) return;
  std::byte* const pages = t.Ignored(t.Pages(), 2 * kPage);
  std::array<pthread_mutex_t*, 2> locks;
  pthread_mutexattr_t robust;
  pthread_mutexattr_init(&robust);
  pthread_mutexattr_setrobust(&robust, PTHREAD_MUTEX_ROBUST);
  for (size_t i = 0; i < locks.size(); ++i) {
    locks[i] = reinterpret_cast<pthread_mutex_t*>(pages + i * kPage);
    pthread_mutex_init(locks[i], &robust);
  }
  std::atomic<int> step{0};
  std::thread owner([&] {
    for (pthread_mutex_t* const lock : locks) pthread_mutex_lock(lock);
    step = 1;
    step.notify_one();
    step.wait(1);
  });
  step.wait(0);
  t.Ready();
  step = 2;
  step.notify_one();
  owner.join();
  for (pthread_mutex_t* const lock : locks) t.See(strerrorname_np(pthread_mutex_trylock(lock)));
}

constexpr Row kRows[] = {
    {"poll", Poll},
    {"ppoll", PollPrecisely},
    {"select", Select},
    {"pselect6", SelectPrecisely},
    {"epoll", EventPoll},
    {"futex WAIT on another value", [](Trial& t) { FutexElse(t, FUTEX_WAIT_PRIVATE); }},
    {"futex WAIT shared", [](Trial& t) { FutexElse(t, FUTEX_WAIT); }},
    {"futex WAIT_BITSET", [](Trial& t) { FutexElse(t, FUTEX_WAIT_BITSET_PRIVATE); }},
    {"futex WAIT for a time", [](Trial& t) { FutexTimeout(t, FUTEX_WAIT_PRIVATE); }},
    {"futex WAIT until a time", [](Trial& t) { FutexTimeout(t, FUTEX_WAIT_BITSET_PRIVATE); }},
    {"futex WAKE of nobody",
     [](Trial& t) {
       const uint32_t* const word = t.Word(uint32_t{5});
       t.Ready();
       t.Returned(Futex(word, FUTEX_WAKE_PRIVATE, 1));
     }},
    {"futex WAKE of nobody, shared",
     [](Trial& t) {
       const uint32_t* const word = t.Word(uint32_t{5});
       t.Ready();
       t.Returned(Futex(word, FUTEX_WAKE, 1));
     }},
    {"futex WAKE", FutexWoken},
    {"futex CMP_REQUEUE", FutexRequeue},
    {"futex WAKE_OP", FutexWakeOperation},
    {"futex LOCK_PI", FutexLock},
    {"futex_waitv", FutexVector},
    {"robust locks of a thread that ends", RobustLocks},
};

}  // namespace

std::span<const Row> WaitRows() { return kRows; }

}  // namespace system_calls
