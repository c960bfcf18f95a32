// Which tile a weight's shape gets. Chosen by hand, for 108 to 148 multiprocessors: enough blocks to fill them
// at the narrow end, enough reuse at the wide end. The number of rows is not asked: a row has the same bits in
// any batch.
#pragma once

#include "cuda/gemm_problem.h"

namespace longhaul::cuda {

struct BlockRule {
  int64_t outputs;  // the weight has fewer
  BlockTile tile;
};
struct DecodeRule {
  int64_t outputs;
  DecodeShape shape;
};

constexpr int64_t kAnyOutputs = INT64_MAX;

constexpr BlockRule kMmaTable[] = {{1025, BlockTile::kNarrow},
                                   {kAnyOutputs, BlockTile::kWide}};  // 64x64, 128x128
constexpr BlockRule kSm90Table[] = {{1025, BlockTile::kNarrow},
                                    {kAnyOutputs, BlockTile::kWide}};  // 128x128, 128x256
constexpr BlockRule kSimtTable[] = {{2049, BlockTile::kNarrow},
                                    {kAnyOutputs, BlockTile::kWide}};  // 64x64, 128x128
// Sixteen warps a panel while there is hardly a panel for each multiprocessor; two panels a block where there
// are plenty, so that x is read half as often.
constexpr DecodeRule kDecodeTable[] = {{2113, {16, 1}}, {12288, {8, 1}}, {kAnyOutputs, {8, 2}}};

template <int kRules>
constexpr BlockTile tile_for(const BlockRule (&table)[kRules], int64_t outputs) {
  for (const BlockRule& rule : table)
    if (outputs < rule.outputs) return rule.tile;
  return table[kRules - 1].tile;
}
constexpr DecodeShape decode_shape_for(int64_t outputs) {
  for (const DecodeRule& rule : kDecodeTable)
    if (outputs < rule.outputs) return rule.shape;
  return {8, 2};
}

}  // namespace longhaul::cuda
