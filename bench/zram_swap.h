// SPDX-License-Identifier: Apache-2.0
// ZramSwap: a compressed RAM disk that the kernel swaps to, for one run.
//
//   hot_add -> comp_algorithm -> disksize -> mkswap -> swapon
//   swapoff -> reset -> hot_remove                               (destructor)
//
// A fresh device per run: no run inherits the fragmentation of another, and
// there is no swap while the other system runs. Needs root.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libos/base/units.h"

namespace spiritos::bench {

class ZramSwap {
 public:
  // Whether this machine can; kUnavailable says what is missing. Loads the
  // zram module when it is one.
  static absl::Status Probe();
  static absl::StatusOr<ZramSwap> Create(Bytes disk_size, const std::string& algorithm);

  ZramSwap(ZramSwap&& other) noexcept;
  ZramSwap& operator=(ZramSwap&&) = delete;
  ~ZramSwap();

  const std::string& name() const { return name_; }  // "zram1"

  struct Contents {
    Bytes original;
    Bytes compressed;
  };
  // Of the device called `name`, also from another process.
  static Contents ReadContents(const std::string& name);

 private:
  explicit ZramSwap(uint64_t id);
  uint64_t id_;
  std::string name_;
  bool swapping_ = false;
};

// Sets a number in /proc/sys and puts the old one back when destroyed.
class ScopedSysctl {
 public:
  static absl::StatusOr<ScopedSysctl> Create(const std::string& path);
  ScopedSysctl(ScopedSysctl&& other) noexcept;
  ScopedSysctl& operator=(ScopedSysctl&&) = delete;
  ~ScopedSysctl();
  absl::Status Set(uint64_t value);

 private:
  ScopedSysctl(std::string path, uint64_t old) : path_(std::move(path)), old_(old) {}
  std::string path_;
  uint64_t old_;
  bool changed_ = false;
};

}  // namespace spiritos::bench
