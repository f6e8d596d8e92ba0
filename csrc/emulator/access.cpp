#include "emulator/access.h"

#include <link.h>

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "emulator/block.h"
#include "emulator/cluster_access.h"
#include "emulator/fiber.h"

namespace rnc::emulator {

bool observing = false;

namespace {

struct AddressRange {
  uint64_t begin;
  uint64_t end;
};

// Constants and literals of the loaded modules.
bool is_static_data(uint64_t address) {
  static const std::vector<AddressRange>* const ranges = [] {
    auto* const found = new std::vector<AddressRange>;
    dl_iterate_phdr(
        [](dl_phdr_info* info, size_t, void* out) {
          for (int i = 0; i < info->dlpi_phnum; ++i) {
            if (info->dlpi_phdr[i].p_type != PT_LOAD) continue;
            const uint64_t begin = info->dlpi_addr + info->dlpi_phdr[i].p_vaddr;
            static_cast<std::vector<AddressRange>*>(out)->push_back(
                {begin, begin + info->dlpi_phdr[i].p_memsz});
          }
          return 0;
        },
        found);
    return found;
  }();
  for (const AddressRange& range : *ranges) {
    if (address >= range.begin && address < range.end) return true;
  }
  return false;
}

template <class T>
bool is_inside(uint64_t address, const T* object, size_t count = 1) {
  return address - reinterpret_cast<uint64_t>(object) < count * sizeof(T);
}

// What a kernel may read besides device memory: threadIdx & co, and its params.
bool is_launch_state(const Worker& worker, uint64_t address) {
  const LaunchRequest& request = worker.launch->request;
  return is_inside(address, &current) ||
         is_inside(address, worker.fibers.data(), worker.fibers.size()) ||
         is_inside(address, &worker) || is_inside(address, worker.launch) ||
         is_inside(address, static_cast<const char*>(request.params), request.params_bytes);
}

// Reports stay out of the hot functions: building their strings costs registers even when nothing
// is built.
[[noreturn, gnu::cold, gnu::noinline]] void fail_outside_shared(const Launch& launch,
                                                                uint64_t offset, size_t bytes,
                                                                Access kind, const void* pc) {
  fail(format("shared %s of %zu bytes at offset %lld is outside the block's %zu bytes",
              kind == Access::kRead ? "read" : "write", bytes, static_cast<long long>(offset),
              launch.request.shared_bytes) +
       location(pc));
}

[[gnu::noinline]] void count_shared(Fiber* fiber, uint64_t offset, size_t bytes, Access kind,
                                    const void* pc) {
  AccessLog& log = fiber->warp->accesses;
  if (kind != Access::kWrite) log.add(Space::kSharedLoad, fiber->lane, offset, bytes, pc);
  if (kind != Access::kRead) log.add(Space::kSharedStore, fiber->lane, offset, bytes, pc);
}

void observe_shared(Fiber* fiber, Worker& worker, uint64_t address, size_t bytes, Access kind,
                    const void* pc) {
  const Launch& launch = *worker.launch;
  const size_t available = launch.request.shared_bytes;
  Block& block = window_at(worker, fiber, address);
  const uint64_t offset = address - reinterpret_cast<uint64_t>(block.shared);
  if (offset > available || bytes > available - offset) {
    fail_outside_shared(launch, offset, bytes, kind, pc);
  }
  if (&block != fiber->block) visit_block(fiber, block, pc);  // a generic pointer
  if (launch.check_shared) block.shadow.access(fiber, offset, bytes, kind, pc);
  if (launch.options.count != 0) count_shared(fiber, offset, bytes, kind, pc);
}

[[gnu::noinline]] void observe_elsewhere(Fiber* fiber, Worker& worker, uint64_t address,
                                         size_t bytes, Access kind, const void* pc) {
  Launch& launch = *worker.launch;
  if (!launch.memory.contains(fiber, address)) {
    if (is_inside(address, worker.stacks, worker.stack_count * kStackBytes)) {
      report(fiber, "access to a local variable of another thread" + location(pc));
      return;
    }
    if (kind == Access::kRead && (is_launch_state(worker, address) || is_static_data(address))) {
      return;
    }
  }
  launch.memory.access(fiber, address, bytes, kind, pc);
}

uint64_t apply(AtomicOp op, uint64_t old, uint64_t operand, uint64_t compare) {
  const auto signed_old = static_cast<int64_t>(old);
  const auto signed_operand = static_cast<int64_t>(operand);
  switch (op) {
    case AtomicOp::kAdd:
      return old + operand;
    case AtomicOp::kMin:
      return old < operand ? old : operand;
    case AtomicOp::kMax:
      return old > operand ? old : operand;
    case AtomicOp::kMinSigned:
      return signed_old < signed_operand ? old : operand;
    case AtomicOp::kMaxSigned:
      return signed_old > signed_operand ? old : operand;
    case AtomicOp::kAnd:
      return old & operand;
    case AtomicOp::kOr:
      return old | operand;
    case AtomicOp::kXor:
      return old ^ operand;
    case AtomicOp::kExchange:
      return operand;
    case AtomicOp::kCompareAndSwap:
      return old == compare ? operand : old;
  }
  return old;
}

// Blocks run on several OS threads, so atomics in global memory are real ones. T is the type as
// CUDA sees it: int sign-extends.
template <class T>
uint64_t update(AtomicOp op, void* address, uint64_t operand, uint64_t compare) {
  const std::atomic_ref<T> value(*static_cast<T*>(address));
  T old = value.load(std::memory_order_relaxed);
  while (!value.compare_exchange_weak(
      old, static_cast<T>(apply(op, static_cast<uint64_t>(old), operand, compare)),
      std::memory_order_relaxed)) {
  }
  return static_cast<uint64_t>(old);
}

}  // namespace

void observe(const void* pointer, size_t bytes, Access kind, const void* pc) {
  if (current == nullptr || !observing) return;
  Fiber* const fiber = self();
  Worker& worker = worker_of(fiber);
  const auto address = reinterpret_cast<uint64_t>(pointer);
  if (near_shared_memory(worker, address)) {
    observe_shared(fiber, worker, address, bytes, kind, pc);
    return;
  }
  // The thread's own stack, its threadIdx & co.
  if (is_inside(address, fiber->stack, kStackBytes) || is_inside(address, &current) ||
      is_inside(address, fiber)) {
    return;
  }
  observe_elsewhere(fiber, worker, address, bytes, kind, pc);
}

void observe_async(Fiber* issuer, Block& block, size_t offset, size_t bytes, Access kind,
                   Proxy proxy, Epoch completion, const void* pc) {
  const Launch& launch = launch_of(issuer);
  if (launch.check_shared) {
    block.shadow.async_access(issuer, offset, bytes, kind, proxy, completion, pc);
  }
  if (launch.options.count != 0) count_shared(issuer, offset, bytes, kind, pc);
}

void load_global(void* value, const void* address, size_t bytes) {
  observe(address, bytes, Access::kRead, __builtin_return_address(0));
  std::memcpy(value, address, bytes);
}

void store_global(void* address, const void* value, size_t bytes) {
  observe(address, bytes, Access::kWrite, __builtin_return_address(0));
  std::memcpy(address, value, bytes);
}

// Moves nothing here. What lies outside of every tensor faults, as it would be found by an access.
void prefetch_l2(const void* address, uint32_t bytes) {
  if (reinterpret_cast<uint64_t>(address) % 16 != 0 || bytes % 16 != 0 || bytes == 0) {
    fail(format("prefetch of %u bytes at %p; a multiple of 16 bytes at a multiple of 16", bytes,
                address) +
         location(__builtin_return_address(0)));
  }
  const auto* first = static_cast<const volatile char*>(address);
  static_cast<void>(first[0]);
  static_cast<void>(first[bytes - 1]);
}

uint64_t atomic(AtomicOp op, void* address, size_t bytes, uint64_t operand, uint64_t compare) {
  observe(address, bytes, Access::kAtomic, __builtin_return_address(0));
  if (reinterpret_cast<uint64_t>(address) % bytes != 0) {
    fail(format("misaligned atomic of %zu bytes at address %p", bytes, address) +
         location(__builtin_return_address(0)));
  }
  if (bytes == 8) return update<uint64_t>(op, address, operand, compare);
  const bool is_signed = op == AtomicOp::kMinSigned || op == AtomicOp::kMaxSigned;
  if (is_signed) return update<int32_t>(op, address, operand, compare);
  return update<uint32_t>(op, address, static_cast<uint32_t>(operand),
                          static_cast<uint32_t>(compare));
}

}  // namespace rnc::emulator
