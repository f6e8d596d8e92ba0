// The optional arguments of a pass that normalises an operand on load.
#pragma once

#include <string>

#include "bindings/conv_geometry.h"
#include "bindings/stage.h"

namespace rnc::bindings {

struct NormaliseOnLoadArguments {
  const OptionalTensor& scale;
  const OptionalTensor& bias;
  const OptionalTensor& floor;

  // Puts them into params that have x.
  template <class Params>
  void stage_x(Stage& stage, Params& params) const {
    params.x_scale = stage.in("x_scale", scale);
    params.x_bias = stage.in("x_bias", bias);
    params.x_floor = stage.in("x_floor", floor);
  }

  // Holds them against the channels of the operand `name`.
  void check(const Arguments& args, const std::string& name, int32_t channels) const {
    const std::string scale_name = name + "_scale", bias_name = name + "_bias";
    const std::string floor_name = name + "_floor";
    args.together(scale_name.c_str(), scale, bias_name.c_str(), bias);
    args.require(scale || !floor, scale_name, " is None, expected a tensor because ", floor_name,
                 " is given");
    args.accumulators(scale_name.c_str(), scale, {channels});
    args.accumulators(bias_name.c_str(), bias, {channels});
    args.accumulators(floor_name.c_str(), floor, {channels});
  }
};

}  // namespace rnc::bindings
