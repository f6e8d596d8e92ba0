// The state of the barriers of blocks and clusters.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "emulator/clock.h"

namespace rnc::emulator {

struct Block;
struct Fiber;

// bar.sync, bar.arrive (named_barrier.cpp).
struct NamedBarrier {
  uint32_t expected = 0;  // threads; 0: nobody has arrived
  uint32_t arrived = 0;
  uint32_t arrived_lanes[32] = {};  // by warp
  uint32_t waiting_lanes[32] = {};
  KnowledgeSum knowledge;
};

struct NamedBarriers {
  static constexpr uint32_t kCount = 16;

  void clear();

  uint32_t in_use = 0;  // one bit each
  NamedBarrier barriers[kCount];
};

// barrier.cluster (cluster.cpp).
struct ClusterBarrier {
  void clear();

  uint32_t arrived = 0;  // live threads that have arrived in this phase
  uint32_t phase = 0;
  KnowledgeSum knowledge;
  Knowledge completed;  // what is known to whoever waits
};

// An mbarrier (mbarrier.cpp). Its 8 bytes of shared memory only say which entry of the cluster's
// table it is: kernels must not look into them, and whoever overwrites them is found out.
struct MbarrierState {
  Block* block = nullptr;  // null: invalidated
  uint32_t offset = 0;     // in the block's shared memory
  const char* name = nullptr;
  uint32_t expected = 0;
  uint32_t pending = 0;  // arrivals
  int64_t pending_bytes = 0;
  uint32_t phase = 0;            // completed ones
  uint32_t loads_in_flight = 0;  // that signal this phase
  uint32_t loaded_phases = 0;    // 1 + the newest phase that a load signals
  Fiber* waiters = nullptr;

  // For the race detector.
  Epoch initialised;       // by mbarrier.init
  Epoch published;         // by fence.mbarrier_init
  KnowledgeSum knowledge;  // of those who arrived in this phase
  Knowledge completed;     // what the completed phases tell
  // What waiters knew before and after they learned `completed`: those who knew the same still do.
  std::vector<std::pair<Knowledge, Knowledge>> learned;
};

// The phase of an mbarrier that an asynchronous load signals.
struct BoundPhase {
  uint32_t slot;
  uint32_t phase;
};

struct Mbarriers {
  void clear();

  std::vector<MbarrierState> states;
  uint32_t fruitless_rounds = 0;  // in which every thread that could run only polled
};

}  // namespace rnc::emulator
