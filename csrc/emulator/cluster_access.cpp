#include "emulator/cluster_access.h"

#include <algorithm>

#include "emulator/fiber.h"
#include "emulator/mbarrier_state.h"

namespace rnc::emulator {

namespace {

// Whether the fiber has synchronised with any thread of the block.
bool knows_started(const Fiber& fiber, const Block& block) {
  const uint32_t threads = block.worker->launch->threads;
  const uint32_t first = block.rank * threads;
  for (uint32_t agent = first; agent < first + threads; ++agent) {
    if (fiber.clock.known->at(agent) != 0) return true;
  }
  return false;
}

// The block exits without knowing that others are done with its shared memory.
void check_visits(const Fiber& last, const Knowledge& block_knows) {
  const Block& block = *last.block;
  for (uint32_t agent = 0; agent < block.visits.size(); ++agent) {
    if (block.visits[agent] <= block_knows.known->at(agent)) continue;
    const Fiber& visitor = block.cluster->fibers[agent];
    report(&last, "the block exits while thread " + name_of(visitor.thread_idx) +
                      format(" of block %u of the cluster may still access its shared memory: "
                             "cluster_sync() before the end",
                             visitor.block->rank));
    return;
  }
}

}  // namespace

void reach_block(Fiber* fiber, const Block& block, const void* pc) {
  if (block.live == 0) {
    fail(format("access to shared memory of another block: block %u of the cluster has exited",
                block.rank) +
         location(pc));
  }
  if (launch_of(fiber).check_shared && !knows_started(*fiber, block)) {
    report(fiber, format("access to shared memory of another block: block %u of the cluster may "
                         "not have started yet; cluster_sync() first",
                         block.rank) +
                      location(pc));
  }
}

void visit_block(Fiber* fiber, Block& block, const void* pc) {
  reach_block(fiber, block, pc);
  if (!launch_of(fiber).check_shared) return;
  if (block.visits.empty()) block.visits.resize(block.cluster->threads);
  block.visits[fiber->agent] = fiber->clock.own;
}

void cluster_thread_exits(Fiber& fiber) {
  Block& block = *fiber.block;
  const bool check = launch_of(&fiber).check_shared;
  if (block.cluster->size == 1 && block.cluster->mbarriers.states.empty()) return;
  if (check) block.exit_knowledge.add(fiber);
  if (block.live > 1) return;
  const Knowledge block_knows = check ? block.exit_knowledge.take() : Knowledge{};
  if (check) check_visits(fiber, block_knows);
  check_loads_are_waited_for(fiber, block_knows);
}

}  // namespace rnc::emulator
