#include "emulator/clock.h"

#include "emulator/fiber.h"
#include "emulator/warp.h"

namespace rnc::emulator {

namespace {

// Whether `to` knows (or has fenced) that the thread `agent` came as far as `time`.
struct Known {
  const Fiber& to;
  bool operator()(uint32_t agent, uint32_t time) const {
    return agent == to.agent || time <= to.clock.known->at(agent);
  }
};
struct Fenced {
  const Fiber& to;
  bool operator()(uint32_t agent, uint32_t time) const {
    return time <= (agent == to.agent ? to.clock.own_fenced : to.clock.fenced->at(agent));
  }
};

// A group counts as done at the moment its issuer had waited for it.
template <class Reached>
bool reached_group(GroupKind kind, uint32_t agent, uint32_t group, const Fiber& to,
                   const Reached& reached) {
  const Fiber& issuer = to.block->cluster->fibers[agent];
  const uint32_t time = issuer.groups[static_cast<int>(kind)].completed_at(group);
  return time != 0 && reached(agent, time);
}

template <class Reached>
bool has_reached(Epoch epoch, const Fiber& to, const Reached& reached) {
  const uint32_t agent = epoch.agent(), time = epoch.time();
  switch (epoch.kind()) {
    case EpochKind::kNone:
      return true;
    case EpochKind::kThread:
    case EpochKind::kAtomic:
      return reached(agent, time);
    case EpochKind::kCopyGroup:
      return reached_group(GroupKind::kCopy, agent, time, to, reached);
    case EpochKind::kStoreGroup:
      return reached_group(GroupKind::kStore, agent, time, to, reached);
    case EpochKind::kPhase:
      return time < to.clock.known->at(agent);
    case EpochKind::kWgmmaGroup:
      // Each warp waits for its own part; that wait joins the warp's lanes, so one speaks for all.
      for (uint32_t warp = 0; warp < kWarpsPerWarpgroup; ++warp) {
        if (!reached_group(GroupKind::kWgmma, agent + warp * kWarpSize, time, to, reached)) {
          return false;
        }
      }
      return true;
  }
  return true;
}

bool covers(const VectorClock& clock, const VectorClock& other) {
  if (clock.times.size() < other.times.size()) return false;
  for (size_t i = 0; i < other.times.size(); ++i) {
    if (clock.times[i] < other.times[i]) return false;
  }
  return true;
}

ClockRef join(const ClockRef& own, const ClockRef& other) {
  if (own == other || covers(*own, *other)) return own;
  if (covers(*other, *own)) return other;
  auto* joined = new VectorClock{0, own->times};
  joined->join(*other);
  return ClockRef(joined);
}

// What a participant of a meeting knows afterwards.
void assign(Fiber& fiber, const Knowledge& all) {
  static_cast<Knowledge&>(fiber.clock) = all;
  ++fiber.clock.own;
}

}  // namespace

void VectorClock::join(const VectorClock& other) {
  if (times.size() < other.times.size()) times.resize(other.times.size(), 0);
  for (size_t i = 0; i < other.times.size(); ++i) times[i] = std::max(times[i], other.times[i]);
}

ClockRef& ClockRef::operator=(const ClockRef& other) {
  if (clock_ == other.clock_) return *this;
  release();
  clock_ = other.clock_;
  acquire();
  return *this;
}

VectorClock& KnowledgeSum::Sum::add(const ClockRef& other) {
  if (clock == nullptr) {
    clock = std::make_unique<VectorClock>(VectorClock{0, other->times});
  } else if (!(last == other)) {
    clock->join(*other);
  }
  last = other;
  return *clock;
}

ClockRef KnowledgeSum::Sum::take() {
  last = ClockRef();
  return ClockRef(clock != nullptr ? clock.release() : new VectorClock);
}

void KnowledgeSum::add(const Fiber& fiber) {
  known_.add(fiber.clock.known).raise(fiber.agent, fiber.clock.own);
  VectorClock& fenced = fenced_.add(fiber.clock.fenced);
  if (fiber.clock.own_fenced != 0) fenced.raise(fiber.agent, fiber.clock.own_fenced);
}

void KnowledgeSum::add(const Knowledge& knowledge) {
  known_.add(knowledge.known);
  fenced_.add(knowledge.fenced);
}

void KnowledgeSum::add_phase(uint32_t agent, uint32_t phases) {
  if (known_.clock == nullptr) known_.clock = std::make_unique<VectorClock>();
  known_.clock->raise(agent, phases);
}

Knowledge KnowledgeSum::take() { return {known_.take(), fenced_.take()}; }

Epoch epoch_of(const Fiber& fiber, EpochKind kind) {
  return Epoch(kind, fiber.agent, fiber.clock.own);
}

bool is_known(Epoch epoch, const Fiber& to) { return has_reached(epoch, to, Known{to}); }

bool is_fenced(Epoch epoch, const Fiber& to) { return has_reached(epoch, to, Fenced{to}); }

void learn(Fiber& fiber, const Knowledge& knowledge) {
  fiber.clock.known = join(fiber.clock.known, knowledge.known);
  fiber.clock.fenced = join(fiber.clock.fenced, knowledge.fenced);
}

void join_lanes(Warp& warp, uint32_t lanes) {
  KnowledgeSum sum;
  for_each_lane(lanes, [&](uint32_t lane) { sum.add(warp.fibers[lane]); });
  const Knowledge all = sum.take();
  for_each_lane(lanes, [&](uint32_t lane) { assign(warp.fibers[lane], all); });
}

void join_block(Block& block) {
  KnowledgeSum sum;
  const uint32_t threads = block.worker->launch->threads;
  for (uint32_t i = 0; i < threads; ++i) {
    if (is_live(block.fibers[i])) sum.add(block.fibers[i]);
  }
  const Knowledge all = sum.take();
  for (uint32_t i = 0; i < threads; ++i) {
    if (is_live(block.fibers[i])) assign(block.fibers[i], all);
  }
}

}  // namespace rnc::emulator
