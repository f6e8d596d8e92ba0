// A kernel that hits a guard page ends its launch with a message, not the process.
#pragma once

#include <signal.h>

#include <memory>

namespace rnc::emulator {

// While it lives, faults of emulated threads become launch errors. All others go to the handler
// that was there before, which comes back at the end. One at a time: launches are serialised.
class FaultHandler {
 public:
  FaultHandler();
  ~FaultHandler();
  FaultHandler(const FaultHandler&) = delete;
  FaultHandler& operator=(const FaultHandler&) = delete;
};

// A signal stack for the calling OS thread: the fault may be that a fiber's own stack is full.
class AlternateStack {
 public:
  AlternateStack();
  ~AlternateStack();
  AlternateStack(const AlternateStack&) = delete;
  AlternateStack& operator=(const AlternateStack&) = delete;

 private:
  std::unique_ptr<char[]> memory_;
  stack_t previous_{};
};

}  // namespace rnc::emulator
