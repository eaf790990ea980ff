// SPDX-License-Identifier: Apache-2.0
// Throughput: what a tenant would get done with other memory and bandwidth, from what it
// measured with those that it has.
//
//   n threads run, and after each second that one runs it has missed m(c) times with memory c;
//   a miss stalls its thread for s, and takes the link for D = d / b, d bytes at bandwidth b
//
//   running --1/m--> miss --turn on the link, if others are before it--> s --> running
//
// A closed system of n customers with one queue, solved as by Bard and Schweitzer (Schweitzer,
// "Approximate analysis of multiclass closed networks of queues", 1979). Who comes to the link
// finds there what the n - 1 others leave there on average, of which the one whose turn it is
// is half done, as all turns are alike. With X misses a second and Z = 1/m + s - D away from
// the link,
//
//   R = D (1 + (n - 1)/n (X R - X D / 2)),  X = n / (Z + R) <= 1/D
//   progress(c, b) = X / m                     seconds of running in a second
//
// which goes to n / (1 + m s) where the link is wide and to b / (m d) where it is not. n, s and
// d are what was measured in the last epochs, s without the waits that the present grant is the
// cause of. m(c) has the tenant's curve for its shape, and goes through what was measured.
//
// Whatever a report says, what comes out is finite, at least 0 and falls nowhere by more than a
// billionth.
// Pure; one thread.
#pragma once

#include <array>
#include <cstdint>
#include <optional>

#include "arbiter/segment.h"

namespace spiritos {

class Throughput {
 public:
  // A tenant that came just now: nothing is known.
  Throughput() = default;

  // What the tenant did since its last report; older epochs count ever less. A counter that
  // falls is a tenant that began anew, or lies: that epoch does not count.
  void Learn(const Report& report);

  // Whether it is known what memory and bandwidth are worth to it: it has a curve and missed.
  bool known() const;
  // In seconds of running in a second. REQUIRES: known().
  double At(double memory_bytes, double bandwidth_bytes_per_s) const;

  double misses_per_s(double memory_bytes) const;  // In a second of running: m.
  double threads() const;                          // n
  double stall_s() const;                          // s
  double bytes_per_miss() const;                   // d

 private:
  // Sums of epochs, each older one worth kKept of the next.
  struct Sums {
    double wall_s = 0;
    double running_s = 0;
    double stalled_s = 0;  // Not because of its grant.
    double busy_s = 0;     // Running, or stalled for whatever reason.
    double misses = 0;
    double bytes = 0;
    double predicted = 0;  // Misses, by the curve at the memory that it had.
  };

  double OfCurve(double memory_bytes) const;
  // By how much measured misses exceed predicted ones.
  double Correction() const;

  std::optional<Report> last_;
  Sums sums_;
  double step_bytes_ = 0;
  std::array<double, MissRates::kPoints> rates_{};
};

}  // namespace spiritos
