// elect.sync and setmaxnreg.
#pragma once

#include <cstdint>

namespace rnc::emulator {

#pragma GCC visibility push(hidden)

// Whether the calling lane is elected: lane 0, or any one lane under the random schedule.
bool elect_one();
void set_max_registers(uint32_t registers, bool increase);

#pragma GCC visibility pop

}  // namespace rnc::emulator
