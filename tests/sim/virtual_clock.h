// The simulation's time: it stands still unless it is told to go on. Linked in place of
// proto/base/os_clock.cc, it is what SystemClock() gives to everything in the program.
#pragma once

#include <cstdint>

namespace varve {

void AdvanceVirtualTime(int64_t us);
void ResetVirtualTime();

}  // namespace varve
