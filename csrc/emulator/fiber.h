// The state of a running launch: Launch (one kernel launch) > Worker (one OS thread) > Cluster >
// Block > Warp > Fiber (one emulated thread). A cluster, of one block where the launch names none,
// runs entirely on one worker, and a fiber never moves to another OS thread.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "emulator/clock.h"
#include "emulator/commit_groups.h"
#include "emulator/context_switch.h"
#include "emulator/counters.h"
#include "emulator/cp_async_queue.h"
#include "emulator/emulator.h"
#include "emulator/emulator_api.h"
#include "emulator/errors.h"
#include "emulator/launch_memory.h"
#include "emulator/race_detector.h"
#include "emulator/synchronisation.h"
#include "emulator/tma_queue.h"
#include "emulator/wgmma_queue.h"

namespace rnc::emulator {

inline constexpr uint32_t kWarpSize = 32;
inline constexpr uint32_t kWarpsPerWarpgroup = 4;
inline constexpr uint32_t kMaxThreads = 1024;  // per block
inline constexpr uint32_t kMaxWarpgroups = kMaxThreads / kWarpSize / kWarpsPerWarpgroup;
inline constexpr uint32_t kMaxClusterBlocks = 16;
inline constexpr size_t kStackBytes = 64 * 1024;
inline constexpr size_t kPageBytes = 4096;

struct Block;
struct CollectiveKind;
struct Cluster;
struct WaitReason;
struct Warp;
struct Worker;

struct alignas(64) Fiber : ThreadView {
  // What every switch and every start of a thread touches lies in two cache lines.
  Context context;
  Block* block = nullptr;
  Warp* warp = nullptr;
  char* stack = nullptr;                    // null until the thread starts
  const WaitReason* waiting_for = nullptr;  // while suspended
  uint64_t wait_arguments[2] = {};          // for the reason's description
  uint32_t index = 0;                       // linear thread index in the block
  uint32_t lane = 0;
  uint32_t agent = 0;  // index among the threads of the cluster
  uint32_t alone = 0;  // what this lane did alone since its warp was last converged (warp.h)
  bool arrived_at_cluster_barrier = false;  // and has not waited yet
  bool uses_groups = false;
  bool must_wait_for_grids = false;  // it may have started early, and has not waited yet
  uint32_t cluster_phase = 0;        // of the cluster barrier, where it arrived
  Fiber* next_waiter = nullptr;      // at the same mbarrier
  ThreadClock clock;                 // for the race detector
  CommitGroups groups[kGroupKinds];
  CpAsyncQueue copies;

  CommitGroups& group(GroupKind kind) {
    uses_groups = true;
    return groups[static_cast<int>(kind)];
  }
};

// One warp collective that some lanes have reached.
struct Rendezvous {
  uint32_t mask = 0;
  uint32_t arrived = 0;
  const CollectiveKind* kind = nullptr;
  void* arguments[kWarpSize];
};

struct Warp {
  Fiber* fibers = nullptr;  // of lane 0
  Block* block = nullptr;
  uint32_t index = 0;
  uint32_t members = 0;  // lanes that exist
  uint32_t live = 0;     // lanes that have not exited
  uint32_t ready = 0;    // lanes that can run
  uint32_t pending =
      0;  // rendezvous in use, one bit each: disjoint groups of lanes may meet at the same time
  uint32_t leader = 0;  // of elect.sync, once has_leader
  bool has_leader = false;
  uint32_t registers = 0;         // per thread, as setmaxnreg left them; 0: as launched
  uint32_t register_changes = 0;  // times setmaxnreg was executed
  Rendezvous rendezvous[kWarpSize];
  AccessLog accesses;
};

struct Block {
  Cluster* cluster = nullptr;
  Worker* worker = nullptr;
  Fiber* fibers = nullptr;
  Warp* warps = nullptr;
  char* shared = nullptr;  // its window of shared memory
  Dim3 block_idx;
  uint64_t index = 0;  // linear, in the grid
  uint32_t rank = 0;   // in the cluster
  uint32_t warp_count = 0;
  uint32_t live = 0;         // threads that have not exited
  uint32_t at_barrier = 0;   // threads at __syncthreads
  uint32_t ready_warps = 0;  // may name warps without a ready lane, never leaves one out
  uint32_t current_warp = 0;
  NamedBarriers barriers;
  WgmmaQueue warpgroups[kMaxWarpgroups];
  SharedShadow shadow;
  std::vector<uint32_t> visits;  // when threads of other blocks were last here; by agent
  KnowledgeSum exit_knowledge;   // of the threads that have exited
};

struct Cluster {
  Worker* worker = nullptr;
  Fiber* fibers = nullptr;    // of all blocks, by rank
  uint64_t index = 0;         // linear, in the grid of clusters
  uint32_t size = 1;          // blocks
  uint32_t threads = 0;       // of all blocks
  uint32_t live = 0;          // threads that have not exited
  uint32_t ready_blocks = 0;  // may name blocks without a ready thread, never leaves one out
  uint32_t current_block = 0;
  bool stays_in_warp = true;  // while a lane can run: round robin without random completion
  uint64_t random_state = 1;
  // Asynchronous operations that an agent (agents.h) may complete at any time under random
  // completion; the agents count them.
  uint32_t operations_in_flight = 0;
  ClusterBarrier barrier;
  Mbarriers mbarriers;
  TmaQueue tensor_copies;
  Block blocks[kMaxClusterBlocks];  // `size` of them in use

