// The arithmetic of wgmma.
#pragma once

#include <cstdint>

namespace rnc::emulator {

struct Block;
struct WgmmaQueue;

// Computes the warpgroup's operations that are not yet, up to number `end`, in order.
void compute(const Block& block, WgmmaQueue& queue, uint64_t end);

}  // namespace rnc::emulator
