// mbarrier objects in shared memory, and the fence that publishes their initialisation. Addresses
// are shared-window addresses; those of other blocks of the cluster where a function says so.
#pragma once

#include <cstdint>

namespace rnc::emulator {

#pragma GCC visibility push(hidden)

// `name` appears in messages; it must live as long as the kernel, and may be null.
void mbarrier_init(uint32_t address, uint32_t count, const char* name);
void mbarrier_invalidate(uint32_t address);
// Also in another block. `alone`: the instruction stands in a branch that other lanes may skip; not
// where it is predicated.
void mbarrier_arrive(uint32_t address, uint32_t count, bool alone = true);
void mbarrier_expect_tx(uint32_t address, uint32_t bytes);
void mbarrier_arrive_expect_tx(uint32_t address, uint32_t bytes);
bool mbarrier_try_wait(uint32_t address, uint32_t parity);
void mbarrier_wait(uint32_t address, uint32_t parity);
void fence_mbarrier_init();

#pragma GCC visibility pop

}  // namespace rnc::emulator
