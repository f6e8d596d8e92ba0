// Warp collectives: each lane leaves a pointer to its operands, the last one to arrive does the
// work for all.
#include <cstdint>

#include "emulator/scheduler.h"

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
int32_t source_lane(Collective kind, int32_t lane, const ShuffleOperands& own) {
  const int32_t first = lane & ~(own.width - 1);
  const int32_t end = first + own.width;
  const int32_t operand = own.operand & static_cast<int32_t>(kWarpSize - 1);
  switch (kind) {
    case Collective::kShuffleIndex:
      return first + (operand & (own.width - 1));
    case Collective::kShuffleUp:
      return lane - operand >= first ? lane - operand : lane;
    case Collective::kShuffleDown:
      return lane + operand < end ? lane + operand : lane;
    case Collective::kShuffleXor:
      return (lane ^ operand) < end ? lane ^ operand : lane;  // an earlier segment may be read
    default:
      return lane;
  }
}

void execute_shuffle(const Warp& warp, const Rendezvous& meeting) {
  for (int32_t lane = 0; lane < static_cast<int32_t>(kWarpSize); ++lane) {
    if ((meeting.arrived >> lane & 1) == 0) continue;
    auto* own = static_cast<ShuffleOperands*>(meeting.arguments[lane]);
    const int32_t source = source_lane(meeting.kind, lane, *own);
    if ((meeting.arrived >> source & 1) == 0) {
      own->result = ~uint64_t{0};
      report(warp.fibers + lane,
             format("%s reads from lane %d of warp %u, which does not take part (mask %08x, live "
                    "lanes %08x)",
                    name_of(meeting.kind), source, warp.index, meeting.mask, warp.live));
    } else {
      own->result = static_cast<const ShuffleOperands*>(meeting.arguments[source])->value;
    }
  }
}

void execute_ballot(const Rendezvous& meeting) {
  uint32_t votes = 0;
  for (uint32_t lanes = meeting.arrived; lanes != 0; lanes &= lanes - 1) {
    const int lane = __builtin_ctz(lanes);
    if (static_cast<const BallotOperands*>(meeting.arguments[lane])->predicate) votes |= 1u << lane;
  }
  for (uint32_t lanes = meeting.arrived; lanes != 0; lanes &= lanes - 1) {
    static_cast<BallotOperands*>(meeting.arguments[__builtin_ctz(lanes)])->result = votes;
  }
}

void execute(Warp& warp, Rendezvous& meeting) {
  Block& block = *warp.fibers->block;
  block.worker->counters.collectives++;
  switch (meeting.kind) {
    case Collective::kBallot:
      execute_ballot(meeting);
      break;
    case Collective::kSyncWarp:
      // The only collective that orders memory.
      if (block.worker->launch->check_shared) block.shadow.join(warp.fibers, meeting.arrived);
      break;
    default:
      execute_shuffle(warp, meeting);
      break;
  }
}

void complete(Warp& warp, uint32_t slot) {
  Rendezvous& meeting = warp.rendezvous[slot];
  execute(warp, meeting);
  warp.pending &= ~(1u << slot);
  make_ready(*warp.fibers->block, warp, meeting.arrived);
}

// The rendezvous with this mask, or a free one. A mask that differs between lanes ends in the
// deadlock report.
uint32_t find_rendezvous(const Warp& warp, uint32_t mask) {
  for (uint32_t slots = warp.pending; slots != 0; slots &= slots - 1) {
    const auto slot = static_cast<uint32_t>(__builtin_ctz(slots));
    if (warp.rendezvous[slot].mask == mask) return slot;
  }
  return static_cast<uint32_t>(__builtin_ctz(~warp.pending));  // one is free: this lane is in none
}

void meet(uint32_t mask, Collective kind, void* arguments) {
  Fiber* fiber = self();
  Warp& warp = *fiber->warp;
  const uint32_t bit = 1u << fiber->lane;
  mask &= warp.members;
  if ((mask & bit) == 0) {
    fail(format("%s with mask %08x, which leaves out the calling lane %u", name_of(kind), mask,
                fiber->lane));
  }
  const uint32_t slot = find_rendezvous(warp, mask);
  Rendezvous& meeting = warp.rendezvous[slot];
  if ((warp.pending >> slot & 1) == 0) {
    warp.pending |= 1u << slot;
    meeting.mask = mask;
    meeting.arrived = 0;
    meeting.kind = kind;
  } else if (meeting.kind != kind) {
    fail(format("divergent collectives: lane %u of warp %u calls %s while lanes %08x wait in %s",
                fiber->lane, warp.index, name_of(kind), meeting.arrived, name_of(meeting.kind)));
  }
  meeting.arguments[fiber->lane] = arguments;
  meeting.arrived |= bit;
  if (meeting.arrived == (mask & warp.live)) {
    complete(warp, slot);
    return;
  }
  fiber->collective = kind;
  fiber->collective_mask = mask;
  suspend(State::kInCollective);
}

}  // namespace

const char* name_of(Collective kind) {
  switch (kind) {
    case Collective::kShuffleIndex:
      return "__shfl_sync";
    case Collective::kShuffleUp:
      return "__shfl_up_sync";
    case Collective::kShuffleDown:
      return "__shfl_down_sync";
    case Collective::kShuffleXor:
      return "__shfl_xor_sync";
    case Collective::kBallot:
      return "__ballot_sync / __any_sync / __all_sync";
    case Collective::kSyncWarp:
      return "__syncwarp";
  }
  return "unknown";
}

uint64_t shuffle(uint32_t mask, uint64_t value, ShuffleMode mode, int32_t operand, int32_t width) {
  static constexpr Collective kKinds[] = {Collective::kShuffleIndex, Collective::kShuffleUp,
                                          Collective::kShuffleDown, Collective::kShuffleXor};
  ShuffleOperands operands{value, 0, operand, width};
  if (width < 1 || width > static_cast<int32_t>(kWarpSize) || (width & (width - 1)) != 0) {
    fail(format("shuffle of width %d; the width is a power of two up to 32", width));
  }
  meet(mask, kKinds[static_cast<int>(mode)], &operands);
  return operands.result;
}

uint32_t ballot(uint32_t mask, bool predicate) {
  BallotOperands operands{predicate, 0};
  meet(mask, Collective::kBallot, &operands);
  return operands.result;
}

void syncwarp(uint32_t mask) { meet(mask, Collective::kSyncWarp, nullptr); }

void collectives_lane_exited(Warp& warp) {
  for (uint32_t slots = warp.pending; slots != 0; slots &= slots - 1) {
    const auto slot = static_cast<uint32_t>(__builtin_ctz(slots));
    const Rendezvous& meeting = warp.rendezvous[slot];
    if (meeting.arrived == (meeting.mask & warp.live)) complete(warp, slot);
  }
}

}  // namespace rnc::emulator
