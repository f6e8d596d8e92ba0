// The table of a cluster's mbarriers: what an address names, phases and who they wake.
#include "emulator/mbarrier_state.h"

#include <cstring>
#include <string>

#include "emulator/cluster_access.h"
#include "emulator/scheduler.h"
#include "emulator/shared_pointer.h"
#include "emulator/shared_window.h"

namespace rnc::emulator {

namespace {

// What an initialised mbarrier's 8 bytes hold: this, and the entry of the cluster's table.
constexpr uint64_t kTag = uint64_t{0x6D626172} << 32;  // "mbar"

uint64_t contents(uint32_t slot) { return kTag | slot; }

uint32_t agent_of(const Cluster& cluster, uint32_t slot) { return cluster.threads + slot; }

// Remote uses and those of the asynchronous proxy see an initialisation only after a fence.
bool is_published(const MbarrierState& state, const Fiber& to) {
  return (state.published && is_known(state.published, to)) || is_fenced(state.initialised, to);
}

void check_order(Fiber& fiber, const MbarrierState& state, uint32_t slot, bool needs_fence,
                 const char* what, const void* pc) {
  const Cluster& cluster = cluster_of(&fiber);
  const bool known = is_known(state.initialised, fiber);
  if (known && (!needs_fence || is_published(state, fiber))) return;
  const Fiber& initialiser = cluster.fibers[state.initialised.agent()];
  report(&fiber,
         std::string(what) + " on " + describe_mbarrier(cluster, slot) +
             ", whose initialisation by thread " + name_of(initialiser.thread_idx) +
             (known ? " is not fenced: fence_mbarrier_init() or fence_proxy_async() after it"
                    : " is not ordered before: a barrier between them is missing") +
             location(pc));
}

void complete_phase(Cluster& cluster, uint32_t slot) {
  MbarrierState& state = state_of(cluster, slot);
  if (state.loads_in_flight != 0) {
    report(self(),
           format("phase %u of %s completes while %u TMA loads that signal it are in "
                  "flight: its threads expect too few bytes",
                  state.phase, describe_mbarrier(cluster, slot).c_str(), state.loads_in_flight));
    state.loads_in_flight = 0;
  }
  ++state.phase;
  state.pending = state.expected;
  if (cluster.worker->launch->check_shared) {
    if (state.completed.known) state.knowledge.add(state.completed);
    state.knowledge.add_phase(agent_of(cluster, slot), state.phase);
    state.completed = state.knowledge.take();
    state.learned.clear();
  }
  while (Fiber* waiter = state.waiters) {
    state.waiters = waiter->next_waiter;
    make_ready(*waiter);
  }
}

}  // namespace

void Mbarriers::clear() {
  states.clear();
  fruitless_rounds = 0;
}

std::string describe_mbarrier(const Cluster& cluster, uint32_t slot) {
  const MbarrierState& state = cluster.mbarriers.states[slot];
  std::string text = "mbarrier ";
  if (state.name != nullptr) text += std::string("'") + state.name + "' ";
  text += format("at offset %u of shared memory", state.offset);
  if (cluster.size > 1) text += format(" of block %u of the cluster", state.block->rank);
  return text;
}

uint32_t find_mbarrier(const Block& block, uint32_t offset) {
  const std::vector<MbarrierState>& states = block.cluster->mbarriers.states;
  uint64_t bytes;
  std::memcpy(&bytes, block.shared + offset, sizeof bytes);
  const auto slot = static_cast<uint32_t>(bytes);
  const bool valid = bytes == contents(slot) && slot < states.size() &&
                     states[slot].block == &block && states[slot].offset == offset;
  return valid ? slot : static_cast<uint32_t>(states.size());
}

void store_contents(const Block& block, uint32_t offset, uint32_t slot) {
  const uint64_t bytes = contents(slot);
  std::memcpy(block.shared + offset, &bytes, sizeof bytes);
}

uint32_t resolve_mbarrier(Fiber& fiber, Block& block, uint32_t address, bool needs_fence,
                          const char* what, const void* pc) {
  const uint32_t offset = shared_offset(block, address, kMbarrierBytes, kMbarrierBytes, what);
  const bool remote = &block != fiber.block;
  if (remote) reach_block(&fiber, block, pc);
  const uint32_t slot = find_mbarrier(block, offset);
  const std::vector<MbarrierState>& states = block.cluster->mbarriers.states;
  if (slot == states.size()) {
    fail(format("%s at offset %u of shared memory%s, where no mbarrier is initialised", what,
                offset, remote ? format(" of block %u of the cluster", block.rank).c_str() : "") +
         location(pc));
  }
  if (launch_of(&fiber).check_shared) {
    check_order(fiber, states[slot], slot, needs_fence || remote, what, pc);
  }
  return slot;
}

void settle(Cluster& cluster, uint32_t slot) {
  const MbarrierState& state = state_of(cluster, slot);
  cluster.mbarriers.fruitless_rounds = 0;
  if (state.pending == 0 && state.pending_bytes == 0) complete_phase(cluster, slot);
}

void add_bytes(const Cluster& cluster, MbarrierState& state, uint32_t slot, int64_t bytes) {
  state.pending_bytes += bytes;
  if (state.pending_bytes > kMaxMbarrierCount ||
      state.pending_bytes < -int64_t{kMaxMbarrierCount}) {
    fail(describe_mbarrier(cluster, slot) +
         format(" would have %lld bytes pending; at most %u either way",
                static_cast<long long>(state.pending_bytes), kMaxMbarrierCount));
  }
}

BoundPhase bind_load(Fiber* issuer, Block& block, uint32_t address, const char* what,
                     const void* pc) {
  const uint32_t slot =
      resolve_mbarrier(*issuer, block, address & kSharedOffsetMask, true, what, pc);
  MbarrierState& state = state_of(*block.cluster, slot);
  ++state.loads_in_flight;
  state.loaded_phases = state.phase + 1;
  return {slot, state.phase};
}

Epoch completion_of(const Cluster& cluster, const BoundPhase& bound) {
  return Epoch(EpochKind::kPhase, agent_of(cluster, bound.slot), bound.phase);
}

void complete_load(Cluster& cluster, const BoundPhase& bound, uint32_t bytes) {
  MbarrierState& state = state_of(cluster, bound.slot);
  if (state.phase == bound.phase && state.loads_in_flight > 0) --state.loads_in_flight;
  add_bytes(cluster, state, bound.slot, -int64_t{bytes});
  settle(cluster, bound.slot);
}

void check_loads_are_waited_for(const Fiber& last, const Knowledge& block_knows) {
  const Cluster& cluster = cluster_of(&last);
  const bool check = launch_of(&last).check_shared;
  for (uint32_t slot = 0; slot < cluster.mbarriers.states.size(); ++slot) {
    const MbarrierState& state = cluster.mbarriers.states[slot];
    if (state.block != last.block) continue;
    const bool known =
        !check || state.loaded_phases <= block_knows.known->at(agent_of(cluster, slot));
    if (state.loads_in_flight == 0 && known) continue;
    report(&last, format("the block exits with TMA loads not waited for: they signal phase %u of ",
                         state.loaded_phases - 1) +
                      describe_mbarrier(cluster, slot));
  }
}

}  // namespace rnc::emulator
