// What the readers make of adapters of each kind: every element where it belongs, and errors that name the
// tensor.
#include "mole/adapter_file.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "files/temporary_directory.h"
#include "mole/adapter_case.h"

namespace longhaul {
namespace {

constexpr Projection kAll[] = {Projection::kQ,    Projection::kK,  Projection::kV,   Projection::kO,
                               Projection::kGate, Projection::kUp, Projection::kDown};

std::string layer_name(const std::string& prefix, int64_t l) {
  return prefix + ".layers." + std::to_string(l) + ".";
}

AdapterCase lora_case(DType dtype = DType::kF32) {
  AdapterCase lora{
      R"({"peft_type":"LORA","r":3,"lora_alpha":6,"bias":"none","target_modules":["q_proj","o_proj","down_proj"]})",
      {}};
  for (int64_t l = 0; l < kSmallModel.layers; ++l) {
    for (const Projection p : {Projection::kQ, Projection::kO, Projection::kDown}) {
      add_lora(lora.tensors, layer_name("base_model.model.model", l) + module_of(p) + "." + name_of(p), 3, p,
               dtype);
    }
  }
  return lora;
}

// Each projection has a router and three experts: DynMoLE, MoLA and LoRAMoE.
AdapterCase routed_case(const std::string& type, const std::string& prefix,
                        std::vector<Projection> projections) {
  AdapterCase routed{
      "{\"peft_type\":\"" + type + "\",\"r\":2,\"lora_alpha\":8,\"num_experts\":3,\"target_modules\":[", {}};
  for (size_t i = 0; i < projections.size(); ++i) {
    routed.config += std::string(i ? ",\"" : "\"") + name_of(projections[i]) + "\"";
  }
  routed.config += "]}";
  for (int64_t l = 0; l < kSmallModel.layers; ++l) {
    for (const Projection p : projections) {
      const std::string name = layer_name(prefix, l) + module_of(p) + "." + name_of(p);
      routed.tensors.push_back({name + ".moe_gate.weight", {3, kSmallModel.inputs(p)}});
      for (int e = 0; e < 3; ++e) add_lora(routed.tensors, name + ".experts." + std::to_string(e), 2, p);
    }
  }
  return routed;
}

// MixLoRA: "up" and "down" of the FFN and q of the attention. `old` are the names before MoE-PEFT.
AdapterCase mixlora_case(bool old, bool w_projections) {
  AdapterCase mix{
      R"({"peft_type":"MIXLORA","routing_strategy":"mixlora","r":2,"lora_alpha":4,"num_experts":3,"top_k":2,"target_modules":)",
      {}};
  mix.config += w_projections
                    ? R"({"q_proj":true,"k_proj":false,"w3_proj":true,"w2_proj":true,"w1_proj":false}})"
                    : R"(["q_proj","up_proj","down_proj"]})";
  for (int64_t l = 0; l < kSmallModel.layers; ++l) {
    const std::string layer = layer_name("mixlora", l);
    mix.tensors.push_back({layer + (old ? "gate.weight" : "mlp.moe_gate.weight"), {3, kSmallModel.hidden}});
    add_lora(mix.tensors, layer + "self_attn.q_proj", 2, Projection::kQ);
    for (const Projection p : {Projection::kUp, Projection::kDown}) {
      const std::string name = !w_projections ? name_of(p) : p == Projection::kUp ? "w3_proj" : "w2_proj";
      for (int e = 0; e < 3; ++e) {
        const std::string expert = "experts." + std::to_string(e);
        add_lora(mix.tensors, layer + (old ? expert + "." + name : "mlp." + name + "." + expert), 2, p);
      }
    }
  }
  return mix;
}

void expect_expert(const ProjectionAdapter& part, int32_t e, const std::string& name) {
  expect_made(part.a.slice(e, 1), name + ".lora_A.weight");
  expect_made(part.b.slice(e, 1), name + ".lora_B.weight");
}

void expect_lora(const Adapter& adapter, DType dtype) {
  EXPECT_EQ(adapter.kind, AdapterKind::kLora);
  ASSERT_EQ(adapter.layers.size(), 2u);
  for (int64_t l = 0; l < 2; ++l) {
    for (const Projection p : kAll) {
      const ProjectionAdapter& part = adapter.layers[static_cast<size_t>(l)][p];
      const bool adapted = p == Projection::kQ || p == Projection::kO || p == Projection::kDown;
      ASSERT_EQ(part.present(), adapted) << name_of(p);
      if (!adapted) continue;
      EXPECT_EQ(part.experts, 1);
      EXPECT_EQ(part.rank, 3);
      EXPECT_EQ(part.scale, 2.0f);
      EXPECT_EQ(part.a.dtype, dtype);
      EXPECT_EQ(part.b.dtype, dtype);
      EXPECT_FALSE(part.router);
      EXPECT_FALSE(part.magnitude);
      expect_expert(part, 0, layer_name("base_model.model.model", l) + module_of(p) + "." + name_of(p));
    }
  }
}

TEST(AdapterFile, ReadsLora) {
  for (const bool torch : {false, true}) {
    for (const DType dtype : {DType::kF32, DType::kBf16, DType::kF16}) {
      const Result<Adapter> adapter = lora_case(dtype).read(torch);
      ASSERT_TRUE(adapter.ok()) << adapter.status().message();
      expect_lora(adapter.value(), dtype);
    }
  }
  // One tensor of another type: all become f32.
  for (const size_t odd : {size_t{0}, size_t{5}}) {
    AdapterCase mixed = lora_case(DType::kBf16);
    mixed.tensors[odd].dtype = DType::kF16;
    const Result<Adapter> adapter = mixed.read();
    ASSERT_TRUE(adapter.ok()) << adapter.status().message();
    expect_lora(adapter.value(), DType::kF32);
  }
}

TEST(AdapterFile, ReadsVariantsOfLora) {
  const Result<Adapter> stable = lora_case().with("use_rslora", "true").read();
  ASSERT_TRUE(stable.ok());
  EXPECT_FLOAT_EQ(stable.value().layers[0][Projection::kQ].scale, 6.0f / std::sqrt(3.0f));

  AdapterCase dora = lora_case().with("use_dora", "true");
  dora.expect_refused(Code::kCorruptFile, "model.layers.0.self_attn.q_proj.lora_magnitude_vector'");
  for (int64_t l = 0; l < 2; ++l) {
    for (const Projection p : {Projection::kQ, Projection::kO, Projection::kDown}) {
      dora.tensors.push_back(
          {layer_name("base_model.model.model", l) + module_of(p) + "." + name_of(p) + ".lora_magnitude_vector",
           {kSmallModel.outputs(p)},
           DType::kBf16});
    }
  }
  for (const bool torch : {false, true}) {
    const Result<Adapter> read = dora.read(torch);
    ASSERT_TRUE(read.ok()) << read.status().message();
    const Tensor& magnitude = read.value().layers[1][Projection::kDown].magnitude;
    EXPECT_EQ(magnitude.dtype, DType::kF32);
    expect_made(magnitude, "base_model.model.model.layers.1.mlp.down_proj.lora_magnitude_vector");
  }
  // Without use_dora the magnitudes are too much.
  dora.with("use_dora", "false")
      .expect_refused(Code::kCorruptFile, "lora_magnitude_vector\" is none that LoRA");
}

TEST(AdapterFile, ReadsRanksAndAlphasOfSingleProjections) {
  AdapterCase lora =
      lora_case()
          .with("rank_pattern", R"({"layers.1.self_attn.q_proj":5,"^model.layers.0.mlp.down_proj":1})")
          .with("alpha_pattern", R"({"o_proj":9,"mlp.down_proj":4})");
  for (MadeTensor& tensor : lora.tensors) {
    const int64_t rank = tensor.name.find("layers.1.self_attn.q_proj") != std::string::npos ? 5
                         : tensor.name.find("layers.0.mlp.down_proj") != std::string::npos  ? 1
                                                                                            : 3;
    tensor.shape[tensor.name.find("lora_A") != std::string::npos ? 0 : 1] = rank;
  }
  const Result<Adapter> adapter = lora.read();
  ASSERT_TRUE(adapter.ok()) << adapter.status().message();
  const auto& layers = adapter.value().layers;
  EXPECT_EQ(layers[0][Projection::kQ].rank, 3);
  EXPECT_EQ(layers[1][Projection::kQ].rank, 5);
  EXPECT_FLOAT_EQ(layers[1][Projection::kQ].scale, 6.0f / 5);
  EXPECT_FLOAT_EQ(layers[0][Projection::kO].scale, 9.0f / 3);
  EXPECT_EQ(layers[0][Projection::kDown].rank, 1);
  EXPECT_FLOAT_EQ(layers[0][Projection::kDown].scale, 4.0f);
  EXPECT_FLOAT_EQ(layers[1][Projection::kDown].scale, 4.0f / 3);
}

TEST(AdapterFile, ReadsTheLayersAndProjectionsThatTheConfigurationChose) {
  AdapterCase second = lora_case().with("layers_to_transform", "[1]").with("exclude_modules", R"(["o_proj"])");
  std::erase_if(second.tensors, [](const MadeTensor& t) {
    return t.name.find("layers.0.") != std::string::npos || t.name.find("o_proj") != std::string::npos;
  });
  const Result<Adapter> adapter = second.read();
  ASSERT_TRUE(adapter.ok()) << adapter.status().message();
  EXPECT_FALSE(adapter.value().layers[0][Projection::kQ].present());
  EXPECT_FALSE(adapter.value().layers[1][Projection::kO].present());
  expect_expert(adapter.value().layers[1][Projection::kQ], 0,
                "base_model.model.model.layers.1.self_attn.q_proj");
  EXPECT_TRUE(second.with("layers_to_transform", "1").read().ok());
  second.with("layers_to_transform", "0")
      .expect_refused(Code::kCorruptFile, "layers.0.self_attn.q_proj.lora_A.weight'");

  // "self_attn.o_proj" is a suffix of whole parts; "roj" is none.
  EXPECT_TRUE(
      lora_case()
          .with("target_modules",
                R"(["q_proj","self_attn.o_proj","model.layers.0.mlp.down_proj","layers.1.mlp.down_proj"])")
          .read()
          .ok());
  lora_case()
      .with("target_modules", R"(["q_proj","roj","down_proj"])")
      .expect_refused(Code::kCorruptFile, "o_proj.lora_A.weight\" is none that LoRA");

  // A regular expression is not run: the tensors say what it matched.
  const Result<Adapter> pattern = lora_case().with("target_modules", "\".*(q|o|down)_proj\"").read();
  ASSERT_TRUE(pattern.ok()) << pattern.status().message();
  expect_lora(pattern.value(), DType::kF32);
  AdapterCase half = lora_case().with("target_modules", "\".*\"");
  std::erase_if(half.tensors,
                [](const MadeTensor& t) { return t.name.ends_with("layers.1.mlp.down_proj.lora_A.weight"); });
  half.expect_refused(Code::kCorruptFile,
                      "has no tensor 'base_model.model.model.layers.1.mlp.down_proj.lora_A.weight'");
}

TEST(AdapterFile, ReadsProjectionsWithRouters) {
  const std::vector<Projection> all(std::begin(kAll), std::end(kAll));
  const std::vector<Projection> ffn(std::begin(kAll) + 4, std::end(kAll));
  const struct {
    AdapterKind kind;
    AdapterCase adapter;
    std::string prefix;
    std::vector<Projection> projections;
  } cases[] = {{AdapterKind::kDynMole, routed_case("DYNMOLE", "dynmole", all), "dynmole", all},
               {AdapterKind::kMola, routed_case("MOLA", "mola", all), "mola", all},
               {AdapterKind::kLoraMoe, routed_case("LORAMOE", "loramoe", ffn), "loramoe", ffn}};
  for (const auto& one : cases) {
    for (const bool torch : {false, true}) {
      const Result<Adapter> adapter = one.adapter.read(torch);
      ASSERT_TRUE(adapter.ok()) << adapter.status().message();
      EXPECT_EQ(adapter.value().kind, one.kind);
      for (int64_t l = 0; l < 2; ++l) {
        EXPECT_FALSE(adapter.value().layers[static_cast<size_t>(l)].ffn_router);
        for (const Projection p : one.projections) {
          const ProjectionAdapter& part = adapter.value().layers[static_cast<size_t>(l)][p];
          const std::string name = layer_name(one.prefix, l) + module_of(p) + "." + name_of(p);
          EXPECT_EQ(part.experts, 3);
          EXPECT_EQ(part.scale, 4.0f);
          for (int32_t e = 0; e < 3; ++e) expect_expert(part, e, name + ".experts." + std::to_string(e));
          expect_made(part.router, name + ".moe_gate.weight");
        }
      }
    }
  }
  // LoRAMoE leaves attention a plain LoRA.
  AdapterCase with_q =
      cases[2].adapter.with("target_modules", R"(["q_proj","gate_proj","up_proj","down_proj"])");
  for (int64_t l = 0; l < 2; ++l)
    add_lora(with_q.tensors, layer_name("loramoe", l) + "self_attn.q_proj", 2, Projection::kQ);
  const Result<Adapter> plain = with_q.read();
  ASSERT_TRUE(plain.ok()) << plain.status().message();
  EXPECT_EQ(plain.value().layers[0][Projection::kQ].experts, 1);
  expect_expert(plain.value().layers[1][Projection::kQ], 0, "loramoe.layers.1.self_attn.q_proj");
}

TEST(AdapterFile, ReadsMixLoraByItsNewAndOldNames) {
  for (const auto& [old, w] : {std::pair(false, false), {true, false}, {true, true}}) {
    const AdapterCase mix = mixlora_case(old, w);
    for (const bool torch : {false, true}) {
      const Result<Adapter> adapter = mix.read(torch);
      ASSERT_TRUE(adapter.ok()) << adapter.status().message();
      for (int64_t l = 0; l < 2; ++l) {
        const LayerAdapter& layer = adapter.value().layers[static_cast<size_t>(l)];
        const std::string prefix = layer_name("mixlora", l);
        expect_made(layer.ffn_router, prefix + (old ? "gate.weight" : "mlp.moe_gate.weight"));
        EXPECT_EQ(layer[Projection::kQ].experts, 1);
        expect_expert(layer[Projection::kQ], 0, prefix + "self_attn.q_proj");
        EXPECT_FALSE(layer[Projection::kGate].present());
        for (int32_t e = 0; e < 3; ++e) {
          const std::string expert = "experts." + std::to_string(e);
          expect_expert(layer[Projection::kUp], e,
                        prefix + (!old ? "mlp.up_proj." + expert : expert + (w ? ".w3_proj" : ".up_proj")));
          expect_expert(layer[Projection::kDown], e,
                        prefix + (!old ? "mlp.down_proj." + expert : expert + (w ? ".w2_proj" : ".down_proj")));
        }
        EXPECT_FALSE(layer[Projection::kUp].router);
      }
    }
  }
  EXPECT_TRUE(mixlora_case(true, false).with("routing_strategy", "\"mixtral\"").read().ok());
  // Experts of another size than the attention's LoRAs.
  AdapterCase small = mixlora_case(false, false).with("expert_lora", R"({"r":1,"lora_alpha":3})");
  for (MadeTensor& tensor : small.tensors) {
    if (tensor.name.find(".experts.") != std::string::npos)
      tensor.shape[tensor.name.find("lora_A") != std::string::npos ? 0 : 1] = 1;
  }
  const Result<Adapter> adapter = small.read();
  ASSERT_TRUE(adapter.ok()) << adapter.status().message();
  EXPECT_EQ(adapter.value().layers[0][Projection::kUp].rank, 1);
  EXPECT_EQ(adapter.value().layers[0][Projection::kUp].scale, 3.0f);
  EXPECT_EQ(adapter.value().layers[0][Projection::kQ].rank, 2);
}

TEST(AdapterFile, NamesEachTensorThatIsMissingOrExtraOrOfAnotherShape) {
  const AdapterCase cases[] = {lora_case(),
                               routed_case("DYNMOLE", "dynmole", {Projection::kV, Projection::kDown}),
                               mixlora_case(false, false), mixlora_case(true, true)};
  for (const AdapterCase& valid : cases) {
    for (size_t i = 0; i < valid.tensors.size(); ++i) {
      const std::string name = valid.tensors[i].name;
      AdapterCase missing = valid;
      missing.tensors.erase(missing.tensors.begin() + static_cast<ptrdiff_t>(i));
      missing.expect_refused(Code::kCorruptFile, name);
      for (const size_t d : {0, 1}) {
        AdapterCase other = valid;
        ++other.tensors[i].shape[d];
        other.expect_refused(Code::kCorruptFile, "tensor '" + name + "' has shape [");
      }
      AdapterCase flat = valid;
      flat.tensors[i].shape = {flat.tensors[i].elements()};
      flat.expect_refused(Code::kCorruptFile, "tensor '" + name + "' has shape [");
    }
    AdapterCase extra = valid;
    extra.tensors.push_back({"base_model.model.lm_head.lora_A.weight", {1, 6}});
    extra.expect_refused(Code::kCorruptFile, "tensor \"base_model.model.lm_head.lora_A.weight\" is none that");
  }
  // A third layer: the adapter of a larger model.
  AdapterCase deeper = lora_case();
  add_lora(deeper.tensors, "base_model.model.model.layers.2.self_attn.q_proj", 3, Projection::kQ);
  deeper.expect_refused(Code::kCorruptFile, "layers.2.self_attn.q_proj.lora_A.weight\" is none that");
}

TEST(AdapterFile, RefusesTensorsThatAreNotNumbers) {
  AdapterCase lora = lora_case();
  std::string bytes = made_safetensors(lora.tensors);
  const float bad[] = {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()};
  for (const float value : bad) {
    const std::string raw = little_endian(std::bit_cast<uint32_t>(value), 4);
    bytes.replace(bytes.size() - 4, 4, raw);
    const auto file = AdapterTensors::parse(as_bytes(bytes), "adapter_model");
    ASSERT_TRUE(file.ok());
    const auto json = parse_json(lora.config, "c");
    const auto config = parse_adapter_config(json.value());
    const Result<Adapter> adapter = read_adapter(config.value(), file.value(), kSmallModel);
    ASSERT_FALSE(adapter.ok());
    EXPECT_NE(adapter.status().message().find("layers.1.mlp.down_proj.lora_B.weight\" holds NaN or infinity"),
              std::string::npos)
        << adapter.status().message();
  }
  const std::string doubles =
      safetensors_bytes(R"({"x":{"dtype":"F64","shape":[1],"data_offsets":[0,8]}})", "12345678");
  const auto file = AdapterTensors::parse(as_bytes(doubles), "adapter_model");
  ASSERT_FALSE(file.ok());
  EXPECT_EQ(file.status().code(), Code::kUnsupported);
  EXPECT_NE(file.status().message().find("\"x\" is F64"), std::string::npos);
}

TEST(AdapterFile, RefusesASmallFileOfLargeTensors) {
  // Every matrix is one element, repeated by strides of 0.
  const AdapterCase lora = lora_case();
  std::vector<pickle::TensorSpec> specs;
  for (const MadeTensor& tensor : lora.tensors) {
    specs.push_back({.name = tensor.name, .shape = tensor.shape, .stride = {0, 0}, .storage_elements = 1});
  }
  AdaptedModel wide = kSmallModel;
  wide.hidden = wide.q_size = 1 << 17;
  for (pickle::TensorSpec& spec : specs) {
    const Projection p = spec.name.find("q_proj") != std::string::npos   ? Projection::kQ
                         : spec.name.find("o_proj") != std::string::npos ? Projection::kO
                                                                         : Projection::kDown;
    spec.shape = spec.name.find("lora_A") != std::string::npos ? std::vector<int64_t>{3, wide.inputs(p)}
                                                               : std::vector<int64_t>{wide.outputs(p), 3};
  }
  const std::string file_bytes = pickle::torch_bytes(pickle::dictionary(specs), {std::string(4, '\0')});
  const auto file = AdapterTensors::parse(as_bytes(file_bytes), "adapter_model.bin");
  ASSERT_TRUE(file.ok()) << file.status().message();
  const auto json = parse_json(lora.config, "c");
  const auto config = parse_adapter_config(json.value());
  const Result<Adapter> adapter = read_adapter(config.value(), file.value(), wide);
  ASSERT_FALSE(adapter.ok());
  EXPECT_NE(adapter.status().message().find("share their elements"), std::string::npos)
      << adapter.status().message();
}

TEST(AdapterFile, FindsTheFilesOfADirectory) {
  const TemporaryDirectory directory;
  const auto load = [&] { return load_adapter(directory.path(), kSmallModel); };
  EXPECT_EQ(load().status().code(), Code::kInvalidArgument);
  EXPECT_NE(load().status().message().find("holds no adapter_config.json"), std::string::npos);
  const AdapterCase lora = lora_case(DType::kBf16);
  directory.write("adapter_config.json", lora.config);
  EXPECT_EQ(load().status().code(), Code::kInvalidArgument);
  EXPECT_NE(load().status().message().find("neither adapter_model.safetensors nor"), std::string::npos);
  directory.write("adapter_model.bin", made_torch(lora.tensors));
  ASSERT_TRUE(load().ok()) << load().status().message();
  expect_lora(load().value(), DType::kBf16);
  // Both: PEFT's own order.
  directory.write("adapter_model.safetensors", "not one");
  EXPECT_EQ(load().status().code(), Code::kCorruptFile);
  EXPECT_NE(load().status().message().find("adapter_model.safetensors"), std::string::npos);
}

}  // namespace
}  // namespace longhaul
