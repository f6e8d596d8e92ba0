#include "emulator/warpgroup.h"

#include <algorithm>
#include <string>

#include "emulator/scheduler.h"
#include "emulator/warp.h"

namespace rnc::emulator {

namespace {

constexpr uint32_t kRegisters = 64 * 1024;
constexpr uint32_t kRegisterUnit = 8;
constexpr uint32_t kMinRegisters = 24;
constexpr uint32_t kMaxRegisters = 256;

// The leader stays the same: PTX promises the same lane for the same mask every time.
void execute_elect(Warp& warp, Rendezvous& meeting) {
  Cluster& cluster = *warp.block->cluster;
  if ((meeting.arrived >> warp.leader & 1) == 0 || !warp.has_leader) {
    uint32_t candidates = meeting.arrived;
    if (cluster.worker->launch->options.schedule == kRandom) {
      uint32_t skip = cluster.random(static_cast<uint32_t>(__builtin_popcount(candidates)));
      while (skip-- > 0) candidates &= candidates - 1;
    }
    warp.leader = static_cast<uint32_t>(__builtin_ctz(candidates));
    warp.has_leader = true;
  }
  for_each_lane(meeting.arrived, [&](uint32_t lane) {
    *static_cast<bool*>(meeting.arguments[lane]) = lane == warp.leader;
  });
}
constexpr CollectiveKind kElect{"elect.sync", execute_elect};

struct RegisterRequest {
  uint32_t registers;
  bool increase;
};

uint32_t registers_of_block(const Launch& launch) {
  return kRegisters / launch.request.blocks_per_multiprocessor;
}

// What a launch gives each thread when the kernel is compiled for that many.
uint32_t initial_registers(const Launch& launch) {
  const uint32_t threads = (launch.threads + kWarpSize - 1) / kWarpSize * kWarpSize;
  const uint32_t fair = registers_of_block(launch) / threads;
  return std::min(fair / kRegisterUnit * kRegisterUnit, kMaxRegisters - kRegisterUnit);
}

uint32_t registers_of(const Warp& warp) {
  return warp.registers != 0 ? warp.registers : initial_registers(*warp.block->worker->launch);
}

uint32_t registers_in_use(const Block& block) {
  uint32_t sum = 0;
  for (uint32_t i = 0; i < block.warp_count; ++i) {
    sum += registers_of(block.warps[i]) * kWarpSize;
  }
  return sum;
}

// wait_arguments: the registers asked for.
std::string describe_wait(const Fiber& fiber) {
  return format("at setmaxnreg.inc to %u registers: the block's warps hold %u of %u",
                static_cast<uint32_t>(fiber.wait_arguments[0]), registers_in_use(*fiber.block),
                registers_of_block(*fiber.block->worker->launch));
}
constexpr WaitReason kWaitingForRegisters{describe_wait};

void check_request(const Warp& warp, const RegisterRequest& request) {
  const char* const direction = request.increase ? "inc" : "dec";
  if (request.registers % kRegisterUnit != 0 || request.registers < kMinRegisters ||
      request.registers > kMaxRegisters) {
    fail(format("setmaxnreg.%s to %u registers; a multiple of %u from %u to %u", direction,
                request.registers, kRegisterUnit, kMinRegisters, kMaxRegisters));
  }
  const uint32_t now = registers_of(warp);
  if (request.increase ? request.registers < now : request.registers > now) {
    fail(format("setmaxnreg.%s to %u registers by a warp that has %u", direction, request.registers,
                now));
  }
  const uint32_t first = warp.index / kWarpsPerWarpgroup * kWarpsPerWarpgroup;
  if (first + kWarpsPerWarpgroup > warp.block->warp_count) {
    fail(format("setmaxnreg.%s by warp %u, which belongs to no whole warpgroup", direction,
                warp.index));
  }
}

bool is_available(const Warp& warp, uint32_t registers) {
  const uint32_t others = registers_in_use(*warp.block) - registers_of(warp) * kWarpSize;
  return others + registers * kWarpSize <= registers_of_block(*warp.block->worker->launch);
}

void execute_set_max_registers(Warp& warp, Rendezvous& meeting) {
  const int first = __builtin_ctz(meeting.arrived);
  const auto& request = *static_cast<const RegisterRequest*>(meeting.arguments[first]);
  check_request(warp, request);
  ++warp.register_changes;
  if (request.increase) return;  // each lane waits until there are enough
  warp.registers = request.registers;
  const Block& block = *warp.block;
  for (uint32_t i = 0; i < block.warp_count; ++i) {
    for_each_lane(block.warps[i].live, [&](uint32_t lane) {
      Fiber& fiber = block.warps[i].fibers[lane];
      if (fiber.waiting_for == &kWaitingForRegisters) make_ready(fiber);
    });
  }
}
constexpr CollectiveKind kSetMaxRegisters{"setmaxnreg", execute_set_max_registers, true};

}  // namespace

bool elect_one() {
  bool elected = false;
  meet(kAllLanes, kElect, &elected);
  return elected;
}

void set_max_registers(uint32_t registers, bool increase) {
  RegisterRequest request{registers, increase};
  meet(kAllLanes, kSetMaxRegisters, &request);
  if (!increase) return;
  Fiber& fiber = *self();
  Warp& warp = *fiber.warp;
  while (warp.registers != registers) {
    if (is_available(warp, registers)) {
      warp.registers = registers;  // for the whole warp
      return;
    }
    fiber.wait_arguments[0] = registers;
    suspend(kWaitingForRegisters);
  }
}

void check_warpgroups_agree(const Fiber& last) {
  const Block& block = *last.block;
  for (uint32_t i = 0; i < block.warp_count; ++i) {
    const Warp& warp = block.warps[i];
    const Warp& first = block.warps[i / kWarpsPerWarpgroup * kWarpsPerWarpgroup];
    if (warp.register_changes == first.register_changes && warp.registers == first.registers) {
      continue;
    }
    report(&last,
           format("warps %u and %u of one warpgroup executed setmaxnreg %u and %u times; all "
                  "warps of a warpgroup must execute the same",
                  first.index, warp.index, first.register_changes, warp.register_changes));
    return;
  }
}

}  // namespace rnc::emulator