  uint32_t random(uint32_t bound);
};

// The sequence in which clusters are started. Random: multiplication by a number coprime to the
// count is a permutation.
struct ClusterOrder {
  ClusterOrder(uint64_t clusters, const Options& options);
  uint64_t at(uint64_t position) const;

  uint64_t clusters;
  uint64_t step = 1;
  uint64_t offset = 0;
  bool reversed = false;
};

// One kernel launch, shared by the workers that run its clusters.
struct Launch {
  Launch(const LaunchRequest& request, const Options& options, bool instrumented);

  const LaunchRequest request;
  const Options options;
  const uint32_t threads;         // per block
  const uint32_t cluster_blocks;  // per cluster
  const uint64_t clusters;
  const bool check_shared;       // needs instrumented kernels: shared memory is accessed directly
  const bool random_completion;  // of some family of asynchronous operations
  ClusterOrder order;
  ErrorLog errors;
  LaunchMemory memory;
  std::atomic<uint64_t> next_cluster{0};
  std::atomic<bool> aborted{false};
};

// What one OS thread needs to run clusters. Kept between launches.
struct Worker {
  Launch* launch = nullptr;
  Context main;  // the OS thread's own stack, while fibers run
  Cluster cluster;
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  char* stacks = nullptr;
  size_t stack_count = 0;
  std::vector<uint32_t> free_stacks;
  char* shared_map = nullptr;  // the windows of shared memory and the guards around them
  uint32_t windows = 0;        // that are accessible
  Counters counters{};
  size_t last_region = 0;  // LaunchMemory's lookup hint
  std::vector<std::byte> scratch;

  // Memory for the arithmetic of one instruction at a time: emulated threads do not switch during
  // it. Not thread-local: a library that is opened at run time finds little room for such data.
  template <class T>
  T& scratch_as() {
    if (scratch.size() < sizeof(T) + alignof(T)) scratch.resize(sizeof(T) + alignof(T));
    const auto start = reinterpret_cast<uintptr_t>(scratch.data());
    return *reinterpret_cast<T*>((start + alignof(T) - 1) / alignof(T) * alignof(T));
  }
};

inline Fiber* self() { return static_cast<Fiber*>(current); }
inline Worker& worker_of(const Fiber* fiber) { return *fiber->block->worker; }
inline Launch& launch_of(const Fiber* fiber) { return *fiber->block->worker->launch; }
inline Cluster& cluster_of(const Fiber* fiber) { return *fiber->block->cluster; }
inline bool is_live(const Fiber& fiber) { return (fiber.warp->live >> fiber.lane & 1) != 0; }

}  // namespace rnc::emulator
