#include "emulator/launch_memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <new>
#include <string>

#include "emulator/fiber.h"
#include "emulator/grid.h"

namespace rnc::emulator {

namespace {

constexpr size_t kBitsPerWord = 64;
constexpr size_t kMappedBytes = 64 * 1024;  // smaller arrays are quicker to clear than to map

size_t words_for(size_t bytes) { return (bytes + kBitsPerWord - 1) / kBitsPerWord; }

// Calls visit(word index, mask) for the bits [begin, begin + count).
template <class Visit>
void for_each_word(size_t begin, size_t count, Visit&& visit) {
  while (count > 0) {
    const size_t shift = begin % kBitsPerWord;
    const size_t here = std::min(count, kBitsPerWord - shift);
    const uint64_t mask = (here == kBitsPerWord ? ~uint64_t{0} : (uint64_t{1} << here) - 1)
                          << shift;
    visit(begin / kBitsPerWord, mask);
    begin += here;
    count -= here;
  }
}

void set_bits(uint64_t* bits, size_t begin, size_t count) {
  for_each_word(begin, count, [bits](size_t word, uint64_t mask) {
    const std::atomic_ref<uint64_t> value(bits[word]);
    if ((value.load(std::memory_order_relaxed) & mask) != mask) {
      value.fetch_or(mask, std::memory_order_relaxed);
    }
  });
}

// The first clear bit of [begin, begin + count), or begin + count.
size_t find_clear_bit(uint64_t* bits, size_t begin, size_t count) {
  size_t found = begin + count;
  for_each_word(begin, count, [&](size_t word, uint64_t mask) {
    const uint64_t clear =
        ~std::atomic_ref<uint64_t>(bits[word]).load(std::memory_order_relaxed) & mask;
    if (clear != 0) {
      found = std::min(found, word * kBitsPerWord + static_cast<size_t>(std::countr_zero(clear)));
    }
  });
  return found;
}

uint64_t count_bits(const uint64_t* bits, size_t bytes) {
  uint64_t sum = 0;
  for (size_t i = 0; i < words_for(bytes); ++i)
    sum += static_cast<uint64_t>(std::popcount(bits[i]));
  return sum;
}

const char* verb(Access kind) {
  return kind == Access::kRead ? "read" : kind == Access::kWrite ? "write" : "atomic";
}

[[gnu::cold, gnu::noinline]] void report_early(const Fiber* fiber, uint64_t address, size_t bytes,
                                               Access kind, const void* pc) {
  report(fiber, format("global %s of %zu bytes at ", verb(kind), bytes) +
                    describe_address(reinterpret_cast<const void*>(address)) +
                    " before grid_dependency_wait, in a launch that may start early: the launches "
                    "before it may not be done with it" +
                    location(pc));
}

}  // namespace

void* map_zeroed(size_t bytes) {
  void* const memory = bytes < kMappedBytes
                           ? std::calloc(std::max<size_t>(bytes, 1), 1)
                           : mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == nullptr || memory == MAP_FAILED) throw std::bad_alloc();
  return memory;
}

void unmap_zeroed(void* memory, size_t bytes) {
  if (bytes < kMappedBytes) {
    std::free(memory);
  } else {
    munmap(memory, bytes);
  }
}

LaunchMemory::LaunchMemory(const Options& options, bool check_writes, uint64_t blocks)
    : check_(options.check != 0), count_(options.count != 0) {
  if (!check_writes) stop_tracking_writes();
  if (!check_ && !count_) return;
  for (std::shared_ptr<Allocation>& allocation : live_allocations()) {
    if (allocation->track_writes && allocation->written.empty()) {
      allocation->written.resize(words_for(allocation->bytes));
    }
    Region region{};
    region.base = allocation->base;
    region.bytes = allocation->bytes;
    region.written = allocation->track_writes ? allocation->written.data() : nullptr;
    if (count_) {
      region.loaded = ZeroedArray<uint64_t>(words_for(region.bytes));
      region.stored = ZeroedArray<uint64_t>(words_for(region.bytes));
    }
    if (check_ && blocks > 1) region.writer = ZeroedArray<uint32_t>(region.bytes);
    region.allocation = std::move(allocation);
    regions_.push_back(std::move(region));
  }
}

const LaunchMemory::Region* LaunchMemory::find(Fiber* fiber, uint64_t address) const {
  size_t& hint = worker_of(fiber).last_region;
  if (hint < regions_.size() && address - regions_[hint].base < regions_[hint].bytes) {
    return &regions_[hint];
  }
  const auto above =
      std::upper_bound(regions_.begin(), regions_.end(), address,
                       [](uint64_t wanted, const Region& region) { return wanted < region.base; });
  if (above == regions_.begin()) return nullptr;
  const auto region = above - 1;
  if (address - region->base >= region->bytes) return nullptr;
  hint = static_cast<size_t>(region - regions_.begin());
  return &*region;
}

