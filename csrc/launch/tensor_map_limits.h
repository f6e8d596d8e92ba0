// The limits that cuTensorMapEncodeTiled and cuTensorMapEncodeIm2col document, checked before the
// driver is asked: it says no more than CUDA_ERROR_INVALID_VALUE.
#pragma once

#include <cstdint>
#include <cstdio>

#include "common/status.h"
#include "launch/tensor_map_description.h"

namespace rnc {

namespace detail {

// The first field found out of its range.
class TensorMapLimits {
 public:
  explicit TensorMapLimits(const char* maker) : maker_(maker) {}

  // A field, or element `index` of one that is an array (-1: it is not).
  void require(bool accepted, const char* field, int index, long long value, const char* range) {
    if (accepted || found_) return;
    found_ = true;
    char name[48];
    if (index < 0) {
      std::snprintf(name, sizeof name, "%s", field);
    } else {
      std::snprintf(name, sizeof name, "%s[%d]", field, index);
    }
    std::snprintf(message(), kMessageBytes, "%s: %s is %lld; accepted: %s", maker_, name, value,
                  range);
  }

  void require_aligned(const void* base) {
    const bool accepted = base != nullptr && reinterpret_cast<uintptr_t>(base) % 16 == 0;
    if (accepted || found_) return;
    found_ = true;
    std::snprintf(message(), kMessageBytes,
                  "%s: base is %p; accepted: an address that is a multiple of 16", maker_, base);
  }

  bool found() const { return found_; }
  Status status() const { return Status{found_ ? message() : nullptr}; }

 private:
  static constexpr size_t kMessageBytes = 256;
  // One word per thread: a library that is opened at run time finds little room for thread-local
  // data.
  static char* message() {
    thread_local char* text = nullptr;
    if (text == nullptr) text = new char[kMessageBytes];
    return text;
  }

  const char* maker_;
  bool found_ = false;
};

// What tiled and im2col maps have in common.
template <class Description>
void check_tensor(TensorMapLimits& limits, const Description& map) {
  constexpr uint64_t kMaxDim = uint64_t{1} << 32;
  constexpr uint64_t kMaxStride = uint64_t{1} << 40;
  limits.require(size_of(map.element) != 0, "element", -1, static_cast<int32_t>(map.element),
                 "a TensorElement");
  limits.require_aligned(map.base);
  for (int i = 0; i < map.rank; ++i) {
    limits.require(map.dims[i] >= 1 && map.dims[i] <= kMaxDim, "dims", i,
                   static_cast<long long>(map.dims[i]), "1 to 2^32");
  }
  for (int i = 0; i + 1 < map.rank; ++i) {
    limits.require(map.strides_bytes[i] % 16 == 0 && map.strides_bytes[i] < kMaxStride,
                   "strides_bytes", i, static_cast<long long>(map.strides_bytes[i]),
                   "a multiple of 16 below 2^40");
  }
  for (int i = 0; i < map.rank; ++i) {
    limits.require(map.element_strides[i] >= 1 && map.element_strides[i] <= 8, "element_strides", i,
                   map.element_strides[i], "1 to 8");
  }
}

// The rows of a box. CUDA accepts rows narrower than the swizzle's span, but documents no place
// for the row that follows.
inline void check_rows(TensorMapLimits& limits, const char* field, uint32_t elements,
                       TensorElement element, Swizzle swizzle) {
  const auto code = static_cast<uint32_t>(swizzle);
  limits.require(code <= static_cast<uint32_t>(Swizzle::k128), "swizzle", -1, code,
                 "kNone, k32, k64 or k128");
  if (limits.found()) return;
  const uint32_t bytes = elements * size_of(element);
  limits.require(bytes % 16 == 0, field, -1, bytes, "a multiple of 16 bytes");
  char range[64];
  std::snprintf(range, sizeof range, "%u bytes, as wide as the swizzle", swizzle_bytes(swizzle));
  limits.require(swizzle == Swizzle::kNone || bytes == swizzle_bytes(swizzle), field, -1, bytes,
                 range);
}

}  // namespace detail

inline Status check_limits(const TiledTensorMap& map) {
  detail::TensorMapLimits limits("make_tiled_tensor_map");
  limits.require(map.rank >= 1 && map.rank <= 5, "rank", -1, map.rank, "1 to 5");
  if (limits.found()) return limits.status();
  detail::check_tensor(limits, map);
  for (int i = 0; i < map.rank; ++i) {
    limits.require(map.box[i] >= 1 && map.box[i] <= 256, "box", i, map.box[i], "1 to 256");
  }
  detail::check_rows(limits, "box[0] in bytes", map.box[0], map.element, map.swizzle);
  return limits.status();
}

inline Status check_limits(const Im2colTensorMap& map) {
  detail::TensorMapLimits limits("make_im2col_tensor_map");
  limits.require(map.rank >= 3 && map.rank <= 5, "rank", -1, map.rank, "3 to 5");
  if (limits.found()) return limits.status();
  detail::check_tensor(limits, map);
  // 16 bits hold the corners of all spatial dimensions together.
  const int corner = map.rank == 3 ? 32768 : map.rank == 4 ? 128 : 16;
  const char* const range = map.rank == 3   ? "-32768 to 32767 with rank 3"
                            : map.rank == 4 ? "-128 to 127 with rank 4"
                                            : "-16 to 15 with rank 5";
  for (int i = 0; i < map.rank - 2; ++i) {
    limits.require(map.lower[i] >= -corner && map.lower[i] < corner, "lower", i, map.lower[i],
                   range);
    limits.require(map.upper[i] >= -corner && map.upper[i] < corner, "upper", i, map.upper[i],
                   range);
    const int64_t pixels = static_cast<int64_t>(map.dims[i + 1]) + map.upper[i] - map.lower[i];
    limits.require(pixels >= 1, "bounding box", i, pixels,
                   "1 or more, that is dims[i + 1] + upper[i] - lower[i]");
  }
  limits.require(map.channels >= 1 && map.channels <= 256, "channels", -1, map.channels,
                 "1 to 256");
  limits.require(map.pixels >= 1 && map.pixels <= 1024, "pixels", -1, map.pixels, "1 to 1024");
  detail::check_rows(limits, "channels in bytes", map.channels, map.element, map.swizzle);
  return limits.status();
}

}  // namespace rnc
