#include "emulator/mma_sync.h"

#include <cstring>

#include "emulator/matrix_fragments.h"
#include "emulator/warp.h"
#include "emulator/whole_warp.h"

namespace rnc::emulator {

namespace {

struct Shape {
  const char* name;
  int32_t m, n, k;
  int32_t a, b, c;  // registers per lane
};

constexpr Shape kShapes[] = {
    {"mma.sync.m16n8k16.bf16", 16, 8, 16, 4, 2, 4}, {"mma.sync.m16n8k16.f16", 16, 8, 16, 4, 2, 4},
    {"mma.sync.m16n8k8.bf16", 16, 8, 8, 2, 1, 4},   {"mma.sync.m16n8k8.tf32", 16, 8, 8, 4, 2, 4},
    {"mma.sync.m8n8k4.f64", 8, 8, 4, 1, 1, 2},
};

const Shape& shape_of(MmaKind kind) { return kShapes[static_cast<int32_t>(kind)]; }

ElementType element_of(MmaKind kind) {
  switch (kind) {
    case MmaKind::kM16N8K16Float16:
      return ElementType::kFloat16;
    case MmaKind::kM16N8K8TensorFloat32:
      return ElementType::kTensorFloat32;
    default:
      return ElementType::kBfloat16;
  }
}

// What a lane leaves for the last one.
struct WarpTile {
  MmaKind kind;
  void* accumulators;
  const void* a;
  const void* b;
  int32_t m_tiles;
  int32_t n_tiles;

