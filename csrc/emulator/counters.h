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
  void clear() { records_.clear(); }

 private:
  struct Record {
    uint64_t address;
    const void* pc;
    uint32_t
        order;  // position in the log, then: how often this lane executed this instruction before
    Space space;
    uint8_t lane;
    uint8_t bytes;
  };

  static void count_instruction(const Record* begin, const Record* end, Counters& counters);

  std::vector<Record> records_;
};

void add(Counters& sum, const Counters& counters);

}  // namespace rnc::emulator
