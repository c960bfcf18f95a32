// Cases of the gradients of experts and routers. Adapters are trained in f32, whatever the weights below them
// are.
#include <cmath>

#include "cases.h"
#include "expert_data.h"

namespace longhaul::bench {
namespace {

constexpr int64_t kBlock = 512;
// Small, so that gradients keep their size however often they are added to.
constexpr float kSmall = 1e-6f;

// One case for a shape, not one for each dtype of weights.
bool once(const CaseContext& ctx) {
  return ctx.dtype == DType::kBf16;
}

OpCase start(const CaseContext& ctx, std::string op, std::string label) {
  OpCase c = ctx.start(std::move(op), std::move(label));
  c.dtype = DType::kF32;
  c.place = Place::kCache;
  return c;
}

// A block's tokens in the routers of 16 projections.
constexpr int64_t kLossRows = 16 * kBlock;
constexpr float kEntropyScale = 0.01f, kBalanceScale = 0.001f;

Result<RouterLossArgs> router_loss_args(Memory& memory) {
  RouterLossArgs a;
  LONGHAUL_ASSIGN(a.logits, memory.random(DType::kF32, {kLossRows, kExperts}));
  const std::vector<float> ones(static_cast<size_t>(kLossRows), 1);
  LONGHAUL_ASSIGN(a.attended, memory.from(DType::kF32, {kLossRows}, ones.data()));
  LONGHAUL_ASSIGN(a.usage, memory.zeros(DType::kF32, {2, kExperts}));
  LONGHAUL_ASSIGN(a.summary, memory.zeros(DType::kF32, {4}));
  a.entropy_scale = kEntropyScale;
  a.balance_scale = kBalanceScale;
  return a;
}

std::string loss_label() {
  return text(kExperts) + " experts rows " + text(kLossRows);
}

// An exp and a power of each logit, and three sums.
void add_router_loss(const CaseContext& ctx, Cases& cases) {
  if (!once(ctx)) return;
  OpCase c = start(ctx, "router_loss", loss_label());
  c.bytes = 4 * static_cast<double>(kLossRows * (kExperts + 1));
  c.flops = 8 * static_cast<double>(kLossRows * kExperts);
  c.quick = true;
  c.make = [](Memory& memory) -> Result<Operation> {
    LONGHAUL_ASSIGN(RouterLossArgs a, router_loss_args(memory));
    LONGHAUL_ASSIGN(Workspace workspace, memory.workspace(memory.backend().ops().router_loss_workspace(a)));
    return rotate(memory, std::vector{a}, workspace);
  };
  cases.push_back(std::move(c));
}

// Logits and the gradients of weights read, those of logits written. Beside the exp and the power the gradient
// of the entropy, and of the softmax that of weights and of the losses: a product, a sum and a product each.
void add_route_backward(const CaseContext& ctx, Cases& cases) {
  if (!once(ctx)) return;
  OpCase c = start(ctx, "route_backward", loss_label());
  c.bytes = 4 * static_cast<double>(kLossRows * (3 * kExperts + 1));
  c.flops = 12 * static_cast<double>(kLossRows * kExperts);
  c.quick = true;
  c.make = [](Memory& memory) -> Result<Operation> {
    LONGHAUL_ASSIGN(RouterLossArgs loss, router_loss_args(memory));
    LONGHAUL_ASSIGN(Workspace workspace, memory.workspace(memory.backend().ops().router_loss_workspace(loss)));
    LONGHAUL_TRY(run(memory.backend(), memory.stream(), loss, workspace));
    RouteBackwardArgs a;
    a.logits = loss.logits;
    LONGHAUL_ASSIGN(a.dweights, memory.random(DType::kF32, {kLossRows, kExperts}));
    a.usage = loss.usage;
    a.summary = loss.summary;
    a.attended = loss.attended;
    a.entropy_scale = kEntropyScale;
    a.balance_scale = kBalanceScale;
    a.loss_rows = kLossRows;
    LONGHAUL_ASSIGN(a.dlogits, memory.zeros(DType::kF32, {kLossRows, kExperts}));
    return rotate(memory, std::vector{a});
  };
  cases.push_back(std::move(c));
}

// Of the gate projection's experts.
void add_expert_backward(const CaseContext& ctx, Cases& cases) {
  if (!once(ctx)) return;
  const int64_t inputs = ctx.shape.hidden, outputs = ctx.shape.ff;
  OpCase c = start(ctx, "expert_backward",
                   text(kExperts) + " experts of rank " + text(kExpertRank) + " rows " + text(kBlock));
  const auto width = static_cast<double>(inputs + outputs), rows = static_cast<double>(kBlock);
  const double depth = kExperts * kExpertRank, row_depth = kRowExperts * kExpertRank;
  // x and dout read, dx read and written; A and B read, their gradients read and written; the middle of the
  // row's experts and the weights read, the weights' gradients written.
  c.bytes = 4 * (rows * (width + 2 * static_cast<double>(inputs)) + 3 * depth * width +
                 rows * (row_depth + 2 * static_cast<double>(kExperts)));
  // Of each row and expert: B^T dout, and the gradients of B, A and x.
  c.flops = 4 * rows * row_depth * width;
  c.quick = true;
  c.make = [=](Memory& memory) -> Result<Operation> {
    ExpertBackwardArgs a;
    LONGHAUL_ASSIGN(a.x, memory.random(DType::kF32, {kBlock, inputs}));
    LONGHAUL_ASSIGN(a.dout, memory.random(DType::kF32, {kBlock, outputs}));
    LONGHAUL_ASSIGN(a.a, memory.random(DType::kF32, {kExperts, kExpertRank, inputs}));
    LONGHAUL_ASSIGN(a.b, memory.random(DType::kF32, {kExperts, outputs, kExpertRank}));
    LONGHAUL_ASSIGN(Tensor weights, routed_weights(memory, kBlock, 1));
    a.weights = Tensor::dense(weights.data, DType::kF32, {kBlock, kExperts});
    LONGHAUL_ASSIGN(a.middle, memory.random(DType::kF32, {kBlock, kExperts, kExpertRank}));
    a.scale = kSmall;
    LONGHAUL_ASSIGN(a.dx, memory.random(DType::kF32, {kBlock, inputs}));
    LONGHAUL_ASSIGN(a.da, memory.random(DType::kF32, {kExperts, kExpertRank, inputs}));
    LONGHAUL_ASSIGN(a.db, memory.random(DType::kF32, {kExperts, outputs, kExpertRank}));
    LONGHAUL_ASSIGN(a.dweights, memory.zeros(DType::kF32, {kBlock, kExperts}));
    LONGHAUL_ASSIGN(Workspace workspace, memory.workspace(memory.backend().ops().expert_backward_workspace(a)));
    return rotate(memory, std::vector{a}, workspace);
  };
  cases.push_back(std::move(c));
}

// Through a projection of the model to its input; with `trained`, as of a router's gate, to the matrix as well.
OpCase linear_backward_case(const CaseContext& ctx, const char* role, int64_t outputs, int64_t inputs,
                            bool trained) {
  OpCase c = start(ctx, "linear_backward",
                   std::string(role) + " " + text(outputs) + "x" + text(inputs) + " rows " + text(kBlock));
  const auto m = static_cast<double>(kBlock), n = static_cast<double>(outputs), k = static_cast<double>(inputs);
  c.bytes = 4 * (m * n + n * k + 2 * m * k);
  if (trained) c.bytes += 4 * (m * k + 2 * n * k);
  c.flops = (trained ? 4 : 2) * m * n * k;
  c.place = Place::kMemory;
  c.make = [=](Memory& memory) -> Result<Operation> {
    LinearBackwardArgs a;
    LONGHAUL_ASSIGN(a.dy, memory.random(DType::kF32, {kBlock, outputs}, kSmall));
    LONGHAUL_ASSIGN(a.dx, memory.random(DType::kF32, {kBlock, inputs}));
    if (trained) {
      LONGHAUL_ASSIGN(a.x, memory.random(DType::kF32, {kBlock, inputs}));
    }
    std::vector<LinearBackwardArgs> args;
    for (int64_t i = Memory::cold_copies(4 * outputs * inputs); i > 0; --i) {
      LONGHAUL_ASSIGN(a.weight, memory.random(DType::kF32, {outputs, inputs}));
      if (trained) {
        LONGHAUL_ASSIGN(a.dweight, memory.random(DType::kF32, {outputs, inputs}));
      }
      args.push_back(a);
    }
    return rotate(memory, std::move(args));
  };
  return c;
}

void add_linear_backward(const CaseContext& ctx, Cases& cases) {
  if (!once(ctx)) return;
  const ModelShape& s = ctx.shape;
  cases.push_back(linear_backward_case(ctx, "o", s.hidden, s.q_rows(), false));
  cases.back().quick = true;
  cases.push_back(linear_backward_case(ctx, "router", kExperts, s.hidden, true));
}

}  // namespace

const std::vector<OpEntry>& expert_gradient_entries() {
  static const std::vector<OpEntry> entries = {
      {"router_loss", add_router_loss},
      {"route_backward", add_route_backward},
      {"expert_backward", add_expert_backward},
      {"linear_backward", add_linear_backward},
  };
  return entries;
}

}  // namespace longhaul::bench
