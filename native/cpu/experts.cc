// What LoRA experts add to a projection: two products with packed weights, each over the rows of every segment
// at once, that leave out experts no row of a task uses.
#include <algorithm>
#include <cstring>

#include "cpu/backend.h"
#include "cpu/ops.h"
#include "cpu/product.h"
#include "cpu/routing.h"
#include "cpu/row_tasks.h"

namespace longhaul::cpu {
namespace {

// How one part of a segment is cut into tasks: as many groups of rows and panels each as gemm takes.
struct PartTasks {
  const ExpertSegment* segment;
  const ExpertPart* part;
  int32_t index;                             // of the part
  int64_t task_groups = 0, task_panels = 0;  // of a task
  int64_t row_tasks = 0, panel_tasks = 0;    // how many there are
};

// Values of K of x, or of the middle, with room for a pair.
int64_t padded(int64_t values) {
  return ceil_div(values, 2) * 2;
}

int64_t depth_of(const ExpertPart& part) {
  return int64_t{part.experts} * part.rank;
}

// Rows that any segment covers.
template <class Args>
int64_t rows_of(const Args& a) {
  int64_t rows = 0;
  for (int64_t s = 0; s < a.segment_count; ++s) rows += a.segments[s].row_count;
  return rows;
}

PartTasks tasks_of(const ExpertSegment& segment, int32_t p, const Weight& weight, int64_t group_rows,
                   int threads) {
  const int64_t groups = ceil_div(segment.row_count, group_rows), panels = layout_of(weight).panels();
  PartTasks tasks{&segment, &segment.parts[static_cast<size_t>(p)], p};
  tasks.task_groups = std::min(kTaskGroups, groups);
  tasks.task_panels = kTaskPanels;
  const auto count = [&] {
    tasks.row_tasks = ceil_div(groups, tasks.task_groups);
    tasks.panel_tasks = ceil_div(panels, tasks.task_panels);
    return tasks.row_tasks * tasks.panel_tasks;
  };
  // Fewer panels a task when there would be too few tasks; then fewer rows.
  const int64_t wanted = threads == 1 ? 1 : threads * kTasksPerThread;
  while (count() < wanted && tasks.task_panels > 2) tasks.task_panels /= 2;
  while (count() < wanted && tasks.task_groups > 1) tasks.task_groups = ceil_div(tasks.task_groups, 2);
  return tasks;
}

// Calls body(tasks of the part, its task, slot) for every task of every part that there is.
template <class Args, class WeightOf, class Body>
void for_part_tasks(CpuStream& stream, const Args& a, int64_t group_rows, WeightOf weight_of, Body&& body) {
  int64_t tasks = 0, work = 0;
  const auto each_part = [&](auto&& visit) {
    for (int64_t s = 0; s < a.segment_count; ++s) {
      const ExpertSegment& segment = a.segments[s];
      if (segment.row_count == 0) continue;
      for (int32_t p = 0; p < a.parts; ++p) {
        const ExpertPart& part = segment.parts[static_cast<size_t>(p)];
        if (part.experts > 0 && visit(tasks_of(segment, p, weight_of(part), group_rows, stream.threads())))
          return;
      }
    }
  };
  each_part([&](const PartTasks& part) {
    const Weight& weight = weight_of(*part.part);
    tasks += part.row_tasks * part.panel_tasks;
    work += part.segment->row_count * weight.rows * weight.cols;
    return false;
  });
  for_tasks(stream, work >= kWorthThreads, tasks, [&](int64_t task, int slot) {
    each_part([&](const PartTasks& part) {
      const int64_t count = part.row_tasks * part.panel_tasks;
      if (task >= count) {
        task -= count;
        return false;
      }
      body(part, task, slot);
      return true;
    });
  });
}

// A bit for every expert that one of the rows uses.
uint64_t used_experts(const ExpertPart& part, int32_t p, const Tensor& weights, int64_t begin, int64_t count) {
  const uint64_t all = part.experts == kMaxExperts ? ~uint64_t{0} : (uint64_t{1} << part.experts) - 1;
  if (!part.weighted) return all;
  uint64_t used = 0;
  for (int64_t row = begin; row < begin + count && used != all; ++row) {
    const float* weight = static_cast<const float*>(at(weights, row, p));
    for (int e = 0; e < part.experts; ++e) used |= uint64_t{weight[e] != 0} << e;
  }
  return used;
}

// The routers of every row that has one.
void route_rows(CpuStream& stream, const ExpertShrinkArgs& a) {
  const ExpertKernels& kernels = *stream.kernels().experts;
  const Element type = element_of(a.x.dtype);
  const int64_t cols = a.x.shape[1];
  for (int64_t s = 0; s < a.segment_count; ++s) {
    const ExpertSegment& segment = a.segments[s];
    for (int32_t p = 0; p < a.parts; ++p) {
      const ExpertPart& part = segment.parts[static_cast<size_t>(p)];
      if (part.experts == 0 || !part.gate) continue;
      for_rows(stream, segment.row_count, cols * part.experts, [&](int64_t i) {
        const int64_t row = segment.row_begin + i;
        float logits[kMaxExperts];
        for (int e = 0; e < part.experts; ++e) {
          logits[e] = kernels.dot(at(a.x, row), type, static_cast<const float*>(at(part.gate, e)), cols);
        }
        const Route route = route_row(logits, part.experts, part.router);
        float* const weights = static_cast<float*>(at(a.weights, row, p));
        for (int e = 0; e < part.experts; ++e) weights[e] = static_cast<float>(route.weights[e]);
        if (a.logits) std::copy_n(logits, part.experts, static_cast<float*>(at(a.logits, row, p)));
        if (a.entropy) *static_cast<float*>(at(a.entropy, row, p)) = static_cast<float>(route.entropy);
      });
    }
  }
}

// The dtype of the segment's matrices on one side, which is that of all its parts.
const Weight* first_weight(const ExpertSegment& segment, int32_t parts, const Weight* ExpertPart::*side) {
  for (int32_t p = 0; p < parts; ++p) {
    const ExpertPart& part = segment.parts[static_cast<size_t>(p)];
    if (part.experts > 0) return part.*side;
  }
  return nullptr;
}

}  // namespace

size_t expert_shrink_workspace(const ExpertShrinkArgs& a) {
  return static_cast<size_t>(a.x.shape[0] * padded(a.x.shape[1])) * sizeof(float);
}

Status expert_shrink(Stream& base, const ExpertShrinkArgs& a, Workspace workspace) {
  CpuStream& stream = cpu_stream(base);
  const DenseKernels& kernels = *stream.kernels().dense;
  route_rows(stream, a);
  if (rows_of(a) == 0) return {};

  const int64_t group_rows = kernels.row_group;
  const int64_t cols = a.x.shape[1], depth = padded(cols);
  const auto packed_x = [&](int64_t row) {
    return static_cast<char*>(workspace.data) + row * depth * static_cast<int64_t>(sizeof(float));
  };
  for (int64_t s = 0; s < a.segment_count; ++s) {
    const ExpertSegment& segment = a.segments[s];
    const Weight* const weight = first_weight(segment, a.parts, &ExpertPart::a);
    if (weight == nullptr) continue;
    const ProductPlan plan = plan_for(kernels, weight->dtype);
    const int64_t groups = ceil_div(segment.row_count, group_rows);
    for_tasks(stream, segment.row_count * depth >= kWorthThreads, groups, [&](int64_t group, int) {
      const int64_t row = segment.row_begin + group * group_rows;
      const int64_t count = std::min(group_rows, segment.row_begin + segment.row_count - row);
      plan.pack({at(a.x, row), element_of(a.x.dtype), a.x.stride[0], static_cast<int>(count), cols, depth,
                 packed_x(segment.row_begin) + group * group_rows * depth * plan.x_bytes});
    });
  }

  const auto weight_of = [](const ExpertPart& part) -> const Weight& { return *part.a; };
  for_part_tasks(stream, a, group_rows, weight_of, [&](const PartTasks& tasks, int64_t task, int slot) {
    const ExpertPart& part = *tasks.part;
    const PackedLayout layout = layout_of(*part.a);
    const ProductPlan plan = plan_for(kernels, layout.dtype);
    const int64_t first_group = task % tasks.row_tasks * tasks.task_groups;
    const int64_t row = tasks.segment->row_begin + first_group * group_rows;
    const int64_t rows =
        std::min(tasks.task_groups * group_rows, tasks.segment->row_begin + tasks.segment->row_count - row);
    const int64_t first_panel = task / tasks.row_tasks * tasks.task_panels;
    const int64_t end_panel = std::min(first_panel + tasks.task_panels, layout.panels());
    const int64_t element = static_cast<int64_t>(size_of(layout.dtype));
    const uint64_t used = used_experts(part, tasks.index, a.weights, row, rows);
    const auto needed = [&](int64_t panel) {
      const int64_t end = std::min((panel + 1) * kPanel, layout.rows);
      for (int64_t e = panel * kPanel / part.rank; e * part.rank < end; ++e) {
        if ((used >> e & 1) != 0) return true;
      }
      return false;
    };
    GemmBlock block = {};
    block.w_panel = static_cast<int64_t>(layout.panel_bytes());
    block.acc_stride = kTaskPanels * kPanel;
    block.x_group = group_rows * depth * plan.x_bytes;
    const int64_t block_depth = rows <= group_rows ? depth : kBlockBytes / (kPanel * element);
    float* const acc = static_cast<float*>(stream.scratch(slot));
    const char* const x = packed_x(tasks.segment->row_begin) + first_group * block.x_group;
    for (int64_t panel = first_panel; panel < end_panel;) {
      if (!needed(panel)) {
        ++panel;
        continue;
      }
      int64_t end = panel + 1;
      while (end < end_panel && needed(end)) ++end;
      block.acc = acc + (panel - first_panel) * kPanel;
      block.panels = static_cast<int>(end - panel);
      for (int64_t k = 0; k < depth; k += block_depth) {
        block.w =
            static_cast<const char*>(part.a->storage.data()) + panel * block.w_panel + k * kPanel * element;
        block.depth = std::min(block_depth, depth - k);
        block.first = k == 0;
        multiply_rows(plan, block, x, rows, group_rows, k);
      }
      const int64_t column = panel * kPanel;
      const int64_t columns = std::min(end * kPanel, layout.rows) - column;
      for (int64_t i = 0; i < rows; ++i) {
        std::copy_n(block.acc + i * block.acc_stride, columns,
                    static_cast<float*>(at(a.middle, row + i, tasks.index)) + column);
      }
      panel = end;
    }
  });
  return {};
}

size_t expert_expand_workspace(const ExpertExpandArgs& a) {
  // The weighted middle, and the same interleaved.
  return static_cast<size_t>(a.middle.shape[0] * a.parts * padded(a.middle.shape[2])) * 2 * sizeof(float);
}

Status expert_expand(Stream& base, const ExpertExpandArgs& a, Workspace workspace) {
  CpuStream& stream = cpu_stream(base);
  const DenseKernels& kernels = *stream.kernels().dense;
  if (rows_of(a) == 0) return {};
  const int64_t group_rows = kernels.row_group;
  const int64_t width = padded(a.middle.shape[2]);
  float* const weighted = static_cast<float*>(workspace.data);
  // Of a part, then of a row: the middle times weight and scale, and its packed groups.
  const auto weighted_row = [&](int32_t p, int64_t row) {
    return weighted + (p * a.middle.shape[0] + row) * width;
  };
  const auto packed = [&](int32_t p, int64_t row) {
    return reinterpret_cast<char*>(weighted_row(a.parts + p, row));
  };

  for (int64_t s = 0; s < a.segment_count; ++s) {
    const ExpertSegment& segment = a.segments[s];
    const int64_t end = segment.row_begin + segment.row_count;
    for (int32_t p = 0; p < a.parts; ++p) {
      const ExpertPart& part = segment.parts[static_cast<size_t>(p)];
      if (part.experts == 0) continue;
      const ProductPlan plan = plan_for(kernels, part.b->dtype);
      const int64_t cols = depth_of(part), depth = padded(cols);
      const int64_t groups = ceil_div(segment.row_count, group_rows);
      for_tasks(stream, segment.row_count * depth >= kWorthThreads, groups, [&](int64_t group, int) {
        const int64_t row = segment.row_begin + group * group_rows;
        const int64_t count = std::min(group_rows, end - row);
        for (int64_t i = row; i < row + count; ++i) {
          const float* const middle = static_cast<const float*>(at(a.middle, i, p));
          const float* const weights = part.weighted ? static_cast<const float*>(at(a.weights, i, p)) : nullptr;
          for (int64_t e = 0; e < part.experts; ++e) {
            const float factor = part.scale * (weights == nullptr ? 1.0f : weights[e]);
            float* const to = weighted_row(p, i) + e * part.rank;
            // What an unused expert's middle holds is nobody's business, a NaN even.
            const bool used = weights == nullptr || weights[e] != 0;
            for (int64_t k = 0; k < part.rank; ++k) to[k] = used ? factor * middle[e * part.rank + k] : 0.0f;
          }
        }
        plan.pack({weighted_row(p, row), Element::kF32, width, static_cast<int>(count), cols, depth,
                   packed(p, segment.row_begin) + group * group_rows * depth * plan.x_bytes});
      });
    }
  }

  const auto weight_of = [](const ExpertPart& part) -> const Weight& { return *part.b; };
  for_part_tasks(stream, a, group_rows, weight_of, [&](const PartTasks& tasks, int64_t task, int slot) {
    const ExpertPart& part = *tasks.part;
    const PackedLayout layout = layout_of(*part.b);
    const ProductPlan plan = plan_for(kernels, layout.dtype);
    const int64_t depth = layout.depth();
    const int64_t first_group = task % tasks.row_tasks * tasks.task_groups;
    const int64_t row = tasks.segment->row_begin + first_group * group_rows;
    const int64_t rows =
        std::min(tasks.task_groups * group_rows, tasks.segment->row_begin + tasks.segment->row_count - row);
    const int64_t panel = task / tasks.row_tasks * tasks.task_panels;
    const int64_t element = static_cast<int64_t>(size_of(layout.dtype));
    GemmBlock block = {};
    block.w_panel = static_cast<int64_t>(layout.panel_bytes());
    block.acc = static_cast<float*>(stream.scratch(slot));
    block.acc_stride = kTaskPanels * kPanel;
    block.x_group = group_rows * depth * plan.x_bytes;
    block.panels = static_cast<int>(std::min(tasks.task_panels, layout.panels() - panel));
    block.first = true;
    const char* const x = packed(tasks.index, tasks.segment->row_begin) + first_group * block.x_group;
    const char* const w = static_cast<const char*>(part.b->storage.data()) + panel * block.w_panel;
    const auto multiply = [&](int64_t begin, int64_t end) {
      block.w = w + begin * kPanel * element;
      block.depth = end - begin;
      multiply_rows(plan, block, x, rows, group_rows, begin);
      block.first = false;
    };
    const uint64_t used = used_experts(part, tasks.index, a.weights, row, rows);
    if (part.rank % 2 != 0 && used != 0) {
      multiply(0, depth);  // pairs of K may be two experts'
    } else {
      for (int64_t e = 0; e < part.experts; ++e) {
        if ((used >> e & 1) == 0) continue;
        const int64_t begin = e * part.rank;
        while (e + 1 < part.experts && (used >> (e + 1) & 1) != 0) ++e;
        multiply(begin, (e + 1) * part.rank);
      }
    }
    if (block.first) {
      if (!part.factor) return;
      std::memset(block.acc, 0, static_cast<size_t>(rows * block.acc_stride) * sizeof(float));
    }
    const Tensor& out = a.out[static_cast<size_t>(tasks.index)];
    const Element type = element_of(out.dtype);
    const int64_t column = panel * kPanel;
    const int64_t columns = std::min<int64_t>(block.panels * kPanel, layout.rows - column);
    for (int64_t i = 0; i < rows; ++i) {
      const float* const acc = block.acc + i * block.acc_stride;
      if (part.factor) {
        stream.kernels().experts->store_rescaled(acc, part.factor.as<const float>() + column,
                                                 part.offset ? part.offset.as<const float>() + column : nullptr,
                                                 at(out, row + i, column), type, columns);
      } else {
        kernels.store_row(acc, nullptr, at(out, row + i, column), type, true, columns);
      }
    }
  });
  return {};
}

Status add_weighted_rows(Stream& stream, const AddWeightedRowsArgs& a) {
  const ExpertKernels& kernels = *cpu_stream(stream).kernels().experts;
  const int64_t cols = a.x.shape[1];
  for_rows(stream, a.x.shape[0], cols, [&](int64_t row) {
    const float weight = a.weights ? *static_cast<const float*>(at(a.weights, row)) : 1.0f;
    if (weight != 0) {
      kernels.add_scaled(weight, at(a.x, row), element_of(a.x.dtype), at(a.out, row), element_of(a.out.dtype),
                         a.accumulate, cols);
    } else if (!a.accumulate) {
      std::memset(at(a.out, row), 0, static_cast<size_t>(cols) * size_of(a.out.dtype));
    }
  });
  return {};
}

}  // namespace longhaul::cpu
