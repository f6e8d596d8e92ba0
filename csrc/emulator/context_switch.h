// Switching between stacks: twelve instructions on x86-64, ucontext elsewhere. The only file that
// knows the processor, with its .cpp.
#pragma once

#include <cstddef>
#include <cstdint>

#if !defined(__x86_64__) || defined(RNC_EMULATOR_UCONTEXT)
#define RNC_EMULATOR_USES_UCONTEXT 1
#include <ucontext.h>
#else
#define RNC_EMULATOR_USES_UCONTEXT 0
#endif

namespace rnc::emulator {

// A suspended flow of control.
class Context {
 public:
  // The next switch to this context calls `entry`, which must never return, on the given stack.
  void start(char* stack, size_t bytes, void (*entry)());

  // Suspends the caller in `from` and continues `to`.
  static void switch_to(Context& from, Context& to);

 private:
#if RNC_EMULATOR_USES_UCONTEXT
  ucontext_t state_;
#else
  void* stack_pointer_ = nullptr;
#endif
};

// What a signal handler's third argument says about the interrupted instruction.
struct Interrupted {
  const void* instruction = nullptr;  // null where it is not known
  bool write_known = false;
  bool write = false;
};
Interrupted interrupted_by_fault(void* signal_context);

}  // namespace rnc::emulator
