// torch's switch for float32 convolutions on a GPU.
#pragma once

namespace rnc::bindings {

// Whether torch.backends.cudnn.conv.fp32_precision is "tf32" now. Read whenever a convolution runs,
// as torch's own convolutions do, so that a compiled or exported graph never holds an old answer.
bool torch_allows_tf32();

}  // namespace rnc::bindings
