// out = x * weight^T: splits the product into tasks whose blocks stay in the caches, and stores their sums.
#include <algorithm>

#include "cpu/backend.h"
#include "cpu/ops.h"
#include "cpu/pack.h"
#include "cpu/product.h"

namespace longhaul::cpu {
size_t gemm_workspace(const GemmArgs& args) {
  const int64_t depth = ceil_div(args.x.shape[1], 2) * 2;
  return static_cast<size_t>(args.x.shape[0] * depth) * sizeof(float);
}

Status gemm(Stream& base, const GemmArgs& args, Workspace workspace) {
  CpuStream& stream = cpu_stream(base);
  const DenseKernels& kernels = *stream.kernels().dense;
  const PackedLayout layout = layout_of(*args.weight);
  const ProductPlan plan = plan_for(kernels, layout.dtype);
  const int64_t rows = args.x.shape[0];
  const int64_t depth = layout.depth();
  if (rows == 0 || layout.rows == 0) return {};

  const int64_t group_rows = kernels.row_group;
  const int64_t groups = ceil_div(rows, group_rows);
  const int64_t x_group = group_rows * depth * plan.x_bytes;
  char* const packed_x = static_cast<char*>(workspace.data);
  const Element x_type = element_of(args.x.dtype);
  for_tasks(stream, rows * depth >= kWorthThreads, groups, [&](int64_t group, int) {
    const int64_t row = group * group_rows;
    plan.pack({static_cast<const char*>(args.x.data) + row * args.x.stride[0] * size_of(args.x.dtype), x_type,
               args.x.stride[0], static_cast<int>(std::min(group_rows, rows - row)), layout.cols, depth,
               packed_x + group * x_group});
  });

  // Fewer panels a task when there would be too few tasks; then fewer rows.
  const int64_t panels = layout.panels();
  const int64_t wanted = stream.threads() == 1 ? 1 : stream.threads() * kTasksPerThread;
  int64_t task_groups = std::min(kTaskGroups, groups);
  int64_t task_panels = kTaskPanels;
  const auto tasks_of = [&] { return ceil_div(groups, task_groups) * ceil_div(panels, task_panels); };
  while (tasks_of() < wanted && task_panels > 2) task_panels /= 2;
  while (tasks_of() < wanted && task_groups > 1) task_groups = ceil_div(task_groups, 2);

  const int64_t element = static_cast<int64_t>(size_of(layout.dtype));
  // A block of K only matters where weights are used again; a single pass streams each panel to its end.
  const int64_t block_depth = task_groups == 1 ? depth : kBlockBytes / (kPanel * element);
  const int64_t panel_bytes = static_cast<int64_t>(layout.panel_bytes());
  const char* const packed_w = static_cast<const char*>(args.weight->storage.data());
  const Element out_type = element_of(args.out.dtype);
  const int64_t out_size = static_cast<int64_t>(size_of(args.out.dtype));
  const float* const bias = args.bias ? args.bias.as<const float>() : nullptr;

  const int64_t row_tasks = ceil_div(groups, task_groups);
  const int64_t tasks = tasks_of();
  for_tasks(stream, rows * layout.rows * depth >= kWorthThreads, tasks, [&](int64_t task, int slot) {
    // Neighbouring tasks share panels: they are in the shared cache when the next rows need them.
    const int64_t first_group = task % row_tasks * task_groups;
    const int64_t first_panel = task / row_tasks * task_panels;
    const int64_t first_row = first_group * group_rows;
    const int64_t row_count = std::min(task_groups * group_rows, rows - first_row);
    GemmBlock block = {};
    block.w_panel = panel_bytes;
    block.acc = static_cast<float*>(stream.scratch(slot));
    block.acc_stride = task_panels * kPanel;
    block.x_group = x_group;
    block.panels = static_cast<int>(std::min(task_panels, panels - first_panel));
    for (int64_t k = 0; k < depth; k += block_depth) {
      block.w = packed_w + first_panel * panel_bytes + k * kPanel * element;
      block.depth = std::min(block_depth, depth - k);
      block.first = k == 0;
      multiply_rows(plan, block, packed_x + first_group * x_group, row_count, group_rows, k);
    }
    const int64_t column = first_panel * kPanel;
    const int64_t columns = std::min<int64_t>(block.panels * kPanel, layout.rows - column);
    for (int64_t row = 0; row < row_count; ++row) {
      char* out =
          static_cast<char*>(args.out.data) + ((first_row + row) * args.out.stride[0] + column) * out_size;
      kernels.store_row(block.acc + row * block.acc_stride, bias == nullptr ? nullptr : bias + column, out,
                        out_type, args.accumulate, columns);
    }
  });
  return {};
}

}  // namespace longhaul::cpu
