#include "emulator/cluster.h"

#include <cstring>
#include <string>

#include "emulator/access.h"
#include "emulator/cluster_access.h"
#include "emulator/scheduler.h"
#include "emulator/shared_pointer.h"
#include "emulator/shared_window.h"
#include "emulator/warp.h"

namespace rnc::emulator {

namespace {

std::string describe_barrier(const Fiber& fiber) {
  const Cluster& cluster = cluster_of(&fiber);
  return format("at the cluster barrier, which %u of %u live threads have reached",
                cluster.barrier.arrived, cluster.live);
}
constexpr WaitReason kAtClusterBarrier{describe_barrier};

void release(Cluster& cluster) {
  ClusterBarrier& barrier = cluster.barrier;
  ++barrier.phase;
  barrier.arrived = 0;
  if (cluster.worker->launch->check_shared) barrier.completed = barrier.knowledge.take();
  for (uint32_t i = 0; i < cluster.threads; ++i) {
    Fiber& fiber = cluster.fibers[i];
    if (fiber.waiting_for == &kAtClusterBarrier && is_live(fiber)) make_ready(fiber);
  }
}

void execute_arrive(Warp& warp, Rendezvous& meeting) {
  Cluster& cluster = *warp.block->cluster;
  for_each_lane(meeting.arrived, [&](uint32_t lane) {
    Fiber& fiber = warp.fibers[lane];
    if (fiber.arrived_at_cluster_barrier) {
      fail("cluster_arrive twice without cluster_wait between them");
    }
    fiber.arrived_at_cluster_barrier = true;
    fiber.cluster_phase = cluster.barrier.phase;
    ++cluster.barrier.arrived;
    if (!launch_of(&fiber).check_shared) return;
    cluster.barrier.knowledge.add(fiber);
    ++fiber.clock.own;
  });
  if (cluster.barrier.arrived == cluster.live) release(cluster);
}

constexpr CollectiveKind kArrive{"barrier.cluster.arrive", execute_arrive, true};
constexpr CollectiveKind kWait{"barrier.cluster.wait", nullptr, true};

}  // namespace

void ClusterBarrier::clear() {
  arrived = 0;
  phase = 0;
  knowledge = KnowledgeSum();
  completed = Knowledge();
}

void cluster_arrive() { meet(kAllLanes, kArrive, nullptr); }

void cluster_wait() {
  Fiber& fiber = *self();
  if (!fiber.arrived_at_cluster_barrier) fail("cluster_wait without cluster_arrive before it");
  meet(kAllLanes, kWait, nullptr);
  ClusterBarrier& barrier = cluster_of(&fiber).barrier;
  if (barrier.phase == fiber.cluster_phase) suspend(kAtClusterBarrier);
  fiber.arrived_at_cluster_barrier = false;
  if (launch_of(&fiber).check_shared) learn(fiber, barrier.completed);
}

void cluster_thread_exited(Fiber& fiber) {
  Cluster& cluster = cluster_of(&fiber);
  ClusterBarrier& barrier = cluster.barrier;
  if (fiber.arrived_at_cluster_barrier && fiber.cluster_phase == barrier.phase) --barrier.arrived;
  if (barrier.arrived != 0 && barrier.arrived == cluster.live) release(cluster);
}

uint32_t cluster_rank() { return self()->block->rank; }
uint32_t cluster_size() { return cluster_of(self()).size; }

uint32_t map_shared_rank(uint32_t address, uint32_t rank) {
  const uint32_t size = cluster_of(self()).size;
  if (rank >= size) {
    fail(format("mapa to block %u of a cluster of %u", rank, size) +
         location(__builtin_return_address(0)));
  }
  return (address & kSharedOffsetMask) | (rank + 1) << kRankShift;
}

void load_shared_cluster(void* value, uint32_t address, size_t bytes) {
  Fiber* const fiber = self();
  Block& block = block_at(fiber, address);
  const char* const source = shared_pointer(block, address, bytes, bytes, "ld.shared::cluster");
  if (&block != fiber->block) reach_block(fiber, block, __builtin_return_address(0));
  observe(source, bytes, Access::kRead, __builtin_return_address(0));
  std::memcpy(value, source, bytes);
}

void store_shared_cluster(uint32_t address, const void* value, size_t bytes) {
  Fiber* const fiber = self();
  Block& block = block_at(fiber, address);
  char* const target = shared_pointer(block, address, bytes, bytes, "st.shared::cluster");
  if (&block != fiber->block) reach_block(fiber, block, __builtin_return_address(0));
  observe(target, bytes, Access::kWrite, __builtin_return_address(0));
  std::memcpy(target, value, bytes);
}

}  // namespace rnc::emulator
