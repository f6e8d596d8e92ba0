// Races and uninitialised reads in shared memory. Happens-before by vector clocks (as FastTrack and
// ThreadSanitizer do): each thread counts its synchronisations; a barrier tells every participant
// how far the others had come; two accesses to a byte, one of them a write, must be ordered by what
// the later thread knows.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace rnc::emulator {

struct Fiber;

enum class Access : uint8_t { kRead, kWrite, kAtomic };

// How far each thread of the block had come at some barrier; shared by its participants.
struct VectorClock {
  uint32_t references = 0;
  std::vector<uint32_t> times;
};

// Counts references without atomics: the fibers of a block run on one OS thread.
class ClockRef {
 public:
  ClockRef() = default;
  explicit ClockRef(VectorClock* clock) : clock_(clock) { acquire(); }
  ClockRef(const ClockRef& other) : clock_(other.clock_) { acquire(); }
  ClockRef& operator=(const ClockRef& other);
  ~ClockRef() { release(); }

  const VectorClock* operator->() const { return clock_; }
  bool operator==(const ClockRef& other) const { return clock_ == other.clock_; }

 private:
  void acquire();
  void release();

  VectorClock* clock_ = nullptr;
};

struct ThreadClock {
  uint32_t own = 1;  // this thread's own component
  ClockRef known;    // the other threads' components
};

// What the detector remembers about every piece of the block's shared memory.
class SharedShadow {
 public:
  // Forgets everything. Until a narrower access is seen, accesses are tracked in pieces of 4 bytes.
  void begin_launch();
  void begin_block(size_t bytes, uint32_t threads);
  ThreadClock initial_clock() const { return {1, start_}; }

  // Judges an access of the current thread, in bounds, at `offset`; `pc` is where it happened.
  void access(Fiber* fiber, size_t offset, size_t bytes, Access kind, const void* pc);

  void join(Fiber* fibers, uint32_t lanes);         // the given lanes of a warp
  void join_live(Fiber* fibers, uint32_t threads);  // all that have not exited

 private:
  static constexpr uint32_t kReaders = 5;

  // Epochs (thread, flag, time) of the last write and of some reads; 0: none.
  struct Cell {
    uint32_t write;
    int32_t write_pc;
    int32_t read_pc;
    uint32_t reads[kReaders];
  };

  void refine(uint32_t shift);
  bool judge(Fiber* fiber, Cell& cell, size_t offset, size_t bytes, Access kind, const void* pc);
  void remember_read(Fiber* fiber, Cell& cell, const void* pc);
  void join_all(const std::vector<Fiber*>& participants);
  // Reports stay out of the hot functions.
  [[gnu::cold, gnu::noinline]] void uninitialised(Fiber* fiber, size_t offset, Access kind,
                                                  const void* pc);
  [[gnu::cold, gnu::noinline]] void race(Fiber* fiber, size_t offset, size_t bytes, Access kind,
                                         const void* pc, uint32_t other, int32_t other_pc,
                                         bool other_reads);

  uint32_t shift_ = 2;  // log2 of the bytes per cell
  size_t bytes_ = 0;
  uint32_t threads_ = 0;
  uint32_t next_victim_ = 0;  // reader to forget when there is no room
  ClockRef start_;
  std::vector<Cell> cells_;
  std::vector<Fiber*> participants_;
};

}  // namespace rnc::emulator
