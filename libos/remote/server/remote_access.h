// SPDX-License-Identifier: Apache-2.0
// RemoteAccess: what lets a client at memory without this process's help, by owner.
//
// A client and each of its slabs hold one; its end is the end of that access, for good,
// before the slab's memory goes anywhere. Threads: the server's one.
#pragma once

#include <cstdint>

#include "libos/remote/wire.h"

namespace spiritos {

struct Client;
struct RentedSlab;

class RemoteAccess {
 public:
  virtual ~RemoteAccess() = default;
};

class SlabExposer {
 public:
  // Gives the client's queue pairs access to its slab, under `*key`. Unless kOk the slab
  // is as it was.
  virtual WireStatus Expose(Client& client, RentedSlab& slab, uint32_t* key) = 0;

 protected:
  ~SlabExposer() = default;
};

}  // namespace spiritos
