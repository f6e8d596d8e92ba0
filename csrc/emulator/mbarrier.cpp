#include "emulator/mbarrier.h"

#include <cstring>
#include <string>

#include "emulator/access.h"
#include "emulator/cluster_access.h"
#include "emulator/mbarrier_state.h"
#include "emulator/scheduler.h"
#include "emulator/shared_pointer.h"
#include "emulator/warp.h"

namespace rnc::emulator {

namespace {

// The mbarrier that a thread's own instruction names; that is an access like an atomic one.
uint32_t resolve(Fiber& fiber, uint32_t address, const char* what, const void* pc) {
  Block& block = block_at(&fiber, address);
  const uint32_t slot = resolve_mbarrier(fiber, block, address, false, what, pc);
  if (launch_of(&fiber).check_shared) {
    if (&block != fiber.block) visit_block(&fiber, block, pc);
    block.shadow.access(&fiber, block.cluster->mbarriers.states[slot].offset, kMbarrierBytes,
                        Access::kAtomic, pc);
  }
  return slot;
}

void arrive(Fiber& fiber, uint32_t slot, uint32_t count, const char* what, const void* pc) {
  Cluster& cluster = cluster_of(&fiber);
  MbarrierState& state = state_of(cluster, slot);
  if (count == 0 || count > state.pending) {
    fail(format("%s with count %u on %s, which takes %u more arrivals of %u in phase %u", what,
                count, describe_mbarrier(cluster, slot).c_str(), state.pending, state.expected,
                state.phase) +
         location(pc));
  }
  state.pending -= count;
  if (launch_of(&fiber).check_shared) {
    state.knowledge.add(fiber);
    ++fiber.clock.own;
  }
}

bool is_complete(const MbarrierState& state, uint32_t parity) {
  return (state.phase & 1) != parity;
}

// wait_arguments: the entry, the parity.
std::string describe_wait(const Fiber& fiber) {
  const Cluster& cluster = cluster_of(&fiber);
  const auto slot = static_cast<uint32_t>(fiber.wait_arguments[0]);
  const MbarrierState& state = cluster.mbarriers.states[slot];
  return format(
      "waiting for parity %u of %s: phase %u (parity %u) lacks %u of %u arrivals and "
      "%lld bytes",
      static_cast<uint32_t>(fiber.wait_arguments[1]), describe_mbarrier(cluster, slot).c_str(),
      state.phase, state.phase & 1, state.pending, state.expected,
      static_cast<long long>(state.pending_bytes));
}
constexpr WaitReason kWaiting{describe_wait};
constexpr WaitReason kPolling{describe_wait};

void wait_for_phase(Fiber& fiber, uint32_t slot, uint32_t parity, const WaitReason& reason) {
  MbarrierState& state = state_of(cluster_of(&fiber), slot);
  fiber.wait_arguments[0] = slot;
  fiber.wait_arguments[1] = parity;
  fiber.next_waiter = state.waiters;
  state.waiters = &fiber;
  suspend(reason);
}

// As many as a block has warps: the lanes of one know the same, as a rule.
constexpr size_t kRememberedWaiters = 32;

void learn_phase(Fiber& fiber, MbarrierState& state) {
  if (!state.completed.known) return;
  // Threads that knew the same before know the same afterwards: they share one clock.
  for (const auto& [before, after] : state.learned) {
    if (fiber.clock.known == before.known && fiber.clock.fenced == before.fenced) {
      static_cast<Knowledge&>(fiber.clock) = after;
      return;
    }
  }
  const Knowledge before = fiber.clock;
  learn(fiber, state.completed);
  if (state.learned.size() < kRememberedWaiters) state.learned.emplace_back(before, fiber.clock);
}

void finish_wait(Fiber& fiber, uint32_t slot, const void* pc) {
  if (!launch_of(&fiber).check_shared) return;
  learn_phase(fiber, state_of(cluster_of(&fiber), slot));
  mark_alone(fiber, pc);
}

uint32_t resolve_wait(Fiber& fiber, uint32_t address, uint32_t parity, const void* pc) {
  if (parity > 1) fail(format("mbarrier.try_wait for parity %u; it is 0 or 1", parity));
  const uint32_t slot = resolve(fiber, address, "mbarrier.try_wait", pc);
  if (state_of(cluster_of(&fiber), slot).block != fiber.block) {
    fail("mbarrier.try_wait on an mbarrier of another block; it takes one of the executing block" +
         location(pc));
  }
  return slot;
}

}  // namespace

void mbarrier_init(uint32_t address, uint32_t count, const char* name) {
  Fiber& fiber = *self();
  Block& block = *fiber.block;
  std::vector<MbarrierState>& states = block.cluster->mbarriers.states;
  const void* const pc = __builtin_return_address(0);
  const uint32_t offset =
      shared_offset(block, address, kMbarrierBytes, kMbarrierBytes, "mbarrier.init");
  if (count == 0 || count > kMaxMbarrierCount) {
    fail(format("mbarrier.init with count %u; from 1 to %u", count, kMaxMbarrierCount) +
         location(pc));
  }
  const uint32_t old = find_mbarrier(block, offset);
  if (old < states.size()) {
    fail("mbarrier.init of " + describe_mbarrier(*block.cluster, old) +
         ", which is initialised already: mbarrier_invalidate() first" + location(pc));
  }
  observe(block.shared + offset, kMbarrierBytes, Access::kWrite, pc);
  mark_alone(fiber, pc);
  const auto slot = static_cast<uint32_t>(states.size());
  MbarrierState& state = states.emplace_back();
  state.block = &block;
  state.offset = offset;
  state.name = name;
  state.expected = state.pending = count;
  if (launch_of(&fiber).check_shared) state.initialised = epoch_of(fiber);
  store_contents(block, offset, slot);
}

void mbarrier_invalidate(uint32_t address) {
  Fiber& fiber = *self();
  const void* const pc = __builtin_return_address(0);
  const uint32_t slot = resolve(fiber, address, "mbarrier.inval", pc);
  MbarrierState& state = state_of(cluster_of(&fiber), slot);
  if (state.waiters != nullptr || state.loads_in_flight != 0) {
    fail("mbarrier.inval of " + describe_mbarrier(cluster_of(&fiber), slot) + ", which " +
         (state.waiters != nullptr ? "threads wait for" : "TMA loads in flight signal") +
         location(pc));
  }
  mark_alone(fiber, pc);
  std::memset(state.block->shared + state.offset, 0xFF, kMbarrierBytes);
  state.block = nullptr;
}

void mbarrier_arrive(uint32_t address, uint32_t count, bool alone) {
  Fiber& fiber = *self();
  const void* const pc = __builtin_return_address(0);
  const uint32_t slot = resolve(fiber, address, "mbarrier.arrive", pc);
  if (alone) mark_alone(fiber, pc);
  arrive(fiber, slot, count, "mbarrier.arrive", pc);
  settle(cluster_of(&fiber), slot);
}

void mbarrier_expect_tx(uint32_t address, uint32_t bytes) {
  Fiber& fiber = *self();
  const void* const pc = __builtin_return_address(0);
  const uint32_t slot = resolve(fiber, address, "mbarrier.expect_tx", pc);
  mark_alone(fiber, pc);
  add_bytes(cluster_of(&fiber), state_of(cluster_of(&fiber), slot), slot, bytes);
  settle(cluster_of(&fiber), slot);
}

void mbarrier_arrive_expect_tx(uint32_t address, uint32_t bytes) {
  Fiber& fiber = *self();
  const void* const pc = __builtin_return_address(0);
  const uint32_t slot = resolve(fiber, address, "mbarrier.arrive.expect_tx", pc);
  mark_alone(fiber, pc);
  add_bytes(cluster_of(&fiber), state_of(cluster_of(&fiber), slot), slot, bytes);
  arrive(fiber, slot, 1, "mbarrier.arrive.expect_tx", pc);
  settle(cluster_of(&fiber), slot);
}

void mbarrier_wait(uint32_t address, uint32_t parity) {
  Fiber& fiber = *self();
  const void* const pc = __builtin_return_address(0);
  uint32_t slot = resolve_wait(fiber, address, parity, pc);
  // Looked at again by whoever wakes up: a waiter that two phases pass by waits on, as on the GPU.
  while (!is_complete(state_of(cluster_of(&fiber), slot), parity)) {
    wait_for_phase(fiber, slot, parity, kWaiting);
    slot = resolve_wait(fiber, address, parity, pc);
  }
  finish_wait(fiber, slot, pc);
}

bool mbarrier_try_wait(uint32_t address, uint32_t parity) {
  Fiber& fiber = *self();
  const void* const pc = __builtin_return_address(0);
  const uint32_t slot = resolve_wait(fiber, address, parity, pc);
  Cluster& cluster = cluster_of(&fiber);
  if (!is_complete(state_of(cluster, slot), parity)) {
    constexpr uint32_t kOneIn = 4;
    const bool impatient =
        launch_of(&fiber).options.schedule == kRandom && cluster.random(kOneIn) == 0;
    if (impatient) {
      yield();
    } else {
      wait_for_phase(fiber, slot, parity, kPolling);
    }
    if (!is_complete(state_of(cluster, slot), parity)) return false;
  }
  finish_wait(fiber, slot, pc);
  return true;
}

// A loop that polls is a way to wait: it sleeps until the phase completes. Only when nothing else
// can happen it sees a failure, in case it goes on to do something else.
bool wake_pollers(Cluster& cluster) {
  constexpr uint32_t kRounds = 1000;  // without any mbarrier changing: nothing ever will
  if (cluster.mbarriers.fruitless_rounds++ == kRounds) return false;
  bool any = false;
  for (MbarrierState& state : cluster.mbarriers.states) {
    for (Fiber** link = &state.waiters; *link != nullptr;) {
      Fiber& waiter = **link;
      if (waiter.waiting_for != &kPolling) {
        link = &waiter.next_waiter;
        continue;
      }
      *link = waiter.next_waiter;
      make_ready(waiter);
      any = true;
    }
  }
  return any;
}

void fence_mbarrier_init() {
  Fiber& fiber = *self();
  if (!launch_of(&fiber).check_shared) return;
  for (MbarrierState& state : cluster_of(&fiber).mbarriers.states) {
    if (state.initialised.agent() == fiber.agent && !state.published) {
      state.published = epoch_of(fiber);
    }
  }
}

}  // namespace rnc::emulator
