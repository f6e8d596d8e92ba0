// What one launch does to global memory: bounds, alignment, reads of bytes nobody wrote, conflicts
// between blocks, distinct bytes.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "emulator/device_memory.h"
#include "emulator/emulator_api.h"
#include "emulator/race_detector.h"

namespace rnc::emulator {

struct Fiber;

void* map_zeroed(size_t bytes);  // throws std::bad_alloc
void unmap_zeroed(void* memory, size_t bytes);

// Zeroed memory of which only the pages that are touched cost anything.
template <class T>
class ZeroedArray {
 public:
  ZeroedArray() = default;
  explicit ZeroedArray(size_t count)
      : bytes_(count * sizeof(T)), data_(static_cast<T*>(map_zeroed(bytes_))) {}
  ZeroedArray(ZeroedArray&& other) noexcept
      : bytes_(std::exchange(other.bytes_, 0)), data_(std::exchange(other.data_, nullptr)) {}
  ZeroedArray& operator=(ZeroedArray&& other) noexcept {
    std::swap(bytes_, other.bytes_);
    std::swap(data_, other.data_);
    return *this;
  }
  ~ZeroedArray() { unmap_zeroed(data_, bytes_); }

  T* get() const { return data_; }

 private:
  size_t bytes_ = 0;
  T* data_ = nullptr;
};

class LaunchMemory {
 public:
  // Takes a view of the live allocations if the launch checks or counts. `check_writes`: every
  // write of the kernel is observed, so bytes nobody wrote can be told from the others.
  LaunchMemory(const Options& options, bool check_writes, uint64_t blocks);

  // Judges and counts an access of the current fiber; abandons the block if it is illegal.
  void access(Fiber* fiber, uint64_t address, size_t bytes, Access kind, const void* pc);

  // The same for a part of what one instruction of the fiber accesses, of any size and alignment;
  // of the counters only the distinct bytes.
  void access_part(Fiber* fiber, uint64_t address, size_t bytes, Access kind, const void* pc);

  bool contains(Fiber* fiber, uint64_t address) const { return find(fiber, address) != nullptr; }

  struct Touched {
    std::string name;
    uint64_t load_bytes, store_bytes;
  };

  // Adds up the distinct bytes, and says of which allocations they are.
  std::vector<Touched> count_distinct(Counters& counters) const;

 private:
  struct Region {
    uint64_t base;
    size_t bytes;
    std::shared_ptr<Allocation> allocation;
    uint64_t* written;             // Allocation::written, or null
    ZeroedArray<uint64_t> loaded;  // a bit per byte, when counting
    ZeroedArray<uint64_t> stored;  // a bit per byte, when counting
    ZeroedArray<uint32_t>
        writer;  // per byte: 1 + index of the block that wrote it; when several blocks are checked
  };

  static uint64_t count_sectors(const uint64_t* touched, const Region& region);
  const Region* find(Fiber* fiber, uint64_t address) const;
  void check_conflict(Fiber* fiber, const Region& region, size_t offset, size_t bytes, bool write,
                      const void* pc);

  const bool check_;
  const bool count_;
  std::vector<Region> regions_;  // by address
};

}  // namespace rnc::emulator
