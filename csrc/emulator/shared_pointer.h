// Shared-window addresses (shared_window.h) as the emulator's own instructions resolve them.
#pragma once

#include <cstddef>
#include <cstdint>

namespace rnc::emulator {

struct Block;
struct Fiber;

// The block in whose window the address lies, as seen by the fiber.
Block& block_at(Fiber* fiber, uint32_t address);

// The bytes of `block` that an instruction called `what` accesses, or their offset; abandons the
// block if they are out of bounds, misaligned, or in another block. The alignment is a power of
// two.
char* shared_pointer(const Block& block, uint32_t address, size_t bytes, size_t alignment,
                     const char* what);
uint32_t shared_offset(const Block& block, uint32_t address, size_t bytes, size_t alignment,
                       const char* what);

}  // namespace rnc::emulator
