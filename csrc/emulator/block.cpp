#include "emulator/block.h"

#include <sys/mman.h>

#include <cstring>
#include <new>
#include <string>

#include "emulator/grid.h"
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

void map_shared_memory(Worker& worker, uint32_t windows) {
  if (worker.shared_map == nullptr) {
    worker.shared_map = static_cast<char*>(map_or_throw(kSharedMapBytes, PROT_NONE));
  }
  for (; worker.windows < windows; ++worker.windows) {
    protect_or_throw(worker.shared_map + worker.windows * kSharedStrideBytes + kSharedGuardBytes,
                     kSharedWindowBytes, PROT_READ | PROT_WRITE);
  }
}

void begin_fiber(Fiber& fiber, const Launch& launch, const ClockRef& start) {
  fiber.stack = nullptr;
  fiber.waiting_for = nullptr;
  fiber.alone = 0;
  fiber.arrived_at_cluster_barrier = false;
  fiber.must_wait_for_grids = launch.request.starts_early;
  if (fiber.uses_groups) {
    for (CommitGroups& groups : fiber.groups) groups.clear();
    fiber.copies.clear();
    fiber.uses_groups = false;
  }
  if (launch.check_shared) fiber.clock = {{start, start}, 1, 0};
}

void begin_block(Block& block, const ClockRef& start) {
  const Cluster& cluster = *block.cluster;
  const Launch& launch = *block.worker->launch;
  block.block_idx =
      block_in_cluster(launch.request.grid, launch.request.cluster, cluster.index, block.rank);
  block.index = linear_index(launch.request.grid, block.block_idx);
  block.live = launch.threads;
  block.at_barrier = 0;
  block.ready_warps = 0;
  block.current_warp = 0;
  block.barriers.clear();
  for (uint32_t i = 0; i < block.warp_count / kWarpsPerWarpgroup; ++i) block.warpgroups[i].clear();
  std::memset(block.shared, kPoison, launch.request.shared_bytes + kCanaryBytes);
  if (launch.check_shared) block.shadow.begin_block(launch.request.shared_bytes);
  block.visits.clear();
  block.exit_knowledge = KnowledgeSum();
  for (uint32_t i = 0; i < block.warp_count; ++i) {
    Warp& warp = block.warps[i];
    warp.live = warp.members;
    warp.pending = 0;
    warp.ready = 0;
    warp.has_leader = false;
    warp.registers = warp.register_changes = 0;
    make_ready(warp, warp.members);
  }
  for (uint32_t i = 0; i < launch.threads; ++i) begin_fiber(block.fibers[i], launch, start);
}

void begin_cluster(Worker& worker, uint64_t index) {
  const Launch& launch = *worker.launch;
  Cluster& cluster = worker.cluster;
  cluster.index = index;
  cluster.live = cluster.threads;
  cluster.ready_blocks = 0;
  cluster.current_block = 0;
  cluster.operations_in_flight = 0;
  cluster.random_state =
      (launch.options.seed + 1) * 0x9E3779B97F4A7C15ull ^ (index + 1) * 0xD1B54A32D192ED03ull;
  if (cluster.random_state == 0) cluster.random_state = 1;  // which xorshift never leaves
  cluster.barrier.clear();
  cluster.mbarriers.clear();
  cluster.tensor_copies.clear();
  const ClockRef start = launch.check_shared ? ClockRef(new VectorClock) : ClockRef();
  for (uint32_t rank = 0; rank < cluster.size; ++rank) begin_block(cluster.blocks[rank], start);
}

void check_canary(const Block& block) {
  Launch& launch = *block.worker->launch;
  const size_t bytes = launch.request.shared_bytes;
  for (size_t i = bytes; i < bytes + kCanaryBytes; ++i) {
    if (static_cast<unsigned char>(block.shared[i]) == kPoison) continue;
    launch.errors.add(
        std::string(launch.request.name) + ": block " + name_of(block.block_idx) +
        format(": shared write at offset %zu is outside the block's %zu bytes", i, bytes));
    launch.aborted = true;
    return;
  }
}

