// Operand slices as TMA leaves them in shared memory and wgmma reads them: rows of 128 bytes under
// 128-byte swizzle, 1024 bytes for each group of eight. Whatever their rows mean, 64 of them are a
// panel.
#pragma once

#include "ptx/shared_address.cuh"
#include "tile/smem_descriptor.h"

namespace rnc {

constexpr int kSliceBytes = 128;
constexpr uint32_t kSliceGroupBytes = 8 * kSliceBytes;
constexpr int kPanelRows = 64;
constexpr int kPanelBytes = kPanelRows * kSliceBytes;

// Elements of one slice along its contiguous dimension.
template <class Element>
inline constexpr int kSliceElements = kSliceBytes / int(sizeof(Element));

// K-major: a row of the matrix operand per row, the reduction contiguous. One wgmma reduces over 32
// bytes of it.
template <int kRows>
struct alignas(1024) KMajorSlice {
  static constexpr bool kIsMnMajor = false;
  static constexpr int kPanels = kRows / kPanelRows;
  static constexpr int kBytes = kRows * kSliceBytes;
  static constexpr int kSteps = 4;
  unsigned char bytes[kBytes];

  __device__ __forceinline__ unsigned char* panel(int i) { return bytes + i * kPanelBytes; }

  // The operand of wgmma step `step` from row `first_row` on, a multiple of 8.
  __device__ __forceinline__ uint64_t descriptor(int step, int first_row = 0) const {
    const uint32_t address = ptx::shared_address(bytes) + uint32_t(first_row * kSliceBytes);
    return k_major_descriptor(address + uint32_t(step * 32), Swizzle::k128, kSliceGroupBytes);
  }
};

// K-major without swizzle, 64 16-bit elements deep: the 16 bytes of 8 neighbouring elements follow
// those of the next row, in a plane for each 8. A product may start at any row.
template <int kRows>
struct alignas(128) PlanarSlice {
  static constexpr int kPlanes = 8;
  static constexpr int kPieceBytes = 16;
  static constexpr int kPlaneBytes = kRows * kPieceBytes;
  static constexpr int kSteps = 4;
  unsigned char planes[kPlanes][kPlaneBytes];

  __device__ __forceinline__ unsigned char* piece(int plane, int row) {
    return planes[plane] + row * kPieceBytes;
  }

  // The operand of wgmma step `step` from row `first_row` on.
  __device__ __forceinline__ uint64_t descriptor(int step, int first_row) const {
    const uint32_t address = ptx::shared_address(planes) + uint32_t(first_row * kPieceBytes);
    return k_major_descriptor(address + uint32_t(step * 2 * kPlaneBytes), Swizzle::kNone,
                              8 * kPieceBytes, kPlaneBytes);
  }
};

// MN-major, 16-bit elements: a step of the reduction per row, 64 matrix rows contiguous; wider
// operands are panels of 64 one after the other. One wgmma reduces over 16 rows.
template <int kMatrixRows>
struct alignas(1024) MnMajorSlice {
  static constexpr bool kIsMnMajor = true;
  static constexpr int kMatrixRowsOfPanel = 64;
  static constexpr int kPanels = kMatrixRows / kMatrixRowsOfPanel;
  static constexpr int kDepth = kPanelRows;
  static constexpr int kBytes = kPanels * kPanelBytes;
  static constexpr int kSteps = kDepth / 16;
  unsigned char panels[kPanels][kPanelBytes];

  __device__ __forceinline__ unsigned char* panel(int i) { return panels[i]; }

  // The operand of wgmma step `step` from matrix row `first_row` on, a multiple of 64.
  __device__ __forceinline__ uint64_t descriptor(int step, int first_row = 0) const {
    const uint32_t address = ptx::shared_address(panels) +
                             uint32_t(first_row / kMatrixRowsOfPanel * kPanelBytes) +
                             uint32_t(step * 16 * kSliceBytes);
    return mn_major_descriptor(address, Swizzle::k128, kPanelBytes, kSliceGroupBytes);
  }
};

}  // namespace rnc
