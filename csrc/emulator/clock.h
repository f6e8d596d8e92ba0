// Logical time for the race detector. Happens-before by vector clocks (as FastTrack and
// ThreadSanitizer do): each thread counts its synchronisations; whoever synchronises with it learns
// how far it had come. Indices run over all threads of a cluster, then over its mbarriers, whose
// time is the number of phases completed.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

namespace rnc::emulator {

struct Block;
struct Fiber;
struct Warp;

// How far each agent had come; shared by those who learned it together. Agents beyond the end: 0.
struct VectorClock {
  uint32_t references = 0;
  std::vector<uint32_t> times;

  uint32_t at(uint32_t agent) const { return agent < times.size() ? times[agent] : 0; }
  void raise(uint32_t agent, uint32_t time) {
    if (agent >= times.size()) times.resize(agent + 1, 0);
    times[agent] = std::max(times[agent], time);
  }
  void join(const VectorClock& other);
};

// Counts references without atomics: the fibers of a cluster run on one OS thread.
class ClockRef {
 public:
  ClockRef() = default;
  explicit ClockRef(VectorClock* clock) : clock_(clock) { acquire(); }
  ClockRef(const ClockRef& other) : clock_(other.clock_) { acquire(); }
  ClockRef& operator=(const ClockRef& other);
  ~ClockRef() { release(); }

  const VectorClock* operator->() const { return clock_; }
  const VectorClock& operator*() const { return *clock_; }
  bool operator==(const ClockRef& other) const { return clock_ == other.clock_; }
  explicit operator bool() const { return clock_ != nullptr; }

 private:
  void acquire() {
    if (clock_ != nullptr) ++clock_->references;
  }
  void release() {
    if (clock_ != nullptr && --clock_->references == 0) delete clock_;
  }

  VectorClock* clock_ = nullptr;
};

// What is known about others' progress. `fenced` is what was known at a fence.proxy.async on the
// way here: accesses through the generic proxy up to there are ordered before those of the
// asynchronous proxy.
struct Knowledge {
  ClockRef known;
  ClockRef fenced;
};

struct ThreadClock : Knowledge {
  uint32_t own = 1;         // this thread's own component of `known`
  uint32_t own_fenced = 0;  // and of `fenced`
};

// The knowledge of several threads that meet, or arrive somewhere, put together.
class KnowledgeSum {
 public:
  void add(const Fiber& fiber);  // what it knows, and what it did itself up to here
  void add(const Knowledge& knowledge);
  void add_phase(uint32_t agent, uint32_t phases);  // of an mbarrier
  Knowledge take();                                 // and starts anew

 private:
  // A sum of clocks. Threads that met before share a clock: adding it again costs nothing.
  struct Sum {
    std::unique_ptr<VectorClock> clock;
    ClockRef last;

    VectorClock& add(const ClockRef& other);
    ClockRef take();
  };

  Sum known_;
  Sum fenced_;
};

// The moment from which on an access counts as done. For a thread's own access that is the thread's
// time; for an asynchronous operation it is a completion that somebody must wait for.
enum class EpochKind : uint8_t {
  kNone,
  kThread,
  kAtomic,      // by a thread, atomically
  kCopyGroup,   // a thread's group of cp.async copies
  kStoreGroup,  // a thread's group of bulk stores
  kPhase,       // the phase of an mbarrier that a TMA load signals
  kWgmmaGroup,  // a warpgroup's group of wgmma operations
};

class Epoch {
 public:
  constexpr Epoch() = default;
  constexpr Epoch(EpochKind kind, uint32_t agent, uint32_t time)
      : bits_(uint64_t{static_cast<uint8_t>(kind)} << 56 | uint64_t{agent} << 32 | time) {}

  constexpr EpochKind kind() const { return static_cast<EpochKind>(bits_ >> 56); }
  // A thread of the cluster (the first one of a warpgroup), or an mbarrier.
  constexpr uint32_t agent() const { return static_cast<uint32_t>(bits_ >> 32) & 0xFFFFFF; }
  constexpr uint32_t time() const { return static_cast<uint32_t>(bits_); }  // or group, or phase
  constexpr explicit operator bool() const { return bits_ != 0; }
  constexpr bool operator==(const Epoch&) const = default;

 private:
  uint64_t bits_ = 0;
};

// Whether an access is made through the generic proxy, so that the asynchronous proxy sees it only
// after a fence.
constexpr bool is_generic(EpochKind kind) {
  return kind == EpochKind::kThread || kind == EpochKind::kAtomic || kind == EpochKind::kCopyGroup;
}

Epoch epoch_of(const Fiber& fiber, EpochKind kind = EpochKind::kThread);
bool is_known(Epoch epoch, const Fiber& to);
bool is_fenced(Epoch epoch, const Fiber& to);

// The fiber goes on with what others know.
void learn(Fiber& fiber, const Knowledge& knowledge);

// Threads that meet learn all that any of them knows.
void join_lanes(Warp& warp, uint32_t lanes);
void join_block(Block& block);  // all threads that have not exited

}  // namespace rnc::emulator
