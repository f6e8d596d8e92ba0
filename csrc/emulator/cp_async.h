// cp.async: copies from global to shared memory that a thread waits for by commit groups.
#pragma once

#include <cstddef>
#include <cstdint>

namespace rnc::emulator {

#pragma GCC visibility push(hidden)

// Copies `source_bytes` and fills the rest of `bytes` (4, 8 or 16) with zeros.
void cp_async(uint32_t destination, const void* source, uint32_t bytes, uint32_t source_bytes);
void cp_async_commit();
void cp_async_wait(uint32_t newest_groups_left);
void cp_async_wait_all();

#pragma GCC visibility pop

}  // namespace rnc::emulator