// The parts of a block that stay the same for the whole launch.
void lay_out_block(Worker& worker, uint32_t rank) {
  const Launch& launch = *worker.launch;
  const Dim3& shape = launch.request.block;
  Block& block = worker.cluster.blocks[rank];
  block.cluster = &worker.cluster;
  block.worker = &worker;
  block.rank = rank;
  block.warp_count = (launch.threads + kWarpSize - 1) / kWarpSize;
  block.fibers = worker.fibers.data() + size_t{rank} * launch.threads;
  block.warps = worker.warps.data() + size_t{rank} * block.warp_count;
  block.shared = worker.shared_map + rank * kSharedStrideBytes + kSharedGuardBytes;
  block.shadow.begin_launch();
  for (WgmmaQueue& operations : block.warpgroups) operations.clear();  // of an abandoned launch
  for (uint32_t i = 0; i < block.warp_count; ++i) {
    Warp& warp = block.warps[i];
    const uint32_t lanes = launch.threads - i * kWarpSize;
    warp.fibers = block.fibers + i * kWarpSize;
    warp.block = &block;
    warp.index = i;
    warp.accesses.clear();  // of a block that was abandoned
    warp.members = lanes >= kWarpSize ? ~0u : (1u << lanes) - 1;
  }
  for (uint32_t i = 0; i < launch.threads; ++i) {
    Fiber& fiber = block.fibers[i];
    fiber.thread_idx = {i % shape.x, i / shape.x % shape.y, i / shape.x / shape.y};
    fiber.block_idx = &block.block_idx;
    fiber.block_dim = &launch.request.block;
    fiber.grid_dim = &launch.request.grid;
    fiber.block = &block;
    fiber.warp = &block.warps[i / kWarpSize];
    fiber.index = i;
    fiber.lane = i % kWarpSize;
    fiber.agent = rank * launch.threads + i;
  }
}

}  // namespace

void begin_launch(Worker& worker, Launch& launch) {
  worker.launch = &launch;
  worker.counters = Counters{};
  worker.last_region = 0;
  Cluster& cluster = worker.cluster;
  cluster.worker = &worker;
  cluster.size = launch.cluster_blocks;
  cluster.stays_in_warp = launch.options.schedule == kRoundRobin && !launch.random_completion;
  cluster.threads = launch.threads * cluster.size;
  grow_stacks(worker, cluster.threads);
  map_shared_memory(worker, cluster.size);
  const uint32_t warps = (launch.threads + kWarpSize - 1) / kWarpSize * cluster.size;
  if (worker.fibers.size() < cluster.threads) worker.fibers.resize(cluster.threads);
  if (worker.warps.size() < warps) worker.warps.resize(warps);
  cluster.fibers = worker.fibers.data();
  for (uint32_t rank = 0; rank < cluster.size; ++rank) lay_out_block(worker, rank);
}

void run_cluster(Worker& worker, uint64_t index) {
  begin_cluster(worker, index);
  run_fibers(worker.cluster);
  if (worker.launch->aborted) return;
  for (uint32_t rank = 0; rank < worker.cluster.size; ++rank) {
    const Block& block = worker.cluster.blocks[rank];
    check_canary(block);
    if (worker.launch->options.count == 0) continue;
    for (uint32_t i = 0; i < block.warp_count; ++i) block.warps[i].accesses.flush(worker.counters);
  }
}

void* dynamic_smem(size_t bytes) {
  const Fiber* const fiber = self();
  const size_t available = launch_of(fiber).request.shared_bytes;
  if (bytes > available) {
    fail(format("the kernel uses %zu bytes of dynamic shared memory, the launch provides %zu",
                bytes, available));
  }
  return fiber->block->shared;
}

}  // namespace rnc::emulator
