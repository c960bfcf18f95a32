// Sequences with adapters: against a model whose weights are merged, and in batches against each alone.
#include <gtest/gtest.h>

#include <cmath>
#include <deque>

#include "machine.h"

namespace longhaul {
namespace {

using testing::kFastDevice;

constexpr testing::RandomModel kShape;
constexpr int64_t kPoolBytes = 1 << 20;

// An adapter and the numbers it points to.
struct RandomAdapter {
  Adapter adapter;
  std::deque<std::vector<float>> memory;
  std::mt19937 random;

  RandomAdapter(const AdaptedModel& model, uint32_t seed) : random(seed) {
    adapter.layers.resize(static_cast<size_t>(model.layers));
  }

  Tensor tensor(std::initializer_list<int64_t> shape, float spread) {
    Tensor t = Tensor::dense(nullptr, DType::kF32, shape);
    std::normal_distribution<float> normal(0, spread);
    std::vector<float>& values = memory.emplace_back(static_cast<size_t>(t.elements()));
    for (float& value : values) value = normal(random);
    t.data = values.data();
    return t;
  }

  ProjectionAdapter& add(const AdaptedModel& model, int64_t layer, Projection p, int32_t experts,
                         int32_t rank) {
    ProjectionAdapter& part = adapter.layers[static_cast<size_t>(layer)][p];
    part.experts = experts;
    part.rank = rank;
    part.scale = 2;
    part.a = tensor({experts, rank, model.inputs(p)}, 0.2f);
    part.b = tensor({experts, model.outputs(p), rank}, 0.2f);
    if (experts > 1) part.router = tensor({experts, model.inputs(p)}, 0.2f);
    return part;
  }
};

RandomAdapter lora(const AdaptedModel& model, uint32_t seed) {
  RandomAdapter a(model, seed);
  for (int64_t l = 0; l < model.layers; ++l) {
    for (int p = 0; p < kProjections; ++p) a.add(model, l, static_cast<Projection>(p), 1, 3);
  }
  return a;
}

RandomAdapter dynmole(const AdaptedModel& model, uint32_t seed) {
  RandomAdapter a(model, seed);
  a.adapter.kind = AdapterKind::kDynMole;
  for (int64_t l = 0; l < model.layers; ++l) {
    for (Projection p : {Projection::kGate, Projection::kUp, Projection::kDown}) a.add(model, l, p, 6, 2);
  }
  return a;
}

RandomAdapter mixlora(const AdaptedModel& model, uint32_t seed) {
  RandomAdapter a(model, seed);
  a.adapter.kind = AdapterKind::kMixLora;
  a.adapter.router = top_k_router(2);
  for (int64_t l = 0; l < model.layers; ++l) {
    a.add(model, l, Projection::kV, 1, 4);
    LayerAdapter& layer = a.adapter.layers[static_cast<size_t>(l)];
    for (Projection p : {Projection::kGate, Projection::kUp, Projection::kDown}) {
      a.add(model, l, p, 4, 2);
      layer[p].router = Tensor();
    }
    layer.ffn_router = a.tensor({4, model.hidden}, 0.3f);
  }
  return a;
}

// W + scale * B A into the tensors of a model; with a magnitude each row then gets that norm.
void merge(std::vector<testing::NamedTensor>& tensors, const RandomAdapter& a) {
  for (size_t l = 0; l < a.adapter.layers.size(); ++l) {
    for (int i = 0; i < kProjections; ++i) {
      const auto p = static_cast<Projection>(i);
      const ProjectionAdapter& part = a.adapter.layers[l][p];
      if (!part.present()) continue;
      const std::string name =
          "model.layers." + std::to_string(l) + (i < 4 ? ".self_attn." : ".mlp.") + name_of(p) + ".weight";
      auto at = std::find_if(tensors.begin(), tensors.end(), [&](const auto& t) { return t.name == name; });
      ASSERT_NE(at, tensors.end()) << name;
      const int64_t inputs = part.a.shape[2], outputs = part.b.shape[1];
      for (int64_t n = 0; n < outputs; ++n) {
        std::vector<double> row(static_cast<size_t>(inputs));
        double squares = 0;
        for (int64_t d = 0; d < inputs; ++d) {
          double sum = static_cast<double>(at->values[static_cast<size_t>(n * inputs + d)]);
          for (int64_t k = 0; k < part.rank; ++k) {
            sum += static_cast<double>(part.scale) *
                   static_cast<double>(part.b.as<float>()[n * part.rank + k]) *
                   static_cast<double>(part.a.as<float>()[k * inputs + d]);
          }
          row[static_cast<size_t>(d)] = sum;
          squares += sum * sum;
        }
        const double factor =
            part.magnitude ? static_cast<double>(part.magnitude.as<float>()[n]) / std::sqrt(squares) : 1;
        for (int64_t d = 0; d < inputs; ++d) {
          at->values[static_cast<size_t>(n * inputs + d)] =
              static_cast<float>(factor * row[static_cast<size_t>(d)]);
        }
      }
    }
  }
}

MemoryPolicy full() {
  MemoryPolicy policy;
  policy.kind = PolicyKind::kFull;
  policy.block = 32;
  return policy;
}

const std::vector<int32_t> kTokens{3, 17, 42, 8, 61, 5, 5, 30, 12, 9, 44};

std::vector<float> logits(testing::Machine& machine, int64_t row, int64_t count = 1) {
  const Result<Tensor> on_device = machine.model->logits(row, count);
  EXPECT_TRUE(on_device.ok()) << on_device.status().message();
  std::vector<float> values(static_cast<size_t>(count * kShape.vocab));
  EXPECT_TRUE(machine.model->stream().synchronize().ok());
  EXPECT_TRUE(machine.backend
                  ->download(machine.model->stream(), values.data(), on_device.value().data,
                             values.size() * sizeof(float))
                  .ok());
  return values;
}

std::shared_ptr<const AdapterWeights> bring(testing::Machine& machine, const RandomAdapter& a) {
  Result<std::shared_ptr<const AdapterWeights>> weights = machine.model->bring(a.adapter);
  EXPECT_TRUE(weights.ok()) << weights.status().message();
  return weights.ok() ? weights.value() : nullptr;
}

std::unique_ptr<Sequence> sequence_with(testing::Machine& machine,
                                        std::shared_ptr<const AdapterWeights> adapter) {
  std::unique_ptr<Sequence> sequence = machine.sequence(full());
  EXPECT_TRUE(sequence->use(std::move(adapter)).ok());
  EXPECT_TRUE(sequence->admit(static_cast<int64_t>(kTokens.size()) + 8).ok());
  return sequence;
}

// The last row's logits behind the prompt, and those of a decode step behind that.
std::vector<float> run_alone(testing::Machine& machine, std::shared_ptr<const AdapterWeights> adapter) {
  const std::unique_ptr<Sequence> sequence = sequence_with(machine, std::move(adapter));
  EXPECT_TRUE(sequence->prefill(kTokens).ok());
  std::vector<float> values = logits(machine, sequence->last_row());
  const int32_t next = 7;
  EXPECT_TRUE(sequence->extend({&next, 1}).ok());
  const std::vector<float> behind = logits(machine, sequence->last_row());
  values.insert(values.end(), behind.begin(), behind.end());
  return values;
}

void expect_merged(bool dora) {
  testing::Machine machine = testing::make_machine(kFastDevice, kShape, kPoolBytes);
  RandomAdapter a = lora(machine.model->adapted(), 5);
  if (dora) {
    for (LayerAdapter& layer : a.adapter.layers) {
      for (Projection p : {Projection::kK, Projection::kO, Projection::kUp, Projection::kDown}) {
        layer[p].magnitude = a.tensor({machine.model->adapted().outputs(p)}, 0.1f);
        for (int64_t n = 0; n < layer[p].magnitude.shape[0]; ++n) layer[p].magnitude.as<float>()[n] += 1.5f;
      }
    }
  }
  std::vector<testing::NamedTensor> tensors = testing::random_tensors(kShape);
  merge(tensors, a);
  testing::Machine merged = testing::make_machine(kFastDevice, kShape, kPoolBytes, tensors);
  const std::vector<float> got = run_alone(machine, bring(machine, a));
  const std::vector<float> want = run_alone(merged, nullptr);
  const std::vector<float> base = run_alone(machine, nullptr);
  double change = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    ASSERT_NEAR(got[i], want[i], 2e-3 * (1 + std::fabs(static_cast<double>(want[i])))) << i;
    change = std::max(change, std::fabs(static_cast<double>(want[i] - base[i])));
  }
  EXPECT_GT(change, 1);
}

TEST(AdaptedModelTest, LoraIsTheModelWithMergedWeights) {
  expect_merged(false);
}

TEST(AdaptedModelTest, DoraIsTheModelWithMergedAndRescaledWeights) {
  expect_merged(true);
}

TEST(AdaptedModelTest, RowsOfABatchAreThoseOfEachAlone) {
  testing::Machine machine = testing::make_machine(kFastDevice, kShape, kPoolBytes);
  const std::vector<float> before = run_alone(machine, nullptr);
  const AdaptedModel model = machine.model->adapted();
  const auto routed = bring(machine, dynmole(model, 1));
  const std::vector<std::shared_ptr<const AdapterWeights>> adapters{
      routed, nullptr, bring(machine, lora(model, 2)), bring(machine, mixlora(model, 3)), routed, routed};
  std::vector<std::vector<float>> alone;
  std::vector<std::unique_ptr<Sequence>> owners;
  std::vector<Sequence*> sequences;
  for (const auto& adapter : adapters) {
    alone.push_back(run_alone(machine, adapter));
    sequences.push_back(owners.emplace_back(sequence_with(machine, adapter)).get());
  }
  EXPECT_EQ(alone[1], before);
  for (size_t i : {0, 2, 3}) EXPECT_NE(alone[i], before);

  ASSERT_TRUE(Sequence::prepare_together(sequences).ok());
  ASSERT_TRUE(Sequence::prefill_together(sequences, kTokens).ok());
  const auto rows = static_cast<int64_t>(kTokens.size());
  std::vector<std::vector<float>> together;
  for (size_t i = 0; i < sequences.size(); ++i) {
    together.push_back(logits(machine, static_cast<int64_t>(i + 1) * rows - 1));
  }
  const std::vector<int32_t> next(sequences.size(), 7);
  ASSERT_TRUE(Sequence::extend_together(sequences, next).ok());
  const std::vector<float> behind = logits(machine, 0, static_cast<int64_t>(sequences.size()));
  ASSERT_TRUE(Sequence::settle_together(sequences).ok());
  for (size_t i = 0; i < sequences.size(); ++i) {
    const auto begin = behind.begin() + static_cast<int64_t>(i) * kShape.vocab;
    together[i].insert(together[i].end(), begin, begin + kShape.vocab);
    EXPECT_EQ(together[i], alone[i]) << "sequence " << i;
  }
}

TEST(AdaptedModelTest, AnotherAdapterTakesOverAtOnce) {
  testing::Machine machine = testing::make_machine(kFastDevice, kShape, kPoolBytes);
  const AdaptedModel model = machine.model->adapted();
  const auto first = bring(machine, dynmole(model, 1));
  const std::vector<float> of_first = run_alone(machine, first);
  // An adapter that is gone, and one that may lie where it lay: recorded passes must not mistake one for
  // another.
  static_cast<void>(run_alone(machine, bring(machine, lora(model, 4))));
  const std::vector<float> of_second = run_alone(machine, bring(machine, lora(model, 2)));
  const std::vector<float> again = run_alone(machine, bring(machine, lora(model, 2)));
  EXPECT_EQ(again, of_second);
  EXPECT_EQ(run_alone(machine, first), of_first);
}

TEST(AdaptedModelTest, EveryByteComesBack) {
  testing::Machine machine = testing::make_machine(kFastDevice, kShape, kPoolBytes);
  const AdaptedModel model = machine.model->adapted();
  const size_t before = machine.backend->allocated(MemoryUse::kWeights);
  for (uint32_t seed = 0; seed < 3; ++seed) {
    auto adapter = bring(machine, seed == 0   ? dynmole(model, 1)
                                  : seed == 1 ? lora(model, 2)
                                              : mixlora(model, 3));
    EXPECT_GT(adapter->bytes(), 0);
    EXPECT_EQ(machine.backend->allocated(MemoryUse::kWeights), before + static_cast<size_t>(adapter->bytes()));
    static_cast<void>(run_alone(machine, adapter));
    adapter.reset();
    EXPECT_EQ(machine.backend->allocated(MemoryUse::kWeights), before);
  }
}

TEST(AdaptedModelTest, AnAdapterOfAnotherModelIsRefused) {
  testing::Machine machine = testing::make_machine(kFastDevice, kShape, kPoolBytes);
  AdaptedModel other = machine.model->adapted();
  other.hidden += 8;
  const auto refused = machine.model->bring(lora(other, 1).adapter);
  EXPECT_EQ(refused.status().code(), Code::kCorruptFile);
  EXPECT_NE(refused.status().message().find("layer 0 q_proj"), std::string::npos) << refused.status().message();
}

}  // namespace
}  // namespace longhaul
