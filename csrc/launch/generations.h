// What a generation of kernels supplies. csrc/launch/<generation>/*.cu are translation units of
// their own, compiled for the architectures that have its instructions (cmake/RncCuda.cmake); all
// others are compiled for every architecture and reach them through the functions declared here.
#pragma once

#include <type_traits>

#include "launch/kernel_library.h"
#include "launch/plan.h"

namespace rnc {

// Its main loops, by the operands and the plan: launch/<generation>/mainloops.h.
template <Generation kGeneration>
struct Mainloops;

// What a tile has to leave room for beside the accumulators of one GEMM.
struct TileRoom {
  bool second_gemm = false;     // its accumulators
  bool large_epilogue = false;  // kIsLargeEpilogue
};

// The passes that `plan` has given to it: launch/<generation>/<pass>.cu.
template <Generation kGeneration>
Status conv_fprop_by(const ConvPlan& plan, DType dtype, const ConvFpropParams& params,
                     Stream stream);
template <Generation kGeneration>
Status conv_dgrad_by(const ConvPlan& plan, DType dtype, const ConvDgradParams& params,
                     Stream stream);
template <Generation kGeneration>
Status conv_max_pool_by(const ConvPlan& plan, DType dtype, const ConvMaxPoolParams& params,
                        Stream stream);
// wgrad's ordered parts, into the workspace.
template <Generation kGeneration>
Status conv_wgrad_by(const ConvPlan& plan, DType dtype, const ConvWgradParams& params,
                     Stream stream);
// Both GEMMs of an expand with its projection; problem: the expand's.
template <Generation kGeneration>
Status expand_with_projection_by(const ConvPlan& plan, DType dtype, const Conv2dProblem& problem,
                                 const BottleneckExpandParams& params, Stream stream);

template <Generation kGeneration>
Status bottleneck_block_by(const ConvPlan& plan, DType dtype, const BottleneckBlockParams& params,
                           Stream stream);
template <Generation kGeneration>
Status bottleneck_expand_reduce_by(const ConvPlan& plan, DType dtype,
                                   const BottleneckExpandReduceParams& params, Stream stream);
template <Generation kGeneration>
Status bottleneck_expand_dgrad_by(const ConvPlan& plan, DType dtype,
                                  const BottleneckExpandDgradParams& params, Stream stream);
// The parts of the products, into the workspace.
template <Generation kGeneration>
Status bottleneck_gram_by(const ConvPlan& plan, DType dtype, const BottleneckGramParams& params,
                          Stream stream);
template <Generation kGeneration>
Status bottleneck_expand_wgrad_by(const ConvPlan& plan, DType dtype,
                                  const BottleneckExpandWgradParams& params, Stream stream);

// Float64 products (simt and sm80): the convolution's moments by filter, into the workspace; the
// filters' gradient; what the input's gradient multiplies the input by.
template <Generation kGeneration>
Status closed_form_filter_sums_by(DType dtype, const ClosedFormFinalizeParams& params,
                                  Stream stream);
template <Generation kGeneration>
Status closed_form_filter_gradient_by(DType dtype, const ClosedFormBackwardFinalizeParams& params,
                                      Stream stream);
template <Generation kGeneration>
Status closed_form_operand_matrix_by(DType dtype, const ClosedFormBackwardFinalizeParams& params,
                                     Stream stream);

template <Generation kGeneration>
using GenerationTag = std::integral_constant<Generation, kGeneration>;

// Calls launch(GenerationTag<generation>{}).
template <class Launch>
Status with_generation(Generation generation, Launch&& launch) {
  switch (generation) {
    case Generation::kSimt:
      return launch(GenerationTag<Generation::kSimt>{});
    case Generation::kSm80:
      return launch(GenerationTag<Generation::kSm80>{});
    case Generation::kSm90:
      return launch(GenerationTag<Generation::kSm90>{});
  }
  return {"the plan names a generation of kernels that does not exist"};
}

}  // namespace rnc
