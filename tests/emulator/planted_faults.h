// Small kernels with one planted fault each, beside twins without it. The tests expect every fault
// to be reported and no twin.
#pragma once

#include <cstddef>
#include <cstdint>

namespace rnc {

struct Params {
  const float* x;
  float* y;
  int32_t* counts;
  int32_t n;
  int32_t operand;
};

struct Entry {
  const char* name;
  void (*kernel)(Params);
  size_t shared_bytes;
};

struct Table {
  const Entry* begin;
  const Entry* end;
};

Table kernels_with_memory_faults();     // planted_faults.cu
Table kernels_with_barrier_faults();    // planted_faults_barriers.cu
Table kernels_with_mbarrier_faults();   // planted_faults_mbarriers.cu
Table kernels_with_cluster_faults();    // planted_faults_clusters.cu
Table kernels_with_warpgroup_faults();  // planted_faults_warpgroups.cu

}  // namespace rnc
