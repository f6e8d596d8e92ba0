// The version of torch's stable ABI that the bindings are written for. Newer headers stay usable:
// they hide what 2.11 does not have.
#pragma once

#include <torch/headeronly/version.h>

constexpr unsigned long long kTorch211 = (2ULL << 56) | (11ULL << 48);

#if !defined(TORCH_TARGET_VERSION)
#error \
    "define TORCH_TARGET_VERSION=0x020b000000000000: without it the binary needs the very torch it was built with"
#endif
static_assert(TORCH_TARGET_VERSION == kTorch211,
              "the bindings target the stable ABI of torch 2.11");
static_assert(TORCH_ABI_VERSION >= kTorch211, "resnet_cuda needs torch >= 2.11 to build");
