// TMA instructions as a thread issues them.
#include "emulator/tma.h"

#include <algorithm>
#include <utility>

#include "emulator/box_walk.h"
#include "emulator/cluster_access.h"
#include "emulator/fiber.h"
#include "emulator/mbarrier_state.h"
#include "emulator/shared_pointer.h"
#include "emulator/tma_checks.h"
#include "emulator/tma_completion.h"
#include "emulator/warp.h"

namespace rnc::emulator {

namespace {

constexpr size_t kSharedAlignment = 128;

// What loads and stores have in common.
TmaOperation describe(Fiber* fiber, Block& block, const TensorMap& map, uint32_t offset,
                      const int32_t* coordinates, const void* pc) {
  TmaOperation operation{};
  operation.map = map;
  std::copy_n(coordinates, map.rank, operation.coordinates);
  operation.issuer = fiber;
  operation.block = &block;
  operation.offset = offset;
  operation.pc = pc;
  return operation;
}

// Moves the data now, or leaves it to a wait or an agent.
void start(TmaOperation&& operation) {
  Cluster& cluster = cluster_of(operation.issuer);
  const int32_t completion = launch_of(operation.issuer).options.tma;
  if (completion == kEarly || (completion == kRandomCompletion && cluster.random(2) == 0)) {
    complete(cluster, operation);
    return;
  }
  cluster.tensor_copies.operations.push_back(std::move(operation));
  ++cluster.operations_in_flight;
}

// The load as one block of the cluster receives it.
void start_load(Fiber* fiber, Block& block, const TmaLoad& load, uint32_t offset, const char* what,
                const void* pc) {
  if (&block != fiber->block) reach_block(fiber, block, pc);
  TmaOperation operation = describe(fiber, block, *load.map, offset, load.coordinates, pc);
  if (load.offsets != nullptr) std::copy_n(load.offsets, load.rank - 2, operation.offsets);
  operation.bound = bind_load(fiber, block, load.mbarrier, what, pc);
  if (observing) {
    observe_global(operation);
    observe_destination(operation);
  }
  start(std::move(operation));
}

}  // namespace

void tma_prefetch(const TensorMap* map) {
  check_map(map, "prefetch.tensormap", __builtin_return_address(0));
}

void tma_load(const TmaLoad& load) {
  const void* const pc = __builtin_return_address(0);
  Fiber* const fiber = self();
  Cluster& cluster = cluster_of(fiber);
  const bool im2col = load.offsets != nullptr;
  const char* const what = im2col ? "im2col TMA load" : "TMA load";
  mark_alone(*fiber, pc);
  check_map(load.map, load.rank, im2col, what, pc);
  if (im2col) check_im2col(load, pc);
  const uint32_t offset = shared_offset(
      *fiber->block, load.destination, box_bytes(*load.map), kSharedAlignment,
      im2col ? "the destination of an im2col TMA load" : "the destination of a TMA load");
  if (!load.multicast) {
    start_load(fiber, *fiber->block, load, offset, what, pc);
    return;
  }
  check_multicast(load, cluster.size, pc);
  for (uint32_t rank = 0; rank < cluster.size; ++rank) {
    if ((load.blocks >> rank & 1) == 0) continue;
    start_load(fiber, cluster.blocks[rank], load, offset, what, pc);
  }
}

void tma_store(const TensorMap* map, uint32_t source, const int32_t* coordinates, int32_t rank) {
  const void* const pc = __builtin_return_address(0);
  Fiber* const fiber = self();
  mark_alone(*fiber, pc);
  check_map(map, rank, false, "TMA store", pc);
  const uint32_t offset = shared_offset(*fiber->block, source, box_bytes(*map), kSharedAlignment,
                                        "the source of a TMA store");
  TmaOperation operation = describe(fiber, *fiber->block, *map, offset, coordinates, pc);
  operation.store = true;
  operation.group = fiber->group(GroupKind::kStore).add();
  if (observing) {
    observe_source(operation);
    observe_global(operation);
  }
  start(std::move(operation));
}

void tma_store_commit() {
  Fiber* const fiber = self();
  mark_alone(*fiber, __builtin_return_address(0));
  fiber->group(GroupKind::kStore).commit();
}

void tma_store_wait(uint32_t newest_groups_left, bool read_only) {
  Fiber* const fiber = self();
  mark_alone(*fiber, __builtin_return_address(0));
  CommitGroups& groups = fiber->group(GroupKind::kStore);
  groups.wait(newest_groups_left, fiber->clock.own);
  const uint32_t open = groups.open();
  complete_stores(fiber, open > newest_groups_left ? open - newest_groups_left : 0, read_only);
}

}  // namespace rnc::emulator
