#include <cstdint>

#include "check.h"
#include "launch/tensor_map_cache.h"

namespace {

using rnc::Status;
using rnc::TensorMapCache;
using rnc::TiledTensorMap;

// A matrix of `rows` rows that begins at `address`.
TiledTensorMap matrix_at(uintptr_t address, uint64_t rows) {
  TiledTensorMap map{};
  map.base = reinterpret_cast<const void*>(address);
  map.rank = 2;
  map.dims[0] = 64;
  map.dims[1] = rows;
  return map;
}

// Counts how often a map is made, and writes into it what it was made from.
struct Maker {
  int made = 0;

  Status operator()(rnc::ptx::TensorMap* map, const TiledTensorMap& description) {
    ++made;
    map->base = reinterpret_cast<uint64_t>(description.base);
    map->dims[1] = description.dims[1];
    return Status{};
  }
};

}  // namespace

RNC_TEST(a_tensor_map_is_made_once_for_each_pointer_and_shape) {
  TensorMapCache<TiledTensorMap> cache;
  Maker maker;
  rnc::ptx::TensorMap map{};
  for (int step = 0; step < 3; ++step) {
    for (const uint64_t rows : {100u, 200u}) {
      EXPECT(cache.find_or_make(&map, matrix_at(4096, rows), maker).ok());
      EXPECT_EQ(map.dims[1], rows);
    }
    EXPECT(cache.find_or_make(&map, matrix_at(8192, 100), maker).ok());
    EXPECT_EQ(map.base, uint64_t{8192});
  }
  EXPECT_EQ(maker.made, 3);
}

RNC_TEST(a_tensor_map_whose_place_is_taken_replaces_the_older_one) {
  TensorMapCache<TiledTensorMap> cache;
  Maker maker;
  rnc::ptx::TensorMap map{};
  // More than there are places.
  for (uintptr_t i = 1; i <= 2000; ++i) {
    EXPECT(cache.find_or_make(&map, matrix_at(4096 * i, i), maker).ok());
    EXPECT_EQ(map.base, uint64_t{4096 * i});
    EXPECT_EQ(map.dims[1], uint64_t{i});
  }
}

RNC_TEST(a_tensor_map_that_cannot_be_made_is_asked_for_again) {
  TensorMapCache<TiledTensorMap> cache;
  rnc::ptx::TensorMap map{};
  const auto refuse = [](rnc::ptx::TensorMap*, const TiledTensorMap&) { return Status{"no"}; };
  EXPECT(!cache.find_or_make(&map, matrix_at(4096, 100), refuse).ok());
  Maker maker;
  EXPECT(cache.find_or_make(&map, matrix_at(4096, 100), maker).ok());
  EXPECT_EQ(maker.made, 1);
}
