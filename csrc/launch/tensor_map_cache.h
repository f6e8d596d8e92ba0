// Keeps the tensor maps that launches have made: a driver call each, of operands that come back at
// the same addresses in every step. They are handed on by value, inside a kernel's parameters, so
// that captured graphs have theirs whatever becomes of the cache.
#pragma once

#include <array>
#include <memory>

#include "common/status.h"
#include "launch/tensor_map_description.h"
#include "ptx/tensor_map.cuh"

namespace rnc {

// The maps of one kind: each description has one place, where a newer one replaces it.
template <class Description>
class TensorMapCache {
 public:
  static constexpr int kPlaceBits = 9;  // some 150 KB

  // The description's map; make(map, description), where it is not there, returns what this does.
  template <class Make>
  Status find_or_make(ptx::TensorMap* map, const Description& description, Make&& make) {
    Entry& entry = entries_[place_of(description)];
    if (!entry.filled || entry.description != description) {
      entry.filled = false;
      const Status status = make(&entry.map, description);
      if (!status.ok()) return status;
      entry.description = description;
      entry.filled = true;
    }
    *map = entry.map;
    return Status{};
  }

 private:
  struct Entry {
    Description description;
    ptx::TensorMap map;
    bool filled = false;
  };

  static size_t place_of(const Description& description) {
    uint64_t hash = reinterpret_cast<uintptr_t>(description.base) / 16;
    for (int i = 0; i < description.rank; ++i) {
      hash = (hash ^ description.dims[i]) * 0x9E3779B97F4A7C15ull;
    }
    return hash >> (64 - kPlaceBits);
  }

  std::array<Entry, size_t{1} << kPlaceBits> entries_;
};

// From the calling thread's cache. One word per thread: a library that is opened at run time finds
// little room for thread-local data.
template <class Description, class Make>
Status cached_tensor_map(ptx::TensorMap* map, const Description& description, Make&& make) {
  thread_local std::unique_ptr<TensorMapCache<Description>> cache;
  if (!cache) cache = std::make_unique<TensorMapCache<Description>>();
  return cache->find_or_make(map, description, make);
}

}  // namespace rnc
