#include "emulator/race_detector.h"

#include <bit>
#include <string>

#include "emulator/fiber.h"
#include "emulator/mbarrier_state.h"

namespace rnc::emulator {

namespace {

// Instructions are remembered relative to this library, in 32 bits.
const char kAnchor = 0;
int32_t pack(const void* pc) {
  return static_cast<int32_t>(static_cast<const char*>(pc) - &kAnchor);
}
const void* unpack(int32_t pc) { return &kAnchor + pc; }

const char* verb(Access kind) {
  switch (kind) {
    case Access::kRead:
      return "read";
    case Access::kWrite:
      return "write";
    case Access::kAtomic:
      return "atomic";
  }
  return "access";
}

// "a TMA load that signals ...": what somebody else did, or has under way.
std::string describe(Epoch epoch, bool reads, const Cluster& cluster) {
  const auto thread = [&](uint32_t agent) {
    const Fiber& fiber = cluster.fibers[agent];
    std::string text = "thread " + name_of(fiber.thread_idx);
    if (cluster.size > 1) text += format(" of block %u of the cluster", fiber.block->rank);
    return text;
  };
  switch (epoch.kind()) {
    case EpochKind::kNone:
      break;
    case EpochKind::kThread:
      return (reads ? "a read by " : "a write by ") + thread(epoch.agent());
    case EpochKind::kAtomic:
      return "an atomic by " + thread(epoch.agent());
    case EpochKind::kCopyGroup:
      return "a cp.async by " + thread(epoch.agent()) +
             format(" in its commit group %u", epoch.time());
    case EpochKind::kStoreGroup:
      return "the read of a bulk store by " + thread(epoch.agent()) +
             format(" in its bulk group %u", epoch.time());
    case EpochKind::kPhase:
      return "a TMA load that signals phase " + std::to_string(epoch.time()) + " of " +
             describe_mbarrier(cluster, epoch.agent() - cluster.threads);
    case EpochKind::kWgmmaGroup:
      return "the operand read of a wgmma by the warpgroup of " + thread(epoch.agent()) +
             format(" in its commit group %u", epoch.time());
  }
  return "an access";
}

const char* describe_own(Epoch epoch, Access kind) {
  switch (epoch.kind()) {
    case EpochKind::kCopyGroup:
      return "cp.async write";
    case EpochKind::kStoreGroup:
      return "read by a bulk store";
    case EpochKind::kPhase:
      return "write by a TMA load";
    case EpochKind::kWgmmaGroup:
      return "operand read by wgmma";
    default:
      return verb(kind);
  }
}

// is_known, with the common case in line.
inline bool knows(const Fiber& fiber, Epoch epoch) {
  if (epoch.kind() > EpochKind::kAtomic) return is_known(epoch, fiber);
  return epoch.agent() == fiber.agent || epoch.time() <= fiber.clock.known->at(epoch.agent());
}

}  // namespace

void SharedShadow::begin_launch() { shift_ = 4; }

void SharedShadow::begin_block(size_t bytes) {
  bytes_ = bytes;
  cells_.assign((bytes + (size_t{1} << shift_) - 1) >> shift_, Cell{});
}

// Exact, because every access so far covered whole cells.
void SharedShadow::refine(uint32_t shift) {
  const size_t factor = size_t{1} << (shift_ - shift);
  std::vector<Cell> finer(cells_.size() * factor);
  for (size_t i = 0; i < finer.size(); ++i) finer[i] = cells_[i / factor];
  cells_.swap(finer);
  shift_ = shift;
}

void SharedShadow::access(Fiber* fiber, size_t offset, size_t bytes, Access kind, const void* pc) {
  const EpochKind epoch = kind == Access::kAtomic ? EpochKind::kAtomic : EpochKind::kThread;
  judge_all({fiber, bytes, kind, Proxy::kGeneric, epoch_of(*fiber, epoch), pc}, offset);
}

void SharedShadow::async_access(Fiber* issuer, size_t offset, size_t bytes, Access kind,
                                Proxy proxy, Epoch completion, const void* pc) {
  judge_all({issuer, bytes, kind, proxy, completion, pc}, offset);
}

void SharedShadow::judge_all(const Request& request, size_t offset) {
  const size_t granule = size_t{1} << shift_;
  const size_t edges = offset | request.bytes;
  if ((edges & (granule - 1)) != 0) refine(static_cast<uint32_t>(std::countr_zero(edges)));
  const size_t end = (offset + request.bytes) >> shift_;
  for (size_t i = offset >> shift_; i < end; ++i) {
    if (!judge(request, cells_[i], i << shift_)) return;  // one report per access
  }
}

bool SharedShadow::judge(const Request& request, Cell& cell, size_t offset) {
  const Fiber& fiber = *request.fiber;
  const EpochKind writer = cell.write.kind();
  if (writer == EpochKind::kNone) {
    if (request.kind != Access::kWrite) {
      uninitialised(request, offset);
      return false;
    }
  } else if (!(request.kind == Access::kAtomic && writer == EpochKind::kAtomic) &&
             !knows(fiber, cell.write)) {
    race(request, offset, cell.write, cell.write_pc, false);
    return false;
  } else if (request.proxy == Proxy::kAsync && is_generic(writer) &&
             !is_fenced(cell.write, fiber)) {
    unfenced(request, cell, offset);
    return false;
  }
  if (request.kind == Access::kRead) {
    remember_read(request, cell);
    return true;
  }
  for (Epoch& reader : cell.reads) {
    if (reader && !knows(fiber, reader)) {
      race(request, offset, reader, cell.read_pc, true);
      return false;
    }
    reader = Epoch();
  }
  cell.write = request.epoch;
  cell.write_pc = pack(request.pc);
  return true;
}

// Keeps the reads that a later write may conflict with, at most two per warp: warps are what most
// often gets out of step, and one of two lanes is not the writer. When there are more warps than
// room, any of them betrays a missing barrier.
void SharedShadow::remember_read(const Request& request, Cell& cell) {
  Epoch* slot = nullptr;
  int of_this_warp = 0;
  for (Epoch& reader : cell.reads) {
    if (reader == request.epoch) return;
    if (!reader || knows(*request.fiber, reader)) {
      slot = &reader;
    } else if (reader.kind() == EpochKind::kThread && request.epoch.kind() == EpochKind::kThread &&
               reader.agent() / kWarpSize == request.epoch.agent() / kWarpSize) {
      ++of_this_warp;
    }
  }
  if (of_this_warp == 2) return;
  if (slot == nullptr) slot = &cell.reads[next_victim_++ % kReaders];
  *slot = request.epoch;
  cell.read_pc = pack(request.pc);
}

void SharedShadow::uninitialised(const Request& request, size_t offset) {
  report(request.fiber,
         format("%s of uninitialised shared memory: nobody has written byte %zu of %zu yet",
                describe_own(request.epoch, request.kind), offset, bytes_) +
             location(request.pc));
}

void SharedShadow::unfenced(const Request& request, const Cell& cell, size_t offset) {
  report(request.fiber,
         format("missing fence.proxy.async: %s of shared memory at byte %zu follows ",
                describe_own(request.epoch, request.kind), offset) +
             describe(cell.write, false, cluster_of(request.fiber)) +
             " without a proxy fence between them" + location(request.pc) + ", the other" +
             location(unpack(cell.write_pc)));
}

void SharedShadow::race(const Request& request, size_t offset, Epoch other, int32_t other_pc,
                        bool other_reads) {
  report(request.fiber,
         format("race in shared memory at byte %zu: %s of %zu bytes is not ordered after ", offset,
                describe_own(request.epoch, request.kind), request.bytes) +
             describe(other, other_reads, cluster_of(request.fiber)) + location(request.pc) +
             ", the other" + location(unpack(other_pc)));
}

}  // namespace rnc::emulator
