// The commit groups in which a thread collects asynchronous operations and waits for them. This is
// the program's own account, independent of when the emulator really moves the data.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace rnc::emulator {

enum class GroupKind : uint8_t { kCopy, kStore, kWgmma };
inline constexpr int kGroupKinds = 3;

class CommitGroups {
 public:
  void clear() {
    open_ = used_ = complete_ = 0;
    waits_.clear();
  }

  // An operation joins the open group; its number is what epochs name.
  uint32_t add() {
    used_ = open_ + 1;
    return open_;
  }
  void commit() { ++open_; }

  // Waits until at most `newest_left` committed groups are incomplete. Returns the number of
  // complete groups: those before it are. `now` is the thread's own time.
  uint32_t wait(uint32_t newest_left, uint32_t now) {
    const uint32_t complete = open_ > newest_left ? open_ - newest_left : 0;
    if (complete <= complete_) return complete_;
    complete_ = complete;
    if (!waits_.empty() && waits_.back().time == now) {
      waits_.back().complete = complete;
    } else {
      waits_.push_back({complete, now});
    }
    return complete_;
  }

  uint32_t open() const { return open_; }          // the number of the open group
  uint32_t used() const { return used_; }          // 1 + the newest group with an operation
  uint32_t complete() const { return complete_; }  // groups that were waited for
  bool outstanding() const { return used_ > complete_; }

  // The thread's own time when it had waited for the group; 0: it has not yet.
  uint32_t completed_at(uint32_t group) const {
    const auto wait = std::upper_bound(waits_.begin(), waits_.end(), group,
                                       [](uint32_t g, const Wait& w) { return g < w.complete; });
    return wait == waits_.end() ? 0 : wait->time;
  }

 private:
  struct Wait {
    uint32_t complete;
    uint32_t time;
  };

  uint32_t open_ = 0;
  uint32_t used_ = 0;  // 1 + the newest group with an operation
  uint32_t complete_ = 0;
  std::vector<Wait> waits_;
};

}  // namespace rnc::emulator
