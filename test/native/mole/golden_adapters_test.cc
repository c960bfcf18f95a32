// The adapters of test/fixtures/dynmole: what is read equals what Python's own pickle and zipfile read
// (fixtures/adapter_sums), tensor by tensor, and every broken one does what its case.json says.
#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "model/config.h"
#include "mole/adapter_file.h"

namespace longhaul {
namespace {

const std::string kFixtures = LONGHAUL_FIXTURES;

std::string text_of(const std::string& file, const char* key) {
  const auto json = read_json_file(file, size_t{1} << 20);
  EXPECT_TRUE(json.ok()) << file;
  const Json* value = json.ok() ? json.value().find(key) : nullptr;
  return value && value->as_string() ? *value->as_string() : "";
}

AdaptedModel model_of(const std::string& directory) {
  const auto config = load_config(kFixtures + "/" + text_of(directory + "/case.json", "model"));
  EXPECT_TRUE(config.ok()) << config.status().message();
  return adapted_model(config.value());
}

struct Sums {
  std::vector<int64_t> shape;
  double plain = 0, weighted = 0;
};

Sums sums_of(const Tensor& tensor, int64_t rows, int64_t cols) {
  Sums sums{{rows, cols}};
  EXPECT_EQ(tensor.elements(), rows * cols);
  for (int64_t i = 0; i < tensor.elements(); ++i) {
    sums.plain += tensor.as<float>()[i];
    sums.weighted += static_cast<double>(tensor.as<float>()[i]) * static_cast<double>(7919 * i % 101);
  }
  return sums;
}

// Every tensor of the adapter under the name that it has in the file.
std::map<std::string, Sums> all_sums(const Adapter& adapter, const AdaptedModel& model) {
  std::map<std::string, Sums> all;
  for (int64_t l = 0; l < model.layers; ++l) {
    const LayerAdapter& layer = adapter.layers[static_cast<size_t>(l)];
    const char* prefix = adapter.kind == AdapterKind::kLora      ? "base_model.model.model"
                         : adapter.kind == AdapterKind::kMixLora ? "mixlora"
                                                                 : "dynmole";
    const std::string name = std::string(prefix) + ".layers." + std::to_string(l) + ".";
    if (layer.ffn_router) {
      all[name + "mlp.moe_gate.weight"] = sums_of(layer.ffn_router, layer.ffn_router.shape[0], model.hidden);
    }
    for (int i = 0; i < kProjections; ++i) {
      const auto p = static_cast<Projection>(i);
      const ProjectionAdapter& part = layer[p];
      const std::string module = name + (i < 4 ? "self_attn." : "mlp.") + name_of(p) + ".";
      if (part.router) all[module + "moe_gate.weight"] = sums_of(part.router, part.experts, model.inputs(p));
      for (int32_t e = 0; e < part.experts; ++e) {
        const std::string expert = part.experts > 1 ? module + "experts." + std::to_string(e) + "." : module;
        all[expert + "lora_A.weight"] = sums_of(part.a.slice(e, 1), part.rank, model.inputs(p));
        all[expert + "lora_B.weight"] = sums_of(part.b.slice(e, 1), model.outputs(p), part.rank);
      }
    }
  }
  return all;
}

void expect_golden(const std::string& directory, const std::string& name) {
  const AdaptedModel model = model_of(directory);
  const Result<Adapter> adapter = load_adapter(directory, model);
  ASSERT_TRUE(adapter.ok()) << adapter.status().message();
  EXPECT_TRUE(check(adapter.value(), model).ok());
  EXPECT_EQ(adapter.value().base_model, text_of(directory + "/case.json", "model"));
  const auto golden = read_json_file(kFixtures + "/adapter_sums/sums.json", size_t{1} << 24);
  ASSERT_TRUE(golden.ok());
  const Json* wanted = golden.value().find(name);
  ASSERT_NE(wanted, nullptr);
  const std::map<std::string, Sums> read = all_sums(adapter.value(), model);
  EXPECT_EQ(read.size(), wanted->members().size());
  for (const Json::Member& member : wanted->members()) {
    const auto place = read.find(member.name);
    ASSERT_NE(place, read.end()) << member.name;
    const std::vector<Json>& row = member.value.items();
    for (size_t d = 0; d < 2; ++d)
      EXPECT_EQ(place->second.shape[d], *row[0].items()[d].as_int64()) << member.name;
    EXPECT_NEAR(place->second.plain, *row[1].as_double(), 1e-9) << member.name;
    EXPECT_NEAR(place->second.weighted, *row[2].as_double(), 1e-7) << member.name;
  }
}

TEST(GoldenAdapters, AreReadAsPythonReadsThem) {
  for (const std::string name :
       {"dynmole_all7", "dynmole_all7_qwen3", "dynmole_ffn", "lora_peft", "lora_peft_qwen2", "mixlora"}) {
    SCOPED_TRACE(name);
    expect_golden(kFixtures + "/dynmole/adapters/" + name, name);
  }
  expect_golden(kFixtures + "/dynmole/bad_adapters/control_valid", "control_valid");
}

TEST(GoldenAdapters, HaveTheSizesOfTheirConfigurations) {
  const std::string root = kFixtures + "/dynmole/adapters/";
  const auto read = [&](const char* name) { return load_adapter(root + name, model_of(root + name)); };
  const Result<Adapter> ffn = read("dynmole_ffn");
  ASSERT_TRUE(ffn.ok());
  const ProjectionAdapter& down = ffn.value().layers[2][Projection::kDown];
  EXPECT_EQ(ffn.value().kind, AdapterKind::kDynMole);
  EXPECT_EQ(down.experts, 6);
  EXPECT_EQ(down.rank, 4);
  EXPECT_EQ(down.scale, 2.0f);
  EXPECT_FALSE(ffn.value().layers[2][Projection::kQ].present());
  const Result<Adapter> mix = read("mixlora");
  ASSERT_TRUE(mix.ok());
  EXPECT_EQ(mix.value().router.keep_top_k, 2);
  EXPECT_TRUE(mix.value().router.renormalize);
  EXPECT_EQ(mix.value().layers[0][Projection::kQ].experts, 1);
  EXPECT_EQ(mix.value().layers[0][Projection::kGate].experts, 4);
  const Result<Adapter> lora = read("lora_peft_qwen2");
  ASSERT_TRUE(lora.ok());
  EXPECT_EQ(lora.value().layers[1][Projection::kK].rank, 3);
}

TEST(BadAdapters, AreRefusedAsTheirCasesSay) {
  const std::pair<const char*, std::vector<const char*>> cases[] = {
      {"hostile_eval_inside_valid", {"\"builtins.eval\"", "nothing was executed"}},
      {"hostile_os_system", {"\"os.system\"", "nothing was executed"}},
      {"missing_tensor", {"has no tensor 'dynmole.layers.1.mlp.down_proj.experts.2.lora_B.weight'"}},
      {"truncated_storage", {"tensor \"dynmole.layers.0.mlp.down_proj.moe_gate.weight\" is in storage 0"}}};
  for (const auto& [name, parts] : cases) {
    const std::string directory = kFixtures + "/dynmole/bad_adapters/" + name;
    const Result<Adapter> adapter = load_adapter(directory, model_of(directory));
    ASSERT_FALSE(adapter.ok()) << name;
    EXPECT_EQ(adapter.status().code(), Code::kCorruptFile);
    for (const char* part : parts) {
      EXPECT_NE(adapter.status().message().find(part), std::string::npos) << adapter.status().message();
    }
  }
}

TEST(BadAdapters, OfAnotherModelNameTheTensor) {
  const std::string directory = kFixtures + "/dynmole/adapters/lora_peft";
  const auto config = load_config(kFixtures + "/models/qwen3");
  ASSERT_TRUE(config.ok());
  const Result<Adapter> adapter = load_adapter(directory, adapted_model(config.value()));
  ASSERT_FALSE(adapter.ok());
  const std::string message = adapter.status().message();
  EXPECT_NE(message.find("tensor 'base_model.model.model.layers.0.self_attn."), std::string::npos) << message;
  EXPECT_NE(message.find("'models/llama'"), std::string::npos) << message;
}

}  // namespace
}  // namespace longhaul
