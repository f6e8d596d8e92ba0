#include "emulator/context_switch.h"

#include <sys/ucontext.h>

namespace rnc::emulator {

#if RNC_EMULATOR_USES_UCONTEXT

void Context::start(char* stack, size_t bytes, void (*entry)()) {
  getcontext(&state_);
  state_.uc_stack.ss_sp = stack;
  state_.uc_stack.ss_size = bytes;
  state_.uc_link = nullptr;
  makecontext(&state_, entry, 0);
}

void Context::switch_to(Context& from, Context& to) { swapcontext(&from.state_, &to.state_); }

#else

// rnc_emulator_switch(void** save, void* load): the callee-saved registers live on the stack that
// is left.
extern "C" __attribute__((visibility("hidden"))) void rnc_emulator_switch(void** save, void* load);
asm(R"(
.text
.hidden rnc_emulator_switch
.globl rnc_emulator_switch
.type rnc_emulator_switch,@function
rnc_emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size rnc_emulator_switch,.-rnc_emulator_switch
)");

void Context::start(char* stack, size_t bytes, void (*entry)()) {
  constexpr int kSavedRegisters = 6;
  auto* top =
      reinterpret_cast<uintptr_t*>(reinterpret_cast<uintptr_t>(stack + bytes) & ~uintptr_t{63});
  *--top =
      0;  // where a caller's return address would be; keeps the stack aligned as the ABI wants it
  *--top = reinterpret_cast<uintptr_t>(entry);
  for (int i = 0; i < kSavedRegisters; ++i) *--top = 0;
  stack_pointer_ = top;
}

void Context::switch_to(Context& from, Context& to) {
  rnc_emulator_switch(&from.stack_pointer_, to.stack_pointer_);
}

#endif

Interrupted interrupted_by_fault(void* signal_context) {
  Interrupted out;
  const auto* context = static_cast<const ucontext_t*>(signal_context);
#if defined(__x86_64__) && defined(__linux__)
  constexpr unsigned long long kPageFaultWasWrite = 2;
  out.instruction = reinterpret_cast<const void*>(context->uc_mcontext.gregs[REG_RIP]);
  out.write_known = true;
  out.write = (static_cast<unsigned long long>(context->uc_mcontext.gregs[REG_ERR]) &
               kPageFaultWasWrite) != 0;
#elif defined(__aarch64__) && defined(__linux__)
  out.instruction = reinterpret_cast<const void*>(context->uc_mcontext.pc);
#else
  (void)context;
#endif
  return out;
}

}  // namespace rnc::emulator
