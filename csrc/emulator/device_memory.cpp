#include "emulator/device_memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

#include "emulator/emulator.h"
#include "emulator/errors.h"

namespace rnc::emulator {

namespace {

constexpr size_t kPageBytes = 4096;
constexpr size_t kGuardBytes = 256 * 1024;
constexpr size_t kAlignment = 256;  // as cudaMalloc
constexpr size_t kMarginBytes =
    256;  // watched on either side, where the body is larger than the allocation
constexpr size_t kCachedBytes = 256u << 20;  // freed mappings kept for reuse
constexpr int kPoison = 0xFF;                // NaN in every floating-point type

struct Table {
  std::mutex mutex;
  std::map<uint64_t, std::shared_ptr<Allocation>> live;  // by base
  std::map<size_t, std::vector<char*>> cache;            // freed mappings, by bytes of body
  size_t cached_bytes = 0;
};

Table& table() {  // never destroyed: kernels may run until the process ends
  static Table* const instance = new Table;
  return *instance;
}

// Whole pages, in steps of an eighth to a quarter of the size, so that freed mappings fit again.
size_t body_bytes_for(size_t bytes) {
  const size_t pages = std::max<size_t>(1, (bytes + kPageBytes - 1) / kPageBytes);
  const size_t step = std::bit_ceil(pages) / 8;
  return (step > 1 ? (pages + step - 1) / step * step : pages) * kPageBytes;
}

char* map_body(size_t body_bytes) {
  void* map = mmap(nullptr, body_bytes + 2 * kGuardBytes, PROT_NONE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (map == MAP_FAILED) return nullptr;
  char* const start = static_cast<char*>(map);
  if (mprotect(start + kGuardBytes, body_bytes, PROT_READ | PROT_WRITE) != 0) {
    munmap(map, body_bytes + 2 * kGuardBytes);
    return nullptr;
  }
  return start;
}

// A freed mapping of this size, or a new one; nullptr if there is no memory.
char* take_body(size_t body_bytes) {
  Table& memory = table();
  {
    const std::lock_guard<std::mutex> lock(memory.mutex);
    std::vector<char*>& cached = memory.cache[body_bytes];
    if (!cached.empty()) {
      char* const map = cached.back();
      cached.pop_back();
      memory.cached_bytes -= body_bytes;
      return map;
    }
  }
  return map_body(body_bytes);
}

// The watched bytes before and after the allocation, inside its body.
struct Margins {
  explicit Margins(const Allocation& allocation) {
    char* const body = allocation.map + kGuardBytes;
    char* const base = reinterpret_cast<char*>(allocation.base);
    before = base - std::min<size_t>(kMarginBytes, static_cast<size_t>(base - body));
    before_bytes = static_cast<size_t>(base - before);
    after = base + allocation.bytes;
    after_bytes = static_cast<size_t>(body + allocation.body_bytes - after);
  }
  char* before;
  size_t before_bytes;
  char* after;
  size_t after_bytes;
};

// Offset of the first byte that is not poison, or `bytes`.
size_t find_overwritten(const char* margin, size_t bytes) {
  if (bytes == 0) return 0;
  const bool first_intact = static_cast<unsigned char>(margin[0]) == kPoison;
  if (first_intact && std::memcmp(margin, margin + 1, bytes - 1) == 0) return bytes;
  size_t i = 0;
  while (i < bytes && static_cast<unsigned char>(margin[i]) == kPoison) ++i;
  return i;
}

}  // namespace

void* device_malloc(uint64_t bytes, uint32_t misalignment, const char* name, int32_t initialised) {
  misalignment %= kAlignment;
  auto allocation = std::make_shared<Allocation>();
  allocation->body_bytes = body_bytes_for(bytes + misalignment);
  allocation->map = take_body(allocation->body_bytes);
  if (allocation->map == nullptr) return nullptr;
  // The end lies as close to the guard page as the alignment allows.
  char* const end = allocation->map + kGuardBytes + allocation->body_bytes;
  char* const base =
      end - (bytes + misalignment + kAlignment - 1) / kAlignment * kAlignment + misalignment;
  allocation->base = reinterpret_cast<uint64_t>(base);
  allocation->bytes = bytes;
  allocation->name = name != nullptr ? name : "";
  allocation->track_writes = initialised == 0;
  const Margins margins(*allocation);
  std::memset(margins.before, kPoison, margins.before_bytes);
  std::memset(margins.after, kPoison, margins.after_bytes);
  if (initialised == 0) std::memset(base, kPoison, bytes);
  Table& memory = table();
  const std::lock_guard<std::mutex> lock(memory.mutex);
  memory.live.emplace(reinterpret_cast<uint64_t>(base), std::move(allocation));
  return base;
}

void device_free(void* pointer) {
  if (pointer == nullptr) return;
  Table& memory = table();
  const std::lock_guard<std::mutex> lock(memory.mutex);
  const auto found = memory.live.find(reinterpret_cast<uint64_t>(pointer));
  if (found == memory.live.end()) {
    std::fprintf(stderr,
                 "resnet_cuda emulator: device_free of %p, which device_malloc did not return\n",
                 pointer);
    std::abort();
  }
  const Allocation& allocation = *found->second;
  if (memory.cached_bytes + allocation.body_bytes <= kCachedBytes) {
    memory.cache[allocation.body_bytes].push_back(allocation.map);
    memory.cached_bytes += allocation.body_bytes;
  } else {
    munmap(allocation.map, allocation.body_bytes + 2 * kGuardBytes);
  }
  memory.live.erase(found);
}

std::vector<std::shared_ptr<Allocation>> live_allocations() {
  Table& memory = table();
  const std::lock_guard<std::mutex> lock(memory.mutex);
  std::vector<std::shared_ptr<Allocation>> out;
  out.reserve(memory.live.size());
  for (const auto& [base, allocation] : memory.live) out.push_back(allocation);
  return out;
}

void stop_tracking_writes() {
  Table& memory = table();
  const std::lock_guard<std::mutex> lock(memory.mutex);
  for (const auto& [base, allocation] : memory.live) allocation->track_writes = false;
}

std::string describe_address(const void* address) {
  const auto* const byte = static_cast<const char*>(address);
  for (const auto& allocation : live_allocations()) {
    const char* const end = allocation->map + allocation->body_bytes + 2 * kGuardBytes;
    if (byte < allocation->map || byte >= end) continue;
    const auto offset = static_cast<long long>(reinterpret_cast<uint64_t>(byte) - allocation->base);
    return format("offset %lld of '%s' (%zu bytes)", offset, allocation->name.c_str(),
                  allocation->bytes);
  }
  return format("address %p, which is not device memory", address);
}

std::string find_overwritten_margin() {
  Table& memory = table();
  const std::lock_guard<std::mutex> lock(memory.mutex);
  std::string text;
  for (const auto& [base, allocation] : memory.live) {
    const Margins margins(*allocation);
    const size_t before = find_overwritten(margins.before, margins.before_bytes);
    const size_t after = find_overwritten(margins.after, margins.after_bytes);
    if (before == margins.before_bytes && after == margins.after_bytes) continue;
    const long long offset =
        after < margins.after_bytes
            ? static_cast<long long>(allocation->bytes + after)
            : static_cast<long long>(before) - static_cast<long long>(margins.before_bytes);
    text = format("global write at offset %lld of '%s' (%zu bytes) is out of bounds", offset,
                  allocation->name.c_str(), allocation->bytes);
    std::memset(margins.before, kPoison, margins.before_bytes);
    std::memset(margins.after, kPoison, margins.after_bytes);
  }
  return text;
}

void lock_device_memory() { table().mutex.lock(); }
void unlock_device_memory() { table().mutex.unlock(); }

}  // namespace rnc::emulator
