// Shuffles, votes and __syncwarp.
#include <cstdint>

#include "emulator/warp.h"

namespace rnc::emulator {

namespace {

struct ShuffleOperands {
  uint64_t value;
  uint64_t result;
  int32_t operand;
  int32_t width;
};

struct BallotOperands {
  bool predicate;
  uint32_t result;
};

// As PTX defines shfl.sync: a lane whose source lies outside its segment reads its own value.
template <ShuffleMode kMode>
int32_t source_lane(int32_t lane, const ShuffleOperands& own) {
  const int32_t first = lane & ~(own.width - 1);
  const int32_t end = first + own.width;
  const int32_t operand = own.operand & static_cast<int32_t>(kWarpSize - 1);
  switch (kMode) {
    case ShuffleMode::kIndex:
      return first + (operand & (own.width - 1));
    case ShuffleMode::kUp:
      return lane - operand >= first ? lane - operand : lane;
    case ShuffleMode::kDown:
      return lane + operand < end ? lane + operand : lane;
    case ShuffleMode::kXor:
      return (lane ^ operand) < end ? lane ^ operand : lane;  // an earlier segment may be read
  }
}

template <ShuffleMode kMode>
void execute_shuffle(Warp& warp, Rendezvous& meeting) {
  for_each_lane(meeting.arrived, [&](uint32_t lane) {
    auto* own = static_cast<ShuffleOperands*>(meeting.arguments[lane]);
    const int32_t source = source_lane<kMode>(static_cast<int32_t>(lane), *own);
    if ((meeting.arrived >> source & 1) == 0) {
      own->result = ~uint64_t{0};
      report(warp.fibers + lane,
             format("%s reads from lane %d of warp %u, which does not take part (mask %08x, live "
                    "lanes %08x)",
                    meeting.kind->name, source, warp.index, meeting.mask, warp.live));
    } else {
      own->result = static_cast<const ShuffleOperands*>(meeting.arguments[source])->value;
    }
  });
}

void execute_ballot(Warp&, Rendezvous& meeting) {
  uint32_t votes = 0;
  for_each_lane(meeting.arrived, [&](uint32_t lane) {
    if (static_cast<const BallotOperands*>(meeting.arguments[lane])->predicate) votes |= 1u << lane;
  });
  for_each_lane(meeting.arrived, [&](uint32_t lane) {
    static_cast<BallotOperands*>(meeting.arguments[lane])->result = votes;
  });
}

// The only one of these that orders memory.
void execute_syncwarp(Warp& warp, Rendezvous& meeting) {
  if (warp.block->worker->launch->check_shared) join_lanes(warp, meeting.arrived);
}

constexpr CollectiveKind kShuffles[] = {
    {"__shfl_sync", execute_shuffle<ShuffleMode::kIndex>},
    {"__shfl_up_sync", execute_shuffle<ShuffleMode::kUp>},
    {"__shfl_down_sync", execute_shuffle<ShuffleMode::kDown>},
    {"__shfl_xor_sync", execute_shuffle<ShuffleMode::kXor>},
};
constexpr CollectiveKind kBallot{"__ballot_sync / __any_sync / __all_sync", execute_ballot};
constexpr CollectiveKind kSyncWarp{"__syncwarp", execute_syncwarp};

}  // namespace

uint64_t shuffle(uint32_t mask, uint64_t value, ShuffleMode mode, int32_t operand, int32_t width) {
  ShuffleOperands operands{value, 0, operand, width};
  if (width < 1 || width > static_cast<int32_t>(kWarpSize) || (width & (width - 1)) != 0) {
    fail(format("shuffle of width %d; the width is a power of two up to 32", width));
  }
  meet(mask, kShuffles[static_cast<int>(mode)], &operands);
  return operands.result;
}

uint32_t ballot(uint32_t mask, bool predicate) {
  BallotOperands operands{predicate, 0};
  meet(mask, kBallot, &operands);
  return operands.result;
}

void syncwarp(uint32_t mask) { meet(mask, kSyncWarp, nullptr); }

}  // namespace rnc::emulator
