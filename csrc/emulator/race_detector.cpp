#include "emulator/race_detector.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "emulator/fiber.h"

namespace rnc::emulator {

namespace {

// An epoch: 10 bits of thread, one for atomic writes, 21 of time.
constexpr uint32_t kTimeBits = 21;
constexpr uint32_t kTimeMask = (1u << kTimeBits) - 1;
constexpr uint32_t kAtomicFlag = 1u << kTimeBits;
constexpr uint32_t kThreadShift = kTimeBits + 1;

uint32_t thread_of(uint32_t epoch) { return epoch >> kThreadShift; }

uint32_t epoch_of(const Fiber* fiber) {
  return fiber->index << kThreadShift | (fiber->clock.own & kTimeMask);
}

bool happened_before(uint32_t epoch, const Fiber* fiber) {
  const uint32_t thread = thread_of(epoch);
  return thread == fiber->index || (epoch & kTimeMask) <= fiber->clock.known->times[thread];
}

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

}  // namespace

ClockRef& ClockRef::operator=(const ClockRef& other) {
  if (clock_ == other.clock_) return *this;
  release();
  clock_ = other.clock_;
  acquire();
  return *this;
}

void ClockRef::acquire() {
  if (clock_ != nullptr) ++clock_->references;
}

void ClockRef::release() {
  if (clock_ != nullptr && --clock_->references == 0) delete clock_;
}

void SharedShadow::begin_launch() { shift_ = 2; }

void SharedShadow::begin_block(size_t bytes, uint32_t threads) {
  bytes_ = bytes;
  threads_ = threads;
  start_ = ClockRef(new VectorClock{0, std::vector<uint32_t>(threads, 0)});
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
  const size_t granule = size_t{1} << shift_;
  if (((offset | bytes) & (granule - 1)) != 0) refine(((offset | bytes) & 1) != 0 ? 0 : 1);
  const size_t end = (offset + bytes) >> shift_;
  for (size_t i = offset >> shift_; i < end; ++i) {
    if (!judge(fiber, cells_[i], i << shift_, bytes, kind, pc)) return;  // one report per access
  }
}

bool SharedShadow::judge(Fiber* fiber, Cell& cell, size_t offset, size_t bytes, Access kind,
                         const void* pc) {
  const bool both_atomic = kind == Access::kAtomic && (cell.write & kAtomicFlag) != 0;
  if (cell.write == 0) {
    if (kind != Access::kWrite) {
      uninitialised(fiber, offset, kind, pc);
      return false;
    }
  } else if (!both_atomic && !happened_before(cell.write, fiber)) {
    race(fiber, offset, bytes, kind, pc, cell.write, cell.write_pc, false);
    return false;
  }
  if (kind == Access::kRead) {
    remember_read(fiber, cell, pc);
    return true;
  }
  for (uint32_t& reader : cell.reads) {
    if (reader != 0 && !happened_before(reader, fiber)) {
      race(fiber, offset, bytes, kind, pc, reader, cell.read_pc, true);
      return false;
    }
    reader = 0;
  }
  cell.write = epoch_of(fiber) | (kind == Access::kAtomic ? kAtomicFlag : 0);
  cell.write_pc = pack(pc);
  return true;
}

// Keeps the reads that a later write may conflict with, at most two per warp: warps are what most
// often gets out of step, and one of two lanes is not the writer. When there are more warps than
// room, any of them betrays a missing barrier.
void SharedShadow::remember_read(Fiber* fiber, Cell& cell, const void* pc) {
  const uint32_t own = epoch_of(fiber);
  uint32_t* slot = nullptr;
  int of_this_warp = 0;
  for (uint32_t& reader : cell.reads) {
    if (reader == own) return;
    if (reader == 0 || happened_before(reader, fiber)) {
      slot = &reader;
    } else if (thread_of(reader) / kWarpSize == fiber->index / kWarpSize) {
      ++of_this_warp;
    }
  }
  if (of_this_warp == 2) return;
  if (slot == nullptr) slot = &cell.reads[next_victim_++ % kReaders];
  *slot = own;
  cell.read_pc = pack(pc);
}

void SharedShadow::uninitialised(Fiber* fiber, size_t offset, Access kind, const void* pc) {
  report(fiber, format("%s of uninitialised shared memory: nobody has written byte %zu of %zu yet",
                       verb(kind), offset, bytes_) +
                    location(pc));
}

void SharedShadow::race(Fiber* fiber, size_t offset, size_t bytes, Access kind, const void* pc,
                        uint32_t other, int32_t other_pc, bool other_reads) {
  const Fiber& other_fiber = worker_of(fiber).fibers[thread_of(other)];
  const char* other_verb = other_reads ? "read" : (other & kAtomicFlag) != 0 ? "atomic" : "write";
  report(
      fiber,
      format(
          "race in shared memory at byte %zu: %s of %zu bytes is not ordered after a %s by thread ",
          offset, verb(kind), bytes, other_verb) +
          name_of(other_fiber.thread_idx) + location(pc) + ", the other" +
          location(unpack(other_pc)));
}

void SharedShadow::join(Fiber* fibers, uint32_t lanes) {
  participants_.clear();
  for (; lanes != 0; lanes &= lanes - 1) participants_.push_back(fibers + __builtin_ctz(lanes));
  join_all(participants_);
}

void SharedShadow::join_live(Fiber* fibers, uint32_t threads) {
  participants_.clear();
  for (uint32_t i = 0; i < threads; ++i) {
    if (fibers[i].state != State::kExited) participants_.push_back(fibers + i);
  }
  join_all(participants_);
}

void SharedShadow::join_all(const std::vector<Fiber*>& participants) {
  auto* joined = new VectorClock(*participants.front()->clock.known.operator->());
  joined->references = 0;
  const ClockRef result(joined);
  const Fiber* previous = participants.front();
  for (const Fiber* fiber : participants) {
    if (!(fiber->clock.known == previous->clock.known)) {
      const std::vector<uint32_t>& times = fiber->clock.known->times;
      for (uint32_t i = 0; i < threads_; ++i)
        joined->times[i] = std::max(joined->times[i], times[i]);
    }
    previous = fiber;
  }
  for (const Fiber* fiber : participants) {
    joined->times[fiber->index] = std::max(joined->times[fiber->index], fiber->clock.own);
  }
  for (Fiber* fiber : participants) {
    fiber->clock.known = result;
    if (++fiber->clock.own > kTimeMask) {
      fail(format("more than %u synchronisations of one thread: too long for the race detector",
                  kTimeMask));
    }
  }
}

}  // namespace rnc::emulator
