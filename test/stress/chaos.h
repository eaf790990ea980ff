// SPDX-License-Identifier: Apache-2.0
// What a stress does to bring races out: threads that dawdle where it hurts, and
// known bugs. Without failpoints there is none of it.
#pragma once

#include <string>

namespace spiritos {

// A random wait at every pause point.
void UnleashChaos();
// A short wait now and then at closed gates, so that faults meet them.
void HoldGates();
// Switches a planted bug on; false if none has that name.
bool Plant(const std::string& name);

}  // namespace spiritos
