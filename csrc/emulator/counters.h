// Traffic counters. The threads of a warp run one after the other here, so their accesses are
// logged and put together afterwards: the n-th time each lane executes an instruction is taken as
// one warp instruction.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "emulator/emulator_api.h"

namespace rnc::emulator {

enum class Space : uint8_t { kGlobalLoad, kGlobalStore, kSharedLoad, kSharedStore };

// The accesses of one warp that are not yet counted.
class AccessLog {
 public:
  void add(Space space, uint32_t lane, uint64_t address, size_t bytes, const void* pc);

  // Counts and forgets; only where all lanes of the warp stand at the same point, or have exited.
  void flush(Counters& counters);
  void flush_if_long(Counters& counters);
  void clear();

 private:
  static constexpr uint32_t kLanes = 32;

  // One instruction, once executed by a warp.
  struct Execution {
    uint32_t lanes = 0;
    uint64_t addresses[kLanes];
  };

  struct Instruction {
    const void* pc;
    Space space;
    uint32_t bytes;
    uint32_t executed[kLanes] = {};  // times, by lane
    std::vector<Execution> executions;
  };

  Instruction& find(Space space, size_t bytes, const void* pc);
  void rebuild_index();

  std::vector<Instruction> instructions_;
  std::vector<uint32_t> index_;  // hash table: 1 + position in instructions_, or 0
  size_t accesses_ = 0;
};

void add(Counters& sum, const Counters& counters);

}  // namespace rnc::emulator
