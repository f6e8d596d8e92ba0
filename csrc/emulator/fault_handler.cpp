#include "emulator/fault_handler.h"

#include <cstddef>
#include <cstdint>
#include <string>

#include "emulator/block.h"
#include "emulator/context_switch.h"
#include "emulator/device_memory.h"
#include "emulator/fiber.h"

namespace rnc::emulator {

namespace {

constexpr size_t kSignalStackBytes = 64 * 1024;

struct sigaction previous_action;

std::string describe_fault(Fiber* fiber, const void* address, const Interrupted& interrupted) {
  Worker& worker = worker_of(fiber);
  const auto value = reinterpret_cast<uint64_t>(address);
  const char* const verb = !interrupted.write_known ? "access"
                           : interrupted.write      ? "write"
                                                    : "read";
  if (value - reinterpret_cast<uint64_t>(fiber->stack) < kPageBytes) {
    return format("the thread's %zu bytes of local memory are full", kStackBytes - kPageBytes);
  }
  if (near_shared_memory(worker, value)) {
    return format("shared %s at offset %lld is outside the block's %zu bytes", verb,
                  static_cast<long long>(
                      value - reinterpret_cast<uint64_t>(window_at(worker, fiber, value).shared)),
                  worker.launch->request.shared_bytes);
  }
  return std::string("global ") + verb + " at " + describe_address(address) + " is out of bounds";
}

// The fault is synchronous and in kernel code, which holds no lock: the handler may allocate, and
// may leave the fiber for good instead of returning.
void on_fault(int signal, siginfo_t* info, void* context) {
  if (current == nullptr) {
    sigaction(signal, &previous_action, nullptr);  // the instruction is repeated and faults again
    return;
  }
  const Interrupted interrupted = interrupted_by_fault(context);
  // location() takes return addresses, which lie behind what they stand for.
  const auto* const instruction = static_cast<const char*>(interrupted.instruction);
  fail(describe_fault(self(), info->si_addr, interrupted) +
       location(instruction != nullptr ? instruction + 1 : nullptr));
}

}  // namespace

FaultHandler::FaultHandler() {
  struct sigaction action{};
  action.sa_sigaction = on_fault;
  action.sa_flags =
      SA_SIGINFO | SA_ONSTACK | SA_NODEFER;  // not deferred: the handler does not return
  sigaction(SIGSEGV, &action, &previous_action);
}

FaultHandler::~FaultHandler() { sigaction(SIGSEGV, &previous_action, nullptr); }

AlternateStack::AlternateStack() : memory_(new char[kSignalStackBytes]) {
  stack_t stack{};
  stack.ss_sp = memory_.get();
  stack.ss_size = kSignalStackBytes;
  sigaltstack(&stack, &previous_);
}

AlternateStack::~AlternateStack() { sigaltstack(&previous_, nullptr); }

}  // namespace rnc::emulator
