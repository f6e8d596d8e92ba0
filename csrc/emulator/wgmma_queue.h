// The wgmma operations of one warpgroup, from the first thread that issues one until every warp has
// waited for it.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "emulator/wgmma.h"
#include "emulator/wgmma_operand.h"
#include "emulator/wgmma_register_checks.h"

namespace rnc::emulator {

inline constexpr uint32_t kWarpgroupThreads = 128;
inline constexpr uint32_t kWarpgroupWarps = 4;

struct WgmmaOperation {
  Wgmma instruction;  // as the first thread stated it; its pointers are that thread's own
  WgmmaOperand a;     // unless A is in registers
  WgmmaOperand b;
  uint32_t group = 0;      // commit group
  uint32_t issued = 0;     // threads
  uint32_t in_flight = 0;  // index of its accumulators among those in flight, when checking
  const void* pc = nullptr;
  float* accumulators[kWarpgroupThreads];
  const uint32_t* a_registers[kWarpgroupThreads];
  uint32_t a_values[kWarpgroupThreads][4];  // when they were issued

  bool is_issued() const { return issued == kWarpgroupThreads; }
  int32_t depth() const { return instruction.type == WgmmaType::kTensorFloat32 ? 8 : 16; }
};

struct WgmmaQueue {
  WgmmaOperation& at(uint64_t index) { return ring[index & (ring.size() - 1)]; }
  const WgmmaOperation& at(uint64_t index) const { return ring[index & (ring.size() - 1)]; }
  WgmmaOperation& push();
  void clear();

  // Operations by number: `begin` to `end` are kept, those before `computed` have their results,
  // those before `issued[thread]` were issued by that thread.
  uint64_t begin = 0;
  uint64_t computed = 0;
  uint64_t end = 0;
  uint64_t issued[kWarpgroupThreads] = {};
  bool fenced[kWarpgroupThreads] = {};  // once at least
  bool used = false;                    // by any fence: there is something to clear

  // A warp that waits needs the groups before this one; in that state: a bit in `waiting`.
  uint32_t wanted[kWarpgroupWarps] = {};
  uint32_t waited[kWarpgroupWarps] = {};  // groups that the warp has waited for
  uint32_t waiting = 0;

  std::vector<WgmmaOperation> ring;             // a power of two
  std::unique_ptr<WgmmaRegisterChecks> checks;  // when checking
};

}  // namespace rnc::emulator
