// SPDX-License-Identifier: Apache-2.0
// Clocks and timers. What they show is not seen, only that it is a time.
#include <signal.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/times.h>
#include <time.h>

#include "test/e2e/system_calls/trial.h"

namespace system_calls {
namespace {

constexpr timespec kShort{0, 1000};
// It will not expire in this program's life; what is left of it is between these.
constexpr time_t kLong = 1'000'000;
constexpr time_t kLeast = kLong - 100'000;

void SeeClock(Trial& t, const timespec* at) {
  if (!t.usable()) return;
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  const timespec seen = t.Get(at);
  t.See(seen.tv_nsec >= 0 && seen.tv_nsec < 1'000'000'000 && seen.tv_sec <= now.tv_sec &&
        seen.tv_sec > now.tv_sec - 100);
}

void SeeLeft(Trial& t, time_t seconds) {
  if (t.usable()) t.See(seconds <= kLong && seconds >= kLeast);
}

void GetClock(Trial& t) {
  timespec* const at = t.Ignored(t.Out<timespec>());
  t.Ready();
  t.Returned(syscall(SYS_clock_gettime, CLOCK_MONOTONIC, at));
  SeeClock(t, at);
}

// By the program itself, as far as the kernel has put it there: it would end at what it may not
// touch.
void GetClockInProgram(Trial& t) {
  if (!t.usable()) return;
  timespec* const at = t.Ignored(t.Out<timespec>());
  t.Ready();
  t.Returned(clock_gettime(CLOCK_MONOTONIC, at));
  SeeClock(t, at);
}

void GetTimeOfDay(Trial& t) {
  timeval* const at = t.Ignored(t.Out<timeval>());
  t.Ready();
  t.Returned(syscall(SYS_gettimeofday, at, nullptr));
  if (t.usable()) t.See(t.Get(at).tv_sec > kLong && t.Get(at).tv_usec < 1'000'000);
}

void GetTime(Trial& t) {
  time_t* const at = t.Ignored(t.Out<time_t>());
  t.Ready();
  t.Returned(syscall(SYS_time, at) > 0 ? 1 : -1);
  if (t.usable()) t.See(t.Get(at) > kLong);
}

void Sleep(Trial& t) {
  const timespec* const wanted = t.In(kShort);
  timespec* const left = t.Out<timespec>();
  t.Ready();
  t.Returned(syscall(SYS_nanosleep, wanted, left));
}

void SleepByClock(Trial& t) {
  const timespec* const wanted = t.In(kShort);
  timespec* const left = t.Out<timespec>();
  t.Ready();
  t.Returned(syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, wanted, left));
}

void IntervalTimer(Trial& t) {
  const itimerval* const in = t.In(itimerval{{0, 0}, {kLong, 0}});
  itimerval* const before = t.Out<itimerval>();
  itimerval* const out = t.Ignored(t.Out<itimerval>());
  t.Ready();
  t.Returned(syscall(SYS_setitimer, ITIMER_REAL, in, before));
  t.Ready();
  t.Returned(syscall(SYS_getitimer, ITIMER_REAL, out));
  SeeLeft(t, t.Get(out).it_value.tv_sec);
  const itimerval none{};
  setitimer(ITIMER_REAL, &none, nullptr);
}

void Timer(Trial& t) {
  sigevent event{};
  event.sigev_notify = SIGEV_NONE;
  const sigevent* const how = t.In(event);
  int* const id = t.Ignored(t.Out<int>());
  const itimerspec* const in = t.In(itimerspec{{0, 0}, {kLong, 0}});
  itimerspec* const before = t.Out<itimerspec>();
  itimerspec* const out = t.Ignored(t.Out<itimerspec>());
  t.Ready();
  if (t.Returned(syscall(SYS_timer_create, CLOCK_MONOTONIC, how, id)) != 0) return;
  const int timer = t.Get(id);
  t.Ready();
  t.Returned(syscall(SYS_timer_settime, timer, 0, in, before));
  t.Ready();
  t.Returned(syscall(SYS_timer_gettime, timer, out));
  SeeLeft(t, t.Get(out).it_value.tv_sec);
  syscall(SYS_timer_delete, timer);
}

void TimerOfFile(Trial& t) {
  const File file(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK));
  const itimerspec* const in = t.In(itimerspec{{0, 0}, {kLong, 0}});
  itimerspec* const before = t.Out<itimerspec>();
  itimerspec* const out = t.Ignored(t.Out<itimerspec>());
  t.Ready();
  t.Returned(timerfd_settime(file, 0, in, before));
  t.Ready();
  t.Returned(timerfd_gettime(file, out));
  SeeLeft(t, t.Get(out).it_value.tv_sec);
}

void ReadTimer(Trial& t) {
  const File file(timerfd_create(CLOCK_MONOTONIC, 0));
  const itimerspec once{{0, 0}, {0, 1}};
  Require(timerfd_settime(file, 0, &once, nullptr) == 0, "timerfd_settime");
  uint64_t* const expired = t.Out<uint64_t>();
  t.Ready();
  t.Returned(read(file, expired, sizeof(*expired)));
}

constexpr Row kRows[] = {
    {"clock_gettime", GetClock},
    {"clock_gettime without the kernel", GetClockInProgram},
    {"clock_getres",
     [](Trial& t) {
       timespec* const at = t.Out<timespec>();
       t.Ready();
       t.Returned(syscall(SYS_clock_getres, CLOCK_MONOTONIC, at));
     }},
    {"gettimeofday", GetTimeOfDay},
    {"time", GetTime},
    {"SYS_nanosleep", Sleep},
    {"SYS_clock_nanosleep", SleepByClock},
    {"times",
     [](Trial& t) {
       tms* const at = t.Ignored(t.Out<tms>());
       t.Ready();
       t.Returned(syscall(SYS_times, at) == -1 ? -1 : 0);
       if (t.usable()) t.See(t.Get(at).tms_utime >= 0);
     }},
    {"setitimer, getitimer", IntervalTimer},
    {"timer_create, timer_settime, timer_gettime", Timer},
    {"timerfd_settime, timerfd_gettime", TimerOfFile},
    {"read timerfd", ReadTimer},
};

}  // namespace

std::span<const Row> TimeRows() { return kRows; }

}  // namespace system_calls
