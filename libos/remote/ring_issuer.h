// SPDX-License-Identifier: Apache-2.0
// RingIssuer: a thread that submits to rings for threads which do not wait.
//
// io_uring completes a request in the thread that submitted it, by interrupting
// whatever system call that thread is in. One that waits for its request does not
// notice; but one that has started read-ahead and gone back to the program would
// see epoll_wait(), a recv() with a timeout and others fail with EINTR, without a
// signal. So such requests are only pushed by their thread, and submitted by this
// one. It sleeps until it is kicked.
#pragma once

#include <pthread.h>

#include <atomic>
#include <cstdint>

namespace spiritos {

class FileRing;

class RingIssuer {
 public:
  RingIssuer() = default;
  RingIssuer(const RingIssuer&) = delete;
  RingIssuer& operator=(const RingIssuer&) = delete;

  // Borrows `rings` until Stop(). False when there can be no thread.
  [[nodiscard]] bool Start(FileRing* rings, uint32_t count);
  // Not for a child of fork(), where the thread is not.
  void Stop();
  // Entries have been pushed. Context: signal.
  void Kick() noexcept;

 private:
  static void* Main(void* issuer);
  void Run();

  FileRing* rings_ = nullptr;
  uint32_t count_ = 0;
  bool started_ = false;
  pthread_t thread_{};
  std::atomic<uint32_t> kicks_{0};
  std::atomic<bool> asleep_{false};
  std::atomic<bool> stop_{false};
};

}  // namespace spiritos
