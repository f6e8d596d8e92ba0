#include "emulator/errors.h"

#include <dlfcn.h>

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "emulator/device_memory.h"
#include "emulator/fiber.h"

namespace rnc::emulator {

void ErrorLog::add(const std::string& message) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (count_++ >= max_errors_) return;
  if (!text_.empty()) text_ += '\n';
  text_ += message;
}

bool ErrorLog::full() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return count_ >= max_errors_;
}

std::string ErrorLog::text() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return text_;
}

std::string format(const char* pattern, ...) {
  char text[1024];
  va_list arguments;
  va_start(arguments, pattern);
  std::vsnprintf(text, sizeof text, pattern, arguments);
  va_end(arguments);
  return text;
}

std::string name_of(const Dim3& index) { return format("(%u,%u,%u)", index.x, index.y, index.z); }

std::string where(const Fiber* fiber) {
  return std::string(launch_of(fiber).request.name) + ": block " + name_of(*fiber->block_idx) +
         " thread " + name_of(fiber->thread_idx);
}

std::string location(const void* address) {
  Dl_info info;
  if (address == nullptr || dladdr(address, &info) == 0 || info.dli_fname == nullptr) return "";
  const char* slash = std::strrchr(info.dli_fname, '/');
  // Inside the call, whose line may differ from that of the instruction after it.
  const auto offset =
      static_cast<const char*>(address) - 1 - static_cast<const char*>(info.dli_fbase);
  return format(" (at %s+0x%zx)", slash != nullptr ? slash + 1 : info.dli_fname,
                static_cast<size_t>(offset));
}

void report(const Fiber* fiber, const std::string& message) {
  ErrorLog& errors = launch_of(fiber).errors;
  errors.add(where(fiber) + ": " + message);
  if (errors.full()) abandon_block();
}

void fail(const std::string& message) {
  launch_of(self()).errors.add(where(self()) + ": " + message);
  abandon_block();
}

void abandon_block() {
  Fiber* fiber = self();
  Worker& worker = worker_of(fiber);
  worker.launch->aborted = true;
  Context::switch_to(fiber->context, worker.main);
  std::abort();  // an abandoned fiber is never continued
}

void misaligned_access(const void* address, size_t bytes, bool write) {
  fail(format("misaligned global %s of %zu bytes at ", write ? "write" : "read", bytes) +
       describe_address(address) + location(__builtin_return_address(0)));
}

void trap(const char* what) { fail(what); }

}  // namespace rnc::emulator
