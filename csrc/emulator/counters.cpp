#include "emulator/counters.h"

#include <algorithm>

namespace rnc::emulator {

namespace {

constexpr uint32_t kSectorBytes = 32;
constexpr uint32_t kBanks = 32;
constexpr uint32_t kBankBytes = 4;
constexpr size_t kWidestAccess = 16;  // wider ones are several instructions on the GPU
constexpr size_t kLongLog = 8192;

// Passes that one group of lanes needs: the largest number of different words that fall into one
// bank.
struct BankConflicts {
  uint32_t words[kBanks][32];
  uint32_t count[kBanks] = {};
  uint32_t passes = 0;

  void touch(uint32_t word) {
    const uint32_t bank = word % kBanks;
    uint32_t* const end = words[bank] + count[bank];
    if (std::find(words[bank], end, word) != end) return;
    *end = word;
    passes = std::max(passes, ++count[bank]);
  }
};

size_t hash(Space space, size_t bytes, const void* pc) {
  const uint64_t key =
      reinterpret_cast<uint64_t>(pc) ^ static_cast<uint64_t>(space) << 48 ^ bytes << 52;
  return static_cast<size_t>(key * 0x9E3779B97F4A7C15ull >> 40);
}

// 32-byte sectors that the lanes touch together.
uint64_t count_sectors(const uint64_t* addresses, size_t count, uint32_t bytes) {
  uint64_t sectors[64];  // each access touches one or two
  size_t touched = 0;
  for (size_t i = 0; i < count; ++i) {
    const uint64_t first = addresses[i] / kSectorBytes;
    const uint64_t last = (addresses[i] + bytes - 1) / kSectorBytes;
    sectors[touched++] = first;
    if (last != first) sectors[touched++] = last;
  }
  std::sort(sectors, sectors + touched);
  return static_cast<uint64_t>(std::unique(sectors, sectors + touched) - sectors);
}

void count_wavefronts(const uint64_t* addresses, size_t count, uint32_t bytes, Counters& counters) {
  // Accesses of 8 bytes are served for half a warp at a time, of 16 bytes for a quarter.
  const size_t group = bytes >= 16 ? 8 : bytes == 8 ? 16 : 32;
  for (size_t begin = 0; begin < count; begin += group) {
    BankConflicts conflicts;
    for (size_t i = begin; i < std::min(begin + group, count); ++i) {
      const uint64_t last = (addresses[i] + bytes - 1) / kBankBytes;
      for (uint64_t word = addresses[i] / kBankBytes; word <= last; ++word) {
        conflicts.touch(static_cast<uint32_t>(word));
      }
    }
    counters.shared_wavefronts += conflicts.passes;
    counters.shared_wavefronts_ideal += 1;
  }
}

void count_execution(Space space, const uint64_t* addresses, size_t count, uint32_t bytes,
                     Counters& counters) {
  switch (space) {
    case Space::kGlobalLoad:
      counters.global_load_bytes += count * bytes;
      counters.global_load_sectors += count_sectors(addresses, count, bytes);
      break;
    case Space::kGlobalStore:
      counters.global_store_bytes += count * bytes;
      counters.global_store_sectors += count_sectors(addresses, count, bytes);
      break;
    case Space::kSharedLoad:
      counters.shared_load_bytes += count * bytes;
      count_wavefronts(addresses, count, bytes, counters);
      break;
    case Space::kSharedStore:
      counters.shared_store_bytes += count * bytes;
      count_wavefronts(addresses, count, bytes, counters);
      break;
  }
}

}  // namespace

void AccessLog::add(Space space, uint32_t lane, uint64_t address, size_t bytes, const void* pc) {
  for (; bytes > kWidestAccess; bytes -= kWidestAccess, address += kWidestAccess) {
    add(space, lane, address, kWidestAccess, pc);
  }
  Instruction& instruction = find(space, bytes, pc);
  const uint32_t occurrence = instruction.executed[lane]++;
  if (occurrence >= instruction.executions.size()) instruction.executions.emplace_back();
  Execution& execution = instruction.executions[occurrence];
  execution.addresses[lane] = address;
  execution.lanes |= 1u << lane;
  ++accesses_;
}

AccessLog::Instruction& AccessLog::find(Space space, size_t bytes, const void* pc) {
  if (instructions_.size() * 2 >= index_.size()) rebuild_index();
  const size_t mask = index_.size() - 1;
  for (size_t slot = hash(space, bytes, pc) & mask;; slot = (slot + 1) & mask) {
    if (index_[slot] == 0) {
      instructions_.push_back({pc, space, static_cast<uint32_t>(bytes), {}, {}});
      index_[slot] = static_cast<uint32_t>(instructions_.size());
      return instructions_.back();
    }
    Instruction& instruction = instructions_[index_[slot] - 1];
    if (instruction.pc == pc && instruction.space == space && instruction.bytes == bytes) {
      return instruction;
    }
  }
}

void AccessLog::rebuild_index() {
  index_.assign(std::max<size_t>(64, index_.size() * 2), 0);
  const size_t mask = index_.size() - 1;
  for (uint32_t i = 0; i < instructions_.size(); ++i) {
    const Instruction& instruction = instructions_[i];
    size_t slot = hash(instruction.space, instruction.bytes, instruction.pc) & mask;
    while (index_[slot] != 0) slot = (slot + 1) & mask;
    index_[slot] = i + 1;
  }
}

void AccessLog::flush_if_long(Counters& counters) {
  if (accesses_ >= kLongLog) flush(counters);
}

void AccessLog::flush(Counters& counters) {
  for (Instruction& instruction : instructions_) {
    for (const Execution& execution : instruction.executions) {
      uint64_t addresses[kLanes];
      size_t count = 0;
      for (uint32_t lanes = execution.lanes; lanes != 0; lanes &= lanes - 1) {
        addresses[count++] = execution.addresses[__builtin_ctz(lanes)];
      }
      count_execution(instruction.space, addresses, count, instruction.bytes, counters);
    }
    instruction.executions.clear();
    std::fill_n(instruction.executed, kLanes, 0u);
  }
  accesses_ = 0;
}

void AccessLog::clear() {
  instructions_.clear();
  std::fill(index_.begin(), index_.end(), 0u);
  accesses_ = 0;
}

void add(Counters& sum, const Counters& counters) {
  sum.global_load_bytes += counters.global_load_bytes;
  sum.global_store_bytes += counters.global_store_bytes;
  sum.global_load_sectors += counters.global_load_sectors;
  sum.global_store_sectors += counters.global_store_sectors;
  sum.distinct_load_bytes += counters.distinct_load_bytes;
  sum.distinct_store_bytes += counters.distinct_store_bytes;
  sum.shared_load_bytes += counters.shared_load_bytes;
  sum.shared_store_bytes += counters.shared_store_bytes;
  sum.shared_wavefronts += counters.shared_wavefronts;
  sum.shared_wavefronts_ideal += counters.shared_wavefronts_ideal;
  sum.context_switches += counters.context_switches;
  sum.collectives += counters.collectives;
  sum.distinct_load_sectors += counters.distinct_load_sectors;
  sum.distinct_store_sectors += counters.distinct_store_sectors;
  sum.mma_instructions += counters.mma_instructions;
  sum.mma_multiply_adds += counters.mma_multiply_adds;
}

}  // namespace rnc::emulator
