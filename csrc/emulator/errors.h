// Error messages of a launch: where they are collected and how they name kernel, block, thread and
// instruction.
#pragma once

#include <mutex>
#include <string>

#include "common/dim3.h"

namespace rnc::emulator {

struct Fiber;

// The messages of one launch, written by several workers.
class ErrorLog {
 public:
  explicit ErrorLog(int max_errors) : max_errors_(max_errors < 1 ? 1 : max_errors) {}

  void add(const std::string& message);  // dropped once the log is full
  bool full() const;
  std::string text() const;  // one message per line; empty when all went well

 private:
  const int max_errors_;
  mutable std::mutex mutex_;
  int count_ = 0;
  std::string text_;
};

std::string format(const char* pattern, ...) __attribute__((format(printf, 1, 2)));
std::string name_of(const Dim3& index);  // "(1,0,0)"
std::string where(const Fiber* fiber);   // "conv_fprop: block (0,0,0) thread (3,0,0)"
// " (at librnc_emulated.so+0x1234)", for addr2line: the call that returns to `address`.
std::string location(const void* address);

// Adds "<where>: <message>" to the launch's log. The kernel goes on, unless the log is full.
void report(const Fiber* fiber, const std::string& message);

// The same about the current fiber, for faults after which its block cannot go on: abandons the
// block and the launch.
[[noreturn]] void fail(const std::string& message);

// Leaves the fibers of the current block for good and returns to the worker. Nothing on their
// stacks is destroyed: whatever strings the message was made of are leaked.
[[noreturn]] void abandon_block();

}  // namespace rnc::emulator
