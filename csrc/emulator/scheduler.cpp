#include "emulator/scheduler.h"

#include <cstdlib>
#include <numeric>
#include <string>

namespace rnc::emulator {

constinit thread_local ThreadView* current __attribute__((tls_model("initial-exec"))) = nullptr;

namespace {

uint32_t lowest_bit(uint32_t bits) { return static_cast<uint32_t>(__builtin_ctz(bits)); }
uint32_t highest_bit(uint32_t bits) { return 31u - static_cast<uint32_t>(__builtin_clz(bits)); }

uint32_t random_bit(Block& block, uint32_t bits) {
  uint32_t skip = block.random(static_cast<uint32_t>(__builtin_popcount(bits)));
  while (skip-- > 0) bits &= bits - 1;
  return lowest_bit(bits);
}

// Round robin stays in a warp while it can, then takes the next one.
uint32_t choose_warp(Block& block, int32_t schedule) {
  if (schedule == kRandom) return random_bit(block, block.ready_warps);
  if (schedule == kReversed) return highest_bit(block.ready_warps);
  const uint32_t from_current = block.ready_warps & (~0u << block.current_warp);
  return lowest_bit(from_current != 0 ? from_current : block.ready_warps);
}

uint32_t choose_lane(Block& block, uint32_t ready, int32_t schedule) {
  if (schedule == kRandom) return random_bit(block, ready);
  return schedule == kReversed ? highest_bit(ready) : lowest_bit(ready);
}

Fiber* next_ready(Block& block) {
  const int32_t schedule = block.worker->launch->options.schedule;
  while (block.ready_warps != 0) {
    const uint32_t warp_index = choose_warp(block, schedule);
    Warp& warp = block.worker->warps[warp_index];
    if (warp.ready == 0) {
      block.ready_warps &= ~(1u << warp_index);
      continue;
    }
    block.current_warp = warp_index;
    return warp.fibers + choose_lane(block, warp.ready, schedule);
  }
  return nullptr;
}

std::string describe_state(const Fiber& fiber) {
  switch (fiber.state) {
    case State::kAtBarrier:
      return format("at __syncthreads (barrier 0), which %u of %u live threads have reached",
                    fiber.block->at_barrier, fiber.block->live);
    case State::kInCollective:
      return format("in %s with mask %08x; lanes %08x of warp %u are live",
                    name_of(fiber.collective), fiber.collective_mask, fiber.warp->live,
                    fiber.warp->index);
    case State::kExited:
      return "exited";
    case State::kReady:
      break;
  }
  return "ready";
}

// One line per run of threads in the same state.
[[noreturn]] void deadlock(const Block& block) {
  {
    const std::vector<Fiber>& fibers = block.worker->fibers;
    const uint32_t threads = block.worker->launch->threads;
    std::string text = std::string(block.worker->launch->request.name) + ": block " +
                       name_of(block.block_idx) + ": deadlock, no thread can run:";
    for (uint32_t begin = 0; begin < threads;) {
      const std::string state = describe_state(fibers[begin]);
      uint32_t end = begin + 1;
      while (end < threads && describe_state(fibers[end]) == state) ++end;
      text += "\n  thread " + name_of(fibers[begin].thread_idx);
      if (end - begin > 1) text += " to " + name_of(fibers[end - 1].thread_idx);
      text += ": " + state;
      begin = end;
    }
    block.worker->launch->errors.add(text);
  }
  abandon_block();
}

// The fiber that runs next, when the current one cannot go on.
Fiber* next_fiber(Block& block) {
  Fiber* next = next_ready(block);
  // NOTE: the seam for asynchronous agents (copy engine, tensor memory accelerator, asynchronous
  // matrix multiply). When no fiber can run, an agent with a pending operation completes one, which
  // may make fibers ready, and the search is repeated; under the random schedule it may also do so
  // earlier. Without agents, nothing ready means that nothing ever will be.
  if (next == nullptr) deadlock(block);
  return next;
}

void run_threads();

void switch_to(Context& from, Fiber* to) {
  Worker& worker = worker_of(to);
  worker.counters.context_switches++;
  if (to->stack == nullptr) {
    const size_t index = worker.free_stacks.back();
    worker.free_stacks.pop_back();
    to->stack = worker.stacks + index * kStackBytes;
    // Stack tops are staggered: identical frames of all threads would compete for the same few sets
    // of the L1 cache.
    to->context.start(to->stack, kStackBytes - index * 1216 % 8192 / 64 * 64, run_threads);
  }
  current = to;
  Context::switch_to(from, to->context);
}

// Ends the current fiber. Returns if a thread that has not started yet continues on this stack:
// threads that never wait for each other all run on one, which stays in the cache.
void exit_fiber() {
  Fiber* fiber = self();
  Block& block = *fiber->block;
  fiber->state = State::kExited;
  fiber->warp->ready &= ~(1u << fiber->lane);
  fiber->warp->live &= ~(1u << fiber->lane);
  if (--block.live == 0) {
    Context::switch_to(fiber->context, block.worker->main);
    std::abort();  // an exited fiber is never continued
  }
  collectives_lane_exited(*fiber->warp);
  barrier_thread_exited(block);
  Fiber* next = next_fiber(block);
  if (next->stack != nullptr) {
    Worker& worker = *block.worker;
    worker.free_stacks.push_back(
        static_cast<uint32_t>((fiber->stack - worker.stacks) / kStackBytes));
    switch_to(fiber->context, next);
    std::abort();  // an exited fiber is never continued
  }
  next->stack = fiber->stack;
  current = next;
}

// Where every stack begins.
void run_threads() {
  for (;;) {
    const LaunchRequest& request = launch_of(self()).request;
    request.call(request.kernel, request.params);
    exit_fiber();
  }
}

}  // namespace

uint32_t Block::random(uint32_t bound) {  // xorshift64
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  random_state ^= random_state << 17;
  return static_cast<uint32_t>((random_state >> 32) % bound);
}

void make_ready(Block& block, Warp& warp, uint32_t lanes) {
  warp.ready |= lanes;
  if (lanes != 0) block.ready_warps |= 1u << warp.index;
}

void suspend(State state) {
  Fiber* fiber = self();
  fiber->state = state;
  fiber->warp->ready &= ~(1u << fiber->lane);
  Fiber* next = next_fiber(*fiber->block);
  if (next != fiber) switch_to(fiber->context, next);
  fiber->state = State::kReady;
}

void run_fibers(Block& block) {
  Worker& worker = *block.worker;
  worker.free_stacks.resize(worker.stack_count);
  std::iota(worker.free_stacks.rbegin(), worker.free_stacks.rend(),
            0u);  // the first is at the back
  switch_to(worker.main, next_fiber(block));
  current = nullptr;
}

}  // namespace rnc::emulator
