#include "emulator/counters.h"

#include <algorithm>
#include <tuple>

namespace rnc::emulator {

namespace {

constexpr uint32_t kSectorBytes = 32;
constexpr uint32_t kBanks = 32;
constexpr uint32_t kBankBytes = 4;
constexpr size_t kLongLog = 8192;

uint64_t* bytes_of(Space space, Counters& counters) {
  switch (space) {
    case Space::kGlobalLoad:
      return &counters.global_load_bytes;
    case Space::kGlobalStore:
      return &counters.global_store_bytes;
    case Space::kSharedLoad:
      return &counters.shared_load_bytes;
    case Space::kSharedStore:
      break;
  }
  return &counters.shared_store_bytes;
}

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

}  // namespace

void AccessLog::add(Space space, uint32_t lane, uint64_t address, size_t bytes, const void* pc) {
  records_.push_back({address, pc, static_cast<uint32_t>(records_.size()), space,
                      static_cast<uint8_t>(lane), static_cast<uint8_t>(bytes)});
}

void AccessLog::flush_if_long(Counters& counters) {
  if (records_.size() >= kLongLog) flush(counters);
}

void AccessLog::flush(Counters& counters) {
  const auto by_lane = [](const Record& a, const Record& b) {
    return std::tie(a.space, a.pc, a.lane, a.order) < std::tie(b.space, b.pc, b.lane, b.order);
  };
  const auto by_instruction = [](const Record& a, const Record& b) {
    return std::tie(a.space, a.pc, a.order, a.lane) < std::tie(b.space, b.pc, b.order, b.lane);
  };
  std::sort(records_.begin(), records_.end(), by_lane);
  const Record* previous = nullptr;
  for (Record& record : records_) {
    const bool repeated = previous != nullptr && previous->space == record.space &&
                          previous->pc == record.pc && previous->lane == record.lane;
    record.order = repeated ? previous->order + 1 : 0;
    previous = &record;
  }
  std::sort(records_.begin(), records_.end(), by_instruction);
  const Record* const end = records_.data() + records_.size();
  for (const Record* begin = records_.data(); begin != end;) {
    const Record* next = begin;
    while (next != end && next->space == begin->space && next->pc == begin->pc &&
           next->order == begin->order) {
      ++next;
    }
    count_instruction(begin, next, counters);
    begin = next;
  }
  records_.clear();
}

// The lanes of one warp instruction.
void AccessLog::count_instruction(const Record* begin, const Record* end, Counters& counters) {
  for (const Record* lane = begin; lane != end; ++lane)
    *bytes_of(lane->space, counters) += lane->bytes;

  if (begin->space == Space::kGlobalLoad || begin->space == Space::kGlobalStore) {
    uint64_t sectors[64];  // aligned accesses of at most 16 bytes touch one sector each, unaligned
                           // ones two
    size_t count = 0;
    for (const Record* lane = begin; lane != end; ++lane) {
      const uint64_t first = lane->address / kSectorBytes;
      const uint64_t last = (lane->address + lane->bytes - 1) / kSectorBytes;
      sectors[count++] = first;
      if (last != first) sectors[count++] = last;
    }
    std::sort(sectors, sectors + count);
    const auto distinct = static_cast<uint64_t>(std::unique(sectors, sectors + count) - sectors);
    (begin->space == Space::kGlobalLoad ? counters.global_load_sectors
                                        : counters.global_store_sectors) += distinct;
    return;
  }

  // Accesses of 8 bytes are served for half a warp at a time, of 16 bytes for a quarter.
  const std::ptrdiff_t lanes_per_group = begin->bytes >= 16 ? 8 : begin->bytes == 8 ? 16 : 32;
  while (begin != end) {
    const Record* const group_end = begin + std::min(lanes_per_group, end - begin);
    BankConflicts conflicts;
    for (; begin != group_end; ++begin) {
      const uint64_t last = (begin->address + begin->bytes - 1) / kBankBytes;
      for (uint64_t word = begin->address / kBankBytes; word <= last; ++word) {
        conflicts.touch(static_cast<uint32_t>(word));
      }
    }
    counters.shared_wavefronts += conflicts.passes;
    counters.shared_wavefronts_ideal += 1;
  }
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
}

}  // namespace rnc::emulator
