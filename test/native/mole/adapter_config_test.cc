#include "mole/adapter_config.h"

#include <gtest/gtest.h>

#include "mole/adapter_case.h"

namespace longhaul {
namespace {

const AdapterCase kLora{R"({"peft_type":"LORA","r":4,"lora_alpha":8,"target_modules":["q_proj"]})", {}};
const AdapterCase kDyn{
    R"({"peft_type":"DYNMOLE","r":4,"lora_alpha":8,"num_experts":6,"target_modules":["q_proj"]})", {}};
const AdapterCase kMix{
    R"({"peft_type":"MIXLORA","routing_strategy":"mixlora","r":4,"lora_alpha":8,"num_experts":6,"target_modules":["up_proj"]})",
    {}};

Result<AdapterConfig> parse(const AdapterCase& one) {
  const auto json = parse_json(one.config, "adapter_config.json");
  EXPECT_TRUE(json.ok()) << one.config;
  return parse_adapter_config(json.value());
}

void expect_refused(const AdapterCase& one, Code code, std::string_view why) {
  const auto config = parse(one);
  ASSERT_FALSE(config.ok()) << one.config;
  EXPECT_EQ(config.status().code(), code) << config.status().message();
  EXPECT_NE(config.status().message().find(why), std::string::npos) << config.status().message();
}

TEST(AdapterConfig, KnowsEachKind) {
  const std::pair<const char*, AdapterKind> types[] = {{"\"LORA\"", AdapterKind::kLora},
                                                       {"\"DYNMOLE\"", AdapterKind::kDynMole},
                                                       {"\"MOLA\"", AdapterKind::kMola},
                                                       {"\"LORAMOE\"", AdapterKind::kLoraMoe}};
  for (const auto& [type, kind] : types) EXPECT_EQ(parse(kDyn.with("peft_type", type)).value().kind, kind);
  EXPECT_EQ(parse(kMix).value().kind, AdapterKind::kMixLora);
  // Without peft_type the routing strategy says it, and without both it is a LoRA.
  const std::pair<const char*, AdapterKind> strategies[] = {
      {"\"dynmole\"", AdapterKind::kDynMole}, {"\"mola\"", AdapterKind::kMola},
      {"\"loramoe\"", AdapterKind::kLoraMoe}, {"\"mixlora\"", AdapterKind::kMixLora},
      {"\"mixtral\"", AdapterKind::kMixLora}, {"null", AdapterKind::kLora}};
  for (const auto& [strategy, kind] : strategies) {
    const auto config = parse(kDyn.with("peft_type", "null").with("routing_strategy", strategy));
    ASSERT_TRUE(config.ok()) << config.status().message();
    EXPECT_EQ(config.value().kind, kind);
  }
  expect_refused(kLora.with("peft_type", "\"IA3\""), Code::kUnsupported, "peft_type \"IA3\" is not supported");
  expect_refused(kLora.with("peft_type", "null").with("routing_strategy", "\"x\""), Code::kUnsupported,
                 "routing_strategy \"x\"");
  for (const char* strategy : {"\"mixlora-dynamic\"", "\"mixlora-switch\""}) {
    expect_refused(kMix.with("routing_strategy", strategy), Code::kUnsupported, "of MixLoRA only mixlora");
  }
  expect_refused(kMix.with("routing_strategy", "null"), Code::kCorruptFile, "routing_strategy is missing");
}

TEST(AdapterConfig, ReadsRouters) {
  const RouterSettings published = parse(kDyn).value().router;
  EXPECT_EQ(published.top_p, 0.75);
  EXPECT_EQ(published.keep_top_k, 2);
  EXPECT_EQ(published.entropy_index, 1.1);
  EXPECT_EQ(published.entropy_threshold, 0.9);
  EXPECT_EQ(published.entropy_eps, 1e-5);
  EXPECT_EQ(published.entropy_type, EntropyType::kTsallis);
  EXPECT_FALSE(published.renormalize);
  EXPECT_EQ(parse(kDyn).value().experts, 6);

  const RouterSettings other = parse(kDyn.with("top_p", "0.5")
                                         .with("keep_top_k", "3")
                                         .with("entropy_index", "1")
                                         .with("entropy_threshold", "2.5")
                                         .with("entropy_eps", "0.5")
                                         .with("entropy_type", "\"renyi\""))
                                   .value()
                                   .router;
  EXPECT_EQ(other.top_p, 0.5);
  EXPECT_EQ(other.keep_top_k, 3);
  EXPECT_EQ(other.entropy_index, 1.0);
  EXPECT_EQ(other.entropy_threshold, 2.5);
  EXPECT_EQ(other.entropy_eps, 0.5);
  EXPECT_EQ(other.entropy_type, EntropyType::kRenyi);
  EXPECT_EQ(parse(kDyn.with("entropy_threshhold", "0.4")).value().router.entropy_threshold, 0.4);
  EXPECT_EQ(parse(kDyn.with("broadcast_threshhold", "0.3")).value().router.entropy_threshold, 0.3);
  EXPECT_EQ(parse(kDyn.with("entropy_q", "1.5")).value().router.entropy_index, 1.5);

  for (const AdapterCase& top_k : {kMix, kDyn.with("peft_type", "\"MOLA\"")}) {
    const RouterSettings router = parse(top_k.with("top_k", "3")).value().router;
    EXPECT_EQ(router.keep_top_k, 3);
    EXPECT_EQ(router.top_p, 0.0);
    EXPECT_EQ(router.entropy_threshold, 1.0);
    EXPECT_TRUE(router.renormalize);
    EXPECT_EQ(parse(top_k).value().router.keep_top_k, 2);
    expect_refused(top_k.with("top_k", "7"), Code::kCorruptFile,
                   "top_k is 7, expected a whole number from 1 to 6");
  }
  const RouterSettings dense = parse(kDyn.with("peft_type", "\"LORAMOE\"")).value().router;
  EXPECT_EQ(dense.keep_top_k, 6);
  EXPECT_FALSE(dense.renormalize);
}

TEST(AdapterConfig, RefusesWhatIsMissingOrOutOfRange) {
  for (const char* key : {"r", "lora_alpha", "target_modules"}) {
    expect_refused(kLora.with(key, "null"), Code::kCorruptFile, std::string(key) + " is missing");
  }
  expect_refused(kDyn.with("num_experts", "null"), Code::kCorruptFile, "num_experts is missing");
  expect_refused(kDyn.with("num_experts", "65"), Code::kCorruptFile, "num_experts is 65");
  expect_refused(kDyn.with("num_experts", "0"), Code::kCorruptFile, "num_experts is 0");
  expect_refused(kLora.with("r", "0"), Code::kCorruptFile, "r is 0");
  expect_refused(kLora.with("r", "1025"), Code::kCorruptFile, "r is 1025");
  expect_refused(kLora.with("r", "1.5"), Code::kCorruptFile, "r is 1.5");
  expect_refused(kLora.with("r", "\"4\""), Code::kCorruptFile, "r is \"4\"");
  expect_refused(kLora.with("lora_alpha", "-1"), Code::kCorruptFile, "lora_alpha is -1");
  expect_refused(kLora.with("lora_alpha", "1e300"), Code::kCorruptFile, "too large");
  expect_refused(kLora.with("use_rslora", "1"), Code::kCorruptFile, "use_rslora is 1");
  expect_refused(kLora.with("target_modules", "[1]"), Code::kCorruptFile, "target_modules is 1");
  expect_refused(kLora.with("target_modules", R"({"q_proj":1})"), Code::kCorruptFile, "true or false");
  expect_refused(kDyn.with("target_modules", "\"q_proj\""), Code::kCorruptFile, "expected a list of names");
  expect_refused(kDyn.with("keep_top_k", "0"), Code::kCorruptFile, "keep_top_k is 0");
  expect_refused(kDyn.with("top_p", "0"), Code::kCorruptFile, "top_p is 0");
  expect_refused(kDyn.with("entropy_index", "-1.1"), Code::kCorruptFile, "entropy_index is -1.1");
  expect_refused(kDyn.with("entropy_type", "\"shannon\""), Code::kUnsupported, "entropy_type \"shannon\"");
  expect_refused(kLora.with("rank_pattern", R"({"q_proj":0})"), Code::kCorruptFile, "rank_pattern is 0");
  expect_refused(kLora.with("rank_pattern", "[]"), Code::kCorruptFile, "expected an object");
  expect_refused(kLora.with("alpha_pattern", R"({"q_proj":"8"})"), Code::kCorruptFile,
                 "alpha_pattern is \"8\"");
  expect_refused(kLora.with("layers_to_transform", "[-1]"), Code::kCorruptFile, "layers_to_transform is -1");
  expect_refused(kLora.with("exclude_modules", "\"q.*\""), Code::kCorruptFile, "exclude_modules");
  expect_refused(kMix.with("expert_lora", R"({"r":0,"lora_alpha":1})"), Code::kCorruptFile,
                 "expert_lora.r is 0");
  const auto list = parse_json("[]", "x");
  EXPECT_EQ(parse_adapter_config(list.value()).status().code(), Code::kCorruptFile);
}

TEST(AdapterConfig, RefusesVariantsItWouldGetWrong) {
  const std::pair<const char*, const char*> refused[] = {{"bias", "\"all\""},
                                                         {"bias", "\"lora_only\""},
                                                         {"modules_to_save", "[\"lm_head\"]"},
                                                         {"fan_in_fan_out", "true"},
                                                         {"lora_bias", "true"},
                                                         {"target_parameters", "[\"x\"]"},
                                                         {"trainable_token_indices", "[1]"},
                                                         {"layer_replication", "[[0,1]]"},
                                                         {"alora_invocation_tokens", "[1]"},
                                                         {"use_qalora", "true"},
                                                         {"use_something_new", "{\"a\":1}"},
                                                         {"init_lora_weights", "\"pissa\""},
                                                         {"init_lora_weights", "\"pissa_niter_4\""},
                                                         {"init_lora_weights", "\"olora\""},
                                                         {"init_lora_weights", "\"loftq\""},
                                                         {"init_lora_weights", "\"corda\""},
                                                         {"rank_pattern", "{\"q.*\":8}"},
                                                         {"alpha_pattern", "{\"(q|k)_proj\":8}"}};
  for (const auto& [key, value] : refused) {
    expect_refused(kLora.with(key, value), Code::kUnsupported, std::string("adapter_config.json: ") + key);
  }
  expect_refused(kLora.with("layers_to_transform", "[0]").with("layers_pattern", "\"blocks\""),
                 Code::kUnsupported, "layers_pattern");
  expect_refused(kMix.with("act_fn", "\"gelu_new\""), Code::kUnsupported, "act_fn \"gelu_new\"");
  expect_refused(kMix.with("use_dora", "true"), Code::kUnsupported, "use_dora");
  // The published code of DynMoLE takes use_dora and never uses it.
  EXPECT_TRUE(parse(kDyn.with("use_dora", "true")).ok());
  // What is not set, and what changes nothing.
  const std::pair<const char*, const char*> harmless[] = {{"modules_to_save", "null"},
                                                          {"modules_to_save", "[]"},
                                                          {"fan_in_fan_out", "false"},
                                                          {"use_qalora", "false"},
                                                          {"init_lora_weights", "true"},
                                                          {"init_lora_weights", "false"},
                                                          {"init_lora_weights", "\"gaussian\""},
                                                          {"init_lora_weights", "\"eva\""},
                                                          {"loftq_config", "{}"},
                                                          {"lora_dropout", "0.1"},
                                                          {"layers_pattern", "\"layers\""},
                                                          {"task_type", "\"CAUSAL_LM\""},
                                                          {"megatron_core", "\"megatron.core\""}};
  for (const auto& [key, value] : harmless) {
    const auto config = parse(kLora.with(key, value));
    EXPECT_TRUE(config.ok()) << config.status().message();
  }
}

}  // namespace
}  // namespace longhaul
