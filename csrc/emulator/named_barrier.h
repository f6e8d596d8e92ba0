// bar.sync and bar.arrive on one of a block's 16 barriers.
#pragma once

#include <cstdint>

namespace rnc::emulator {

#pragma GCC visibility push(hidden)

void barrier_sync(uint32_t barrier, uint32_t threads);
void barrier_arrive(uint32_t barrier, uint32_t threads);

#pragma GCC visibility pop

}  // namespace rnc::emulator