  bool same_instruction(const WarpTile& other) const {
    return kind == other.kind && m_tiles == other.m_tiles && n_tiles == other.n_tiles;
  }
};

// A row of tiles at a time: 16 rows of A and C, all of B. More columns than 255 registers per lane
// could hold.
constexpr int32_t kMaxNTiles = 64;
constexpr int32_t kMaxColumns = 8 * kMaxNTiles;
struct alignas(64) Scratch {
  float a[16 * 16];
  float b[16 * kMaxColumns];
  float c[16 * kMaxColumns];
};

void gather_b_tiles(const WarpTile& tile, OperandRegisters b, int64_t columns, Scratch& scratch) {
  const ElementType type = element_of(tile.kind);
  const int32_t registers = shape_of(tile.kind).b;
  for (int32_t j = 0; j < tile.n_tiles; ++j) {
    float* const out = scratch.b + 8 * j;
    if (tile.kind == MmaKind::kM16N8K8Bfloat16) {
      gather_half_b(b, j * registers, type, out, columns);
    } else {
      gather_b(b, j * registers, type, out, columns);
    }
  }
}

void gather_a_tile(const WarpTile& tile, OperandRegisters a, int32_t i, Scratch& scratch) {
  const ElementType type = element_of(tile.kind);
  const int32_t first = i * shape_of(tile.kind).a;
  if (tile.kind == MmaKind::kM16N8K8Bfloat16) {
    gather_half_a(a, first, type, scratch.a, 16);
  } else {
    gather_a(a, first, type, scratch.a, 16);
  }
}

void multiply_floats(const Rendezvous& meeting, const WarpTile& tile) {
  const uint32_t* a[kWarpSize];
  const uint32_t* b[kWarpSize];
  float* c[kWarpSize];
  for (uint32_t lane = 0; lane < kWarpSize; ++lane) {
    const auto* own = static_cast<const WarpTile*>(meeting.arguments[lane]);
    a[lane] = static_cast<const uint32_t*>(own->a);
    b[lane] = static_cast<const uint32_t*>(own->b);
    c[lane] = static_cast<float*>(own->accumulators);
  }
  auto& scratch = worker_of(self()).scratch_as<Scratch>();
  const int32_t columns = 8 * tile.n_tiles;
  gather_b_tiles(tile, b, columns, scratch);
  for (int32_t i = 0; i < tile.m_tiles; ++i) {
    const int32_t first = i * tile.n_tiles * 4;
    gather_a_tile(tile, a, i, scratch);
    for (uint32_t lane = 0; lane < kWarpSize; ++lane) {
      gather_accumulators(c[lane] + first, lane, tile.n_tiles, scratch.c, columns);
    }
    multiply_accumulate(scratch.c, columns, scratch.a, 16, scratch.b, columns, 16, columns,
                        shape_of(tile.kind).k);
    for (uint32_t lane = 0; lane < kWarpSize; ++lane) {
      scatter_accumulators(c[lane] + first, lane, tile.n_tiles, scratch.c, columns);
    }
  }
}

// m8n8k4: with g = lane / 4, t = lane % 4, a is (row g, k t), b (k t, column g), c (row g, columns
// 2t, 2t + 1).
void multiply_doubles(const Rendezvous& meeting, const WarpTile& tile) {
  const WarpTile* lanes[kWarpSize];
  for (uint32_t lane = 0; lane < kWarpSize; ++lane) {
    lanes[lane] = static_cast<const WarpTile*>(meeting.arguments[lane]);
  }
  for (int32_t i = 0; i < tile.m_tiles; ++i) {
    for (int32_t j = 0; j < tile.n_tiles; ++j) {
      double a[8][4], b[4][8];
      for (uint32_t lane = 0; lane < kWarpSize; ++lane) {
        a[lane / 4][lane % 4] = static_cast<const double*>(lanes[lane]->a)[i];
        b[lane % 4][lane / 4] = static_cast<const double*>(lanes[lane]->b)[j];
      }
      for (uint32_t lane = 0; lane < kWarpSize; ++lane) {
        double* const c =
            static_cast<double*>(lanes[lane]->accumulators) + (i * tile.n_tiles + j) * 2;
        for (uint32_t k = 0; k < 4; ++k) {
          c[0] += a[lane / 4][k] * b[k][2 * (lane % 4)];
          c[1] += a[lane / 4][k] * b[k][2 * (lane % 4) + 1];
        }
      }
    }
  }
}

void execute_mma(Warp& warp, Rendezvous& meeting) {
  const auto& tile = *static_cast<const WarpTile*>(meeting.arguments[self()->lane]);
  check_whole_warp(warp, meeting);
  for (uint32_t lane = 0; lane < kWarpSize; ++lane) {
    const auto& other = *static_cast<const WarpTile*>(meeting.arguments[lane]);
    if (other.same_instruction(tile)) continue;
    fail(
        format("divergent collectives: lane %u of warp %u calls %s on %d x %d tiles, lane %u %s "
               "on %d x %d",
               self()->lane, warp.index, shape_of(tile.kind).name, tile.m_tiles, tile.n_tiles, lane,
               shape_of(other.kind).name, other.m_tiles, other.n_tiles));
  }
  if (tile.kind == MmaKind::kM8N8K4Float64) {
    multiply_doubles(meeting, tile);
  } else {
    multiply_floats(meeting, tile);
  }
  const Shape& shape = shape_of(tile.kind);
  const uint64_t instructions = static_cast<uint64_t>(tile.m_tiles) * tile.n_tiles;
  Counters& counters = warp.block->worker->counters;
  counters.mma_instructions += instructions;
  counters.mma_multiply_adds += instructions * shape.m * shape.n * shape.k;
}

constexpr CollectiveKind kMma{"mma.sync", execute_mma, true};

}  // namespace

void mma_tile(MmaKind kind, void* accumulators, const void* a, const void* b, int32_t m_tiles,
              int32_t n_tiles) {
  if (n_tiles > kMaxNTiles) {
    fail(format("mma_tile of %d x %d tiles: more accumulators than a thread has registers", m_tiles,
                n_tiles));
  }
  WarpTile tile{kind, accumulators, a, b, m_tiles, n_tiles};
  meet(kAllLanes, kMma, &tile);
}

}  // namespace rnc::emulator
