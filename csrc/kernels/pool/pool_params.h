#pragma once

#include <cstdint>

namespace rnc {

struct MaxPoolGeometry {
  int32_t N, H, W, C;           // x [N, H, W, C]
  int32_t P, Q;                 // y [N, P, Q, C]
  int32_t kernel, stride, pad;  // square window; kernel * kernel <= 255
};

struct MaxPoolForwardParams {
  MaxPoolGeometry geometry;
  const void* x;    // T [N, H, W, C]
  void* y;          // T [N, P, Q, C]
  uint8_t* argmax;  // [N, P, Q, C] or null: r * kernel + s of the winner (the first maximum, or the
                    // last NaN, as torch)
};

struct MaxPoolBackwardParams {
  MaxPoolGeometry geometry;
  const void* dy;         // T [N, P, Q, C]
  const uint8_t* argmax;  // [N, P, Q, C]
  void* dx;               // T [N, H, W, C]
};

struct GlobalAvgPoolForwardParams {
  int32_t N, pixels, C;  // pixels = H W
  const void* x;         // T [N, pixels, C]
  void* y;               // T [N, C]
};

struct GlobalAvgPoolBackwardParams {
  int32_t N, pixels, C;
  const void* dy;  // T [N, C]
  void* dx;        // T [N, pixels, C]
};

}  // namespace rnc
