#include "emulator/tma_checks.h"

#include <algorithm>
#include <string>

#include "emulator/box_copy.h"
#include "emulator/fiber.h"
#include "emulator/mbarrier_state.h"

namespace rnc::emulator {

namespace {

constexpr uint64_t kSectorBytes = 32;
constexpr uint64_t kWavefrontBytes = 128;  // of shared memory, in one pass

const char* kind_of(bool im2col) { return im2col ? "an im2col" : "a tiled"; }

// Pieces of one block's shared memory, which no two threads touch in one instruction: there are no
// bank conflicts.
void count_shared(Counters& counters, uint64_t bytes, bool load) {
  (load ? counters.shared_load_bytes : counters.shared_store_bytes) += bytes;
  const uint64_t passes = (bytes + kWavefrontBytes - 1) / kWavefrontBytes;
  counters.shared_wavefronts += passes;
  counters.shared_wavefronts_ideal += passes;
}

}  // namespace

void seal(TensorMap& map) { map.valid = TensorMap::kValid; }

void check_map(const TensorMap* map, const char* what, const void* pc) {
  constexpr uintptr_t kAlignment = 64;
  if (reinterpret_cast<uintptr_t>(map) % kAlignment != 0) {
    fail(format("%s with a tensor map at %p, which is not a multiple of 64", what,
                static_cast<const void*>(map)) +
         location(pc));
  }
  if (map == nullptr || map->valid != TensorMap::kValid) {
    fail(
        format("%s with a tensor map that make_tiled_tensor_map or make_im2col_tensor_map has not "
               "made",
               what));
  }
}

void check_map(const TensorMap* map, int32_t rank, bool im2col, const char* what, const void* pc) {
  check_map(map, what, pc);
  if ((map->im2col != 0) != im2col) {
    fail(format("%s with %s tensor map", what, kind_of(map->im2col != 0)) + location(pc));
  }
  if (map->rank != rank) {
    fail(format("%s with %d coordinates and a tensor map of rank %d", what, rank, map->rank) +
         location(pc));
  }
}

void check_im2col(const TmaLoad& load, const void* pc) {
  static constexpr uint32_t kOffsets[] = {65536, 256, 32};  // by rank - 3
  const uint32_t offsets = kOffsets[load.rank - 3];
  for (int i = 0; i < load.rank - 2; ++i) {
    const int64_t start = load.coordinates[i + 1];
    const int64_t first = load.map->lower[i];
    const int64_t last = static_cast<int64_t>(load.map->dims[i + 1]) - 1 + load.map->upper[i];
    if (start < first || start > last) {
      fail(
          format("im2col TMA load begins at coordinates[%d] = %lld, outside the tensor map's "
                 "bounding box from %lld to %lld",
                 i + 1, static_cast<long long>(start), static_cast<long long>(first),
                 static_cast<long long>(last)));
    }
    if (load.offsets[i] >= offsets) {
      fail(format("im2col TMA load with offsets[%d] = %u; at most %u with rank %d", i,
                  load.offsets[i], offsets - 1, load.rank) +
           location(pc));
    }
  }
}

void check_multicast(const TmaLoad& load, uint32_t cluster_size, const void* pc) {
  if (load.blocks == 0) fail("TMA load multicast to no block: the mask is 0" + location(pc));
  if (load.blocks >> cluster_size != 0) {
    fail(format("TMA load multicast with mask 0x%x names blocks outside the cluster of %u",
                load.blocks, cluster_size) +
         location(pc));
  }
}

void observe_global(const TmaOperation& operation) {
  Fiber* const fiber = operation.issuer;
  Launch& launch = launch_of(fiber);
  const Access kind = operation.store ? Access::kWrite : Access::kRead;
  uint64_t bytes = 0, sectors = 0, last_sector = ~uint64_t{0};
  BoxWalk walk(operation.map, operation.coordinates, offsets_of(operation));
  for (BoxRow row; walk.next(row);) {
    if (row.begin == row.end) continue;
    const uint64_t begin = row.global + row.begin, end = row.global + row.end;
    launch.memory.access_part(fiber, begin, end - begin, kind, operation.pc);
    const uint64_t first = begin / kSectorBytes, last = (end - 1) / kSectorBytes;
    bytes += end - begin;
    sectors += last - first + (first == last_sector ? 0 : 1);
    last_sector = last;
  }
  if (launch.options.count == 0) return;
  Counters& counters = worker_of(fiber).counters;
  (operation.store ? counters.global_store_bytes : counters.global_load_bytes) += bytes;
  (operation.store ? counters.global_store_sectors : counters.global_load_sectors) += sectors;
}

void observe_destination(const TmaOperation& load) {
  Fiber* const fiber = load.issuer;
  const Launch& launch = launch_of(fiber);
  const uint64_t bytes = box_bytes(load.map);
  if (launch.check_shared) {
    load.block->shadow.async_access(fiber, load.offset, bytes, Access::kWrite, Proxy::kAsync,
                                    completion_of(*load.block->cluster, load.bound), load.pc);
  }
  if (launch.options.count != 0) count_shared(worker_of(fiber).counters, bytes, false);
}

// Only what reaches the tensor: nobody needs to have written the rest.
void observe_source(const TmaOperation& store) {
  Fiber* const fiber = store.issuer;
  const Launch& launch = launch_of(fiber);
  Block& block = *store.block;
  const Epoch completion(EpochKind::kStoreGroup, fiber->agent, store.group);
  const Box box = box_of(store);
  uint64_t read = 0;
  BoxWalk walk(store.map, store.coordinates, nullptr);
  for (BoxRow row; walk.next(row);) {
    for_each_piece(box, row, [&](const char* place, uint32_t byte, uint32_t bytes) {
      const uint32_t begin = std::max(row.begin, byte), end = std::min(row.end, byte + bytes);
      if (begin >= end) return;
      const auto offset = static_cast<size_t>(place - block.shared) + (begin - byte);
      if (launch.check_shared) {
        block.shadow.async_access(fiber, offset, end - begin, Access::kRead, Proxy::kAsync,
                                  completion, store.pc);
      }
      read += end - begin;
    });
  }
  if (launch.options.count != 0) count_shared(worker_of(fiber).counters, read, true);
}

}  // namespace rnc::emulator
