// SPDX-License-Identifier: Apache-2.0
// StartServiceThread: a thread of the library's own, on which faults wait.
//
// It takes no signal of the application's, from its first instruction on: a handler that
// touched far memory there would wait for the very thread that it runs on.
#pragma once

#include <pthread.h>
#include <signal.h>

#include <thread>
#include <utility>

namespace spiritos {

// `name` has 15 characters at most.
template <typename Body>
std::thread StartServiceThread(const char* name, Body body) {
  sigset_t all;
  sigset_t old;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &old);
  std::thread thread(std::move(body));
  pthread_sigmask(SIG_SETMASK, &old, nullptr);
  pthread_setname_np(thread.native_handle(), name);
  return thread;
}

}  // namespace spiritos
