#include "emulator/warp.h"

#include <string>

#include "emulator/scheduler.h"

namespace rnc::emulator {

namespace {

// wait_arguments: the CollectiveKind, the mask.
std::string describe_meeting(const Fiber& fiber) {
  const auto* kind = reinterpret_cast<const CollectiveKind*>(fiber.wait_arguments[0]);
  return format("in %s with mask %08x; lanes %08x of warp %u are live", kind->name,
                static_cast<uint32_t>(fiber.wait_arguments[1]), fiber.warp->live,
                fiber.warp->index);
}
constexpr WaitReason kMeeting{describe_meeting};

// The lanes whose history is that of `lane`.
uint32_t lanes_like(const Warp& warp, uint32_t lanes, uint32_t lane) {
  uint32_t alike = 0;
  for_each_lane(lanes, [&](uint32_t other) {
    if (warp.fibers[other].alone == warp.fibers[lane].alone) alike |= 1u << other;
  });
  return alike;
}

void check_convergence(const Warp& warp, const Rendezvous& meeting) {
  const auto first = static_cast<uint32_t>(__builtin_ctz(meeting.arrived));
  const uint32_t alike = lanes_like(warp, meeting.arrived, first);
  const uint32_t others = meeting.arrived & ~alike;
  if (others == 0) return;
  // The smaller part is the one that went its own way.
  const uint32_t apart = __builtin_popcount(alike) < __builtin_popcount(others) ? alike : others;
  const int lane = __builtin_ctz(apart);
  report(warp.fibers + lane,
         format("%s needs a converged warp: lanes %08x of warp %u were in a branch of their own "
                "since the warp last met; __syncwarp() first",
                meeting.kind->name, apart, warp.index));
}

void complete(Warp& warp, uint32_t slot) {
  Rendezvous& meeting = warp.rendezvous[slot];
  const Worker& worker = *warp.block->worker;
  warp.block->worker->counters.collectives++;
  if (worker.launch->check_shared) {
    if (meeting.kind->aligned) check_convergence(warp, meeting);
    if (meeting.arrived == warp.live) mark_converged(warp);
  }
  if (meeting.kind->execute != nullptr) meeting.kind->execute(warp, meeting);
  warp.pending &= ~(1u << slot);
  make_ready(warp, meeting.arrived);
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

}  // namespace

void mark_converged(Warp& warp) {
  for_each_lane(warp.members, [&](uint32_t lane) { warp.fibers[lane].alone = 0; });
}

void meet(uint32_t mask, const CollectiveKind& kind, void* arguments) {
  Fiber* fiber = self();
  Warp& warp = *fiber->warp;
  const uint32_t bit = 1u << fiber->lane;
  mask &= warp.members;
  if ((mask & bit) == 0) {
    fail(format("%s with mask %08x, which leaves out the calling lane %u", kind.name, mask,
                fiber->lane));
  }
  const uint32_t slot = find_rendezvous(warp, mask);
  Rendezvous& meeting = warp.rendezvous[slot];
  if ((warp.pending >> slot & 1) == 0) {
    warp.pending |= 1u << slot;
    meeting.mask = mask;
    meeting.arrived = 0;
    meeting.kind = &kind;
  } else if (meeting.kind != &kind) {
    fail(format("divergent collectives: lane %u of warp %u calls %s while lanes %08x wait in %s",
                fiber->lane, warp.index, kind.name, meeting.arrived, meeting.kind->name));
  }
  meeting.arguments[fiber->lane] = arguments;
  meeting.arrived |= bit;
  if (meeting.arrived == (mask & warp.live)) {
    complete(warp, slot);
    return;
  }
  fiber->wait_arguments[0] = reinterpret_cast<uint64_t>(&kind);
  fiber->wait_arguments[1] = mask;
  suspend(kMeeting);
}

void collectives_lane_exited(Warp& warp) {
  for (uint32_t slots = warp.pending; slots != 0; slots &= slots - 1) {
    const auto slot = static_cast<uint32_t>(__builtin_ctz(slots));
    const Rendezvous& meeting = warp.rendezvous[slot];
    if (meeting.arrived == (meeting.mask & warp.live)) complete(warp, slot);
  }
}

}  // namespace rnc::emulator
