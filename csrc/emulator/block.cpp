#include "emulator/block.h"

#include <sys/mman.h>

#include <cstring>
#include <new>
#include <string>

#include "emulator/scheduler.h"

namespace rnc::emulator {

namespace {

constexpr size_t kCanaryBytes = 256;  // watched after the end of the launch's shared memory

// Every bit set is a NaN in each floating-point type: uninitialised shared memory shows in the
// results.
constexpr int kPoison = 0xFF;

void* map_or_throw(size_t bytes, int protection) {
  void* const map =
      mmap(nullptr, bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (map == MAP_FAILED) throw std::bad_alloc();
  return map;
}

void protect_or_throw(char* start, size_t bytes, int protection) {
  if (mprotect(start, bytes, protection) != 0) throw std::bad_alloc();
}

// One stack per thread, each with a guard page at its lower end.
void grow_stacks(Worker& worker, size_t count) {
  if (worker.stack_count >= count) return;
  if (worker.stacks != nullptr) munmap(worker.stacks, worker.stack_count * kStackBytes);
  worker.stack_count = 0;
  worker.stacks = nullptr;
  worker.stacks = static_cast<char*>(map_or_throw(count * kStackBytes, PROT_READ | PROT_WRITE));
  worker.stack_count = count;
  for (size_t i = 0; i < count; ++i) {
    protect_or_throw(worker.stacks + i * kStackBytes, kPageBytes, PROT_NONE);
  }
}

void map_shared_memory(Worker& worker) {
  if (worker.shared != nullptr) return;
  worker.shared_map = static_cast<char*>(map_or_throw(kSharedMapBytes, PROT_NONE));
  char* const window = worker.shared_map + kSharedGuardBytes;
  protect_or_throw(window, kSharedWindowBytes, PROT_READ | PROT_WRITE);
  worker.shared = window;
}

void begin_block(Worker& worker, uint64_t index) {
  const Launch& launch = *worker.launch;
  Block& block = worker.block;
  block.worker = &worker;
  block.block_idx = block_index(launch.request.grid, index);
  block.index = index;
  block.live = launch.threads;
  block.at_barrier = 0;
  block.ready_warps = 0;
  block.current_warp = 0;
  block.random_state =
      (launch.options.seed + 1) * 0x9E3779B97F4A7C15ull ^ (index + 1) * 0xD1B54A32D192ED03ull;
  if (block.random_state == 0) block.random_state = 1;  // which xorshift never leaves
  std::memset(worker.shared, kPoison, launch.request.shared_bytes + kCanaryBytes);
  if (launch.check_shared) block.shadow.begin_block(launch.request.shared_bytes, launch.threads);
  for (Warp& warp : worker.warps) {
    warp.live = warp.members;
    warp.pending = 0;
    warp.ready = 0;
    make_ready(block, warp, warp.members);
  }
  for (uint32_t i = 0; i < launch.threads; ++i) {
    Fiber& fiber = worker.fibers[i];
    fiber.state = State::kReady;
    fiber.stack = nullptr;
    if (launch.check_shared) fiber.clock = block.shadow.initial_clock();
  }
}

void check_canary(const Worker& worker) {
  const size_t bytes = worker.launch->request.shared_bytes;
  for (size_t i = bytes; i < bytes + kCanaryBytes; ++i) {
    if (static_cast<unsigned char>(worker.shared[i]) == kPoison) continue;
    worker.launch->errors.add(
        std::string(worker.launch->request.name) + ": block " + name_of(worker.block.block_idx) +
        format(": shared write at offset %zu is outside the block's %zu bytes", i, bytes));
    worker.launch->aborted = true;
    return;
  }
}

}  // namespace

Dim3 block_index(const Dim3& grid, uint64_t linear) {
  return {static_cast<uint32_t>(linear % grid.x), static_cast<uint32_t>(linear / grid.x % grid.y),
          static_cast<uint32_t>(linear / grid.x / grid.y)};
}

void begin_launch(Worker& worker, Launch& launch) {
  worker.launch = &launch;
  worker.counters = Counters{};
  worker.last_region = 0;
  worker.block.shadow.begin_launch();
  grow_stacks(worker, launch.threads);
  map_shared_memory(worker);
  const Dim3& shape = launch.request.block;
  if (worker.fibers.size() < launch.threads) worker.fibers.resize(launch.threads);
  worker.warps.resize((launch.threads + kWarpSize - 1) / kWarpSize);
  for (uint32_t i = 0; i < worker.warps.size(); ++i) {
    Warp& warp = worker.warps[i];
    const uint32_t lanes = launch.threads - i * kWarpSize;
    warp.fibers = worker.fibers.data() + i * kWarpSize;
    warp.index = i;
    warp.accesses.clear();  // of a block that was abandoned
    warp.members = lanes >= kWarpSize ? ~0u : (1u << lanes) - 1;
  }
  for (uint32_t i = 0; i < launch.threads; ++i) {
    Fiber& fiber = worker.fibers[i];
    fiber.thread_idx = {i % shape.x, i / shape.x % shape.y, i / shape.x / shape.y};
    fiber.block_idx = &worker.block.block_idx;
    fiber.block_dim = &launch.request.block;
    fiber.grid_dim = &launch.request.grid;
    fiber.block = &worker.block;
    fiber.warp = &worker.warps[i / kWarpSize];
    fiber.index = i;
    fiber.lane = i % kWarpSize;
  }
}

void run_block(Worker& worker, uint64_t index) {
  begin_block(worker, index);
  run_fibers(worker.block);
  if (worker.launch->aborted) return;
  check_canary(worker);
  if (worker.launch->options.count != 0) {
    for (Warp& warp : worker.warps) warp.accesses.flush(worker.counters);
  }
}

void* dynamic_smem(size_t bytes) {
  const Worker& worker = worker_of(self());
  const size_t available = worker.launch->request.shared_bytes;
  if (bytes > available) {
    fail(format("the kernel uses %zu bytes of dynamic shared memory, the launch provides %zu",
                bytes, available));
  }
  return worker.shared;
}

}  // namespace rnc::emulator
