#include "emulator/shared_window.h"

#include "emulator/block.h"
#include "emulator/fiber.h"
#include "emulator/shared_pointer.h"

namespace rnc::emulator {

uint32_t shared_address(const void* pointer) {
  const Fiber* const fiber = self();
  const Block& block = *fiber->block;
  const auto offset = static_cast<const char*>(pointer) - block.shared;
  if (offset < 0 || offset > static_cast<ptrdiff_t>(kSharedWindowBytes)) {
    fail(format("the address of %p in shared memory: it is not in the block's window", pointer) +
         location(__builtin_return_address(0)));
  }
  return kSharedBase + static_cast<uint32_t>(offset);
}

Block& block_at(Fiber* fiber, uint32_t address) {
  const uint32_t rank_bits = address >> kRankShift;
  if (rank_bits == 0) return *fiber->block;
  Cluster& cluster = cluster_of(fiber);
  if (rank_bits > cluster.size) {
    fail(format("shared address 0x%x names block %u of a cluster of %u", address, rank_bits - 1,
                cluster.size));
  }
  return cluster.blocks[rank_bits - 1];
}

uint32_t shared_offset(const Block& block, uint32_t address, size_t bytes, size_t alignment,
                       const char* what) {
  const uint32_t rank_bits = address >> kRankShift;
  if (rank_bits != 0 && rank_bits != block.rank + 1) {
    fail(
        format("%s takes addresses of the executing block, but 0x%x lies in block %u of the "
               "cluster",
               what, address, rank_bits - 1));
  }
  const size_t available = block.worker->launch->request.shared_bytes;
  const int64_t offset = int64_t{address & kSharedOffsetMask} - kSharedBase;
  if (offset < 0 || static_cast<size_t>(offset) > available ||
      bytes > available - static_cast<size_t>(offset)) {
    fail(format("%s of %zu bytes at offset %lld of shared memory is outside the block's %zu bytes",
                what, bytes, static_cast<long long>(offset), available));
  }
  if ((static_cast<size_t>(offset) & (alignment - 1)) != 0) {
    fail(format("%s at offset %lld of shared memory, which is not a multiple of %zu", what,
                static_cast<long long>(offset), alignment));
  }
  return static_cast<uint32_t>(offset);
}

char* shared_pointer(const Block& block, uint32_t address, size_t bytes, size_t alignment,
                     const char* what) {
  return block.shared + shared_offset(block, address, bytes, alignment, what);
}

}  // namespace rnc::emulator