void LaunchMemory::access(Fiber* fiber, uint64_t address, size_t bytes, Access kind,
                          const void* pc) {
  if (std::has_single_bit(bytes) && address % bytes != 0) {
    fail(format("misaligned global %s of %zu bytes at ", verb(kind), bytes) +
         describe_address(reinterpret_cast<const void*>(address)) + location(pc));
  }
  access_part(fiber, address, bytes, kind, pc);
  if (!count_) return;
  AccessLog& log = fiber->warp->accesses;
  if (kind != Access::kWrite) log.add(Space::kGlobalLoad, fiber->lane, address, bytes, pc);
  if (kind != Access::kRead) log.add(Space::kGlobalStore, fiber->lane, address, bytes, pc);
}

void LaunchMemory::access_part(Fiber* fiber, uint64_t address, size_t bytes, Access kind,
                               const void* pc) {
  const Region* const region = find(fiber, address);
  if (region == nullptr || address + bytes > region->base + region->bytes) {
    fail(format("global %s of %zu bytes at ", verb(kind), bytes) +
         describe_address(reinterpret_cast<const void*>(address)) + " is out of bounds" +
         location(pc));
  }
  const size_t offset = address - region->base;
  const bool reads = kind != Access::kWrite;
  const bool writes = kind != Access::kRead;
  if (check_) {
    if (fiber->must_wait_for_grids) report_early(fiber, address, bytes, kind, pc);
    if (reads && region->written != nullptr) {
      const size_t missing = find_clear_bit(region->written, offset, bytes);
      if (missing < offset + bytes) {
        report(fiber, format("%s of uninitialised global memory: nobody has written byte %zu of "
                             "'%s' (%zu bytes)",
                             verb(kind), missing, region->allocation->name.c_str(), region->bytes) +
                          location(pc));
      }
    }
    if (writes && region->written != nullptr) set_bits(region->written, offset, bytes);
    // Atomics are what blocks are meant to meet in.
    if (kind != Access::kAtomic && region->writer.get() != nullptr) {
      check_conflict(fiber, *region, offset, bytes, writes, pc);
    }
  }
  if (count_) {
    if (reads) set_bits(region->loaded.get(), offset, bytes);
    if (writes) set_bits(region->stored.get(), offset, bytes);
  }
}

void LaunchMemory::check_conflict(Fiber* fiber, const Region& region, size_t offset, size_t bytes,
                                  bool write, const void* pc) {
  const auto own = static_cast<uint32_t>(fiber->block->index) + 1;
  for (size_t i = offset; i < offset + bytes; ++i) {
    const std::atomic_ref<uint32_t> writer(region.writer.get()[i]);
    uint32_t other = writer.load(std::memory_order_relaxed);
    if (write && other != own) other = writer.exchange(own, std::memory_order_relaxed);
    if (other == 0 || other == own) continue;
    const LaunchRequest& request = launch_of(fiber).request;
    // What blocks of one cluster may do to each other is ordered by the cluster's barriers.
    if (in_one_cluster(request.grid, request.cluster, other - 1, own - 1)) continue;
    report(
        fiber,
        format("conflict between blocks: global %s at offset %zu of '%s' (%zu bytes), which block ",
               write ? "write" : "read", i, region.allocation->name.c_str(), region.bytes) +
            name_of(index_at(request.grid, other - 1)) + " wrote in the same launch" +
            location(pc));
    return;
  }
}

uint64_t LaunchMemory::count_sectors(const uint64_t* touched, const Region& region) {
  constexpr size_t kSectorBytes = 32;
  uint64_t sectors = 0;
  uint64_t last = ~uint64_t{0};
  for (size_t word = 0; word < words_for(region.bytes); ++word) {
    for (uint64_t bits = touched[word]; bits != 0;) {
      const auto bit = static_cast<size_t>(std::countr_zero(bits));
      const uint64_t sector = (region.base + word * kBitsPerWord + bit) / kSectorBytes;
      if (sector != last) ++sectors;
      last = sector;
      // On to the first byte of the next sector, which may lie in a later word.
      const uint64_t next = (sector + 1) * kSectorBytes - region.base - word * kBitsPerWord;
      bits = next >= kBitsPerWord ? 0 : bits >> next << next;
    }
  }
  return sectors;
}

std::vector<LaunchMemory::Touched> LaunchMemory::count_distinct(Counters& counters) const {
  std::vector<Touched> touched;
  if (!count_) return touched;
  for (const Region& region : regions_) {
    const uint64_t loaded = count_bits(region.loaded.get(), region.bytes);
    const uint64_t stored = count_bits(region.stored.get(), region.bytes);
    if (loaded || stored) touched.push_back({region.allocation->name, loaded, stored});
    counters.distinct_load_bytes += loaded;
    counters.distinct_store_bytes += stored;
    counters.distinct_load_sectors += count_sectors(region.loaded.get(), region);
    counters.distinct_store_sectors += count_sectors(region.stored.get(), region);
  }
  return touched;
}

}  // namespace rnc::emulator
