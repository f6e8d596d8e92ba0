// The state of a running launch: Launch (one kernel launch) > Worker (one OS thread) > Block > Warp
// > Fiber (one emulated thread). A block runs entirely on one worker, and a fiber never moves to
// another OS thread.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "emulator/context_switch.h"
#include "emulator/counters.h"
#include "emulator/emulator.h"
#include "emulator/emulator_api.h"
#include "emulator/errors.h"
#include "emulator/launch_memory.h"
#include "emulator/race_detector.h"

namespace rnc::emulator {

inline constexpr uint32_t kWarpSize = 32;
inline constexpr size_t kStackBytes = 64 * 1024;
inline constexpr size_t kPageBytes = 4096;

struct Block;
struct Warp;
struct Worker;

enum class State : uint8_t { kReady, kInCollective, kAtBarrier, kExited };

enum class Collective : uint8_t {
  kShuffleIndex,
  kShuffleUp,
  kShuffleDown,
  kShuffleXor,
  kBallot,
  kSyncWarp
};
const char* name_of(Collective kind);

struct Fiber : ThreadView {
  Context context;
  Block* block = nullptr;
  Warp* warp = nullptr;
  uint32_t index = 0;  // linear thread index in the block
  uint32_t lane = 0;
  State state = State::kReady;
  Collective collective{};       // while kInCollective
  uint32_t collective_mask = 0;  // while kInCollective
  ThreadClock clock;             // for the race detector
  char* stack = nullptr;         // null until the thread starts
};

// One warp collective that some lanes have reached.
struct Rendezvous {
  uint32_t mask = 0;
  uint32_t arrived = 0;
  Collective kind{};
  void* arguments[kWarpSize];
};

struct Warp {
  Fiber* fibers = nullptr;  // of lane 0
  uint32_t index = 0;
  uint32_t members = 0;  // lanes that exist
  uint32_t live = 0;     // lanes that have not exited
  uint32_t ready = 0;    // lanes that can run
  uint32_t pending =
      0;  // rendezvous in use, one bit each: disjoint groups of lanes may meet at the same time
  Rendezvous rendezvous[kWarpSize];
  AccessLog accesses;
};

struct Block {
  Worker* worker = nullptr;
  Dim3 block_idx;
  uint64_t index = 0;  // linear
  uint32_t live = 0;   // threads that have not exited
  uint32_t at_barrier = 0;
  uint32_t ready_warps = 0;  // may name warps without a ready lane, never leaves one out
  uint32_t current_warp = 0;
  uint64_t random_state = 1;
  SharedShadow shadow;

  uint32_t random(uint32_t bound);
};

// The sequence in which blocks are started. Random: multiplication by a number coprime to the count
// is a permutation.
struct BlockOrder {
  BlockOrder(uint64_t blocks, const Options& options);
  uint64_t at(uint64_t position) const;

  uint64_t blocks;
  uint64_t step = 1;
  uint64_t offset = 0;
  bool reversed = false;
};

// One kernel launch, shared by the workers that run its blocks.
struct Launch {
  Launch(const LaunchRequest& request, const Options& options, bool instrumented);

  const LaunchRequest request;
  const Options options;
  const uint32_t threads;  // per block
  const uint64_t blocks;
  const bool check_shared;  // needs instrumented kernels: shared memory is accessed directly
  BlockOrder order;
  ErrorLog errors;
  LaunchMemory memory;
  std::atomic<uint64_t> next_block{0};
  std::atomic<bool> aborted{false};
};

// What one OS thread needs to run blocks. Kept between launches.
struct Worker {
  Launch* launch = nullptr;
  Context main;  // the OS thread's own stack, while fibers run
  Block block;
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  char* stacks = nullptr;
  size_t stack_count = 0;
  std::vector<uint32_t> free_stacks;
  char* shared_map = nullptr;  // the window of shared memory and the guards around it
  char* shared = nullptr;
  Counters counters{};
  size_t last_region = 0;  // LaunchMemory's lookup hint
};

Dim3 block_index(const Dim3& grid, uint64_t linear);

inline Fiber* self() { return static_cast<Fiber*>(current); }
inline Worker& worker_of(const Fiber* fiber) { return *fiber->block->worker; }
inline Launch& launch_of(const Fiber* fiber) { return *fiber->block->worker->launch; }

}  // namespace rnc::emulator
