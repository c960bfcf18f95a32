#include "convert.h"

#include <algorithm>
#include <iterator>

#include "errors.h"

namespace longhaul {
namespace {

// Position of a name in the list that an enum follows.
template <class Enum, size_t N>
Enum to_enum(const Napi::Object& object, const char* property, const char* const (&names)[N]) {
  const std::string name = to_text(object, property);
  const auto found = std::find(std::begin(names), std::end(names), name);
  if (found == std::end(names)) {
    throw to_js_error(object.Env(), invalid_argument(std::string(property) + " is unknown: '" + name + "'"));
  }
  return static_cast<Enum>(found - std::begin(names));
}

constexpr const char* kPolicyNames[] = {"full",           "streaming", "snapkv", "snapkv-refed", "keydiff",
                                        "patched-prompt", "tova",      "kvzip",  "episodic"};
constexpr const char* kLevelNames[] = {"pair", "head"};
constexpr const char* kPositionNames[] = {"absolute", "packed"};
constexpr const char* kCacheDtypeNames[] = {"f32", "bf16", "f16"};  // the first of DType
constexpr const char* kKindNames[] = {"progress", "tokens", "done", "failed"};
constexpr const char* kFinishNames[] = {"none", "stop", "length", "cancelled"};

Napi::Number number(Napi::Env env, int64_t value) {
  return Napi::Number::New(env, static_cast<double>(value));
}

template <class Array, class T>
Array to_typed_array(Napi::Env env, const std::vector<T>& values) {
  Array array = Array::New(env, values.size());
  std::copy(values.begin(), values.end(), array.Data());
  return array;
}

Packing to_packing(const Napi::Object& object) {
  return {.times = static_cast<int64_t>(to_number(object, "times")),
          .rotations = static_cast<int64_t>(to_number(object, "rotations")),
          .settled = to_int32(object, "settled")};
}

Napi::Object to_js(Napi::Env env, const Packing& packing) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("times", number(env, packing.times));
  object.Set("rotations", number(env, packing.rotations));
  object.Set("settled", number(env, packing.settled));
  return object;
}

}  // namespace

std::string to_text(const Napi::Object& object, const char* name) {
  return object.Get(name).As<Napi::String>().Utf8Value();
}

double to_number(const Napi::Object& object, const char* name) {
  return object.Get(name).As<Napi::Number>().DoubleValue();
}

int32_t to_int32(const Napi::Object& object, const char* name) {
  return object.Get(name).As<Napi::Number>().Int32Value();
}

bool to_flag(const Napi::Object& object, const char* name) {
  return object.Get(name).As<Napi::Boolean>().Value();
}

std::vector<int32_t> to_tokens(const Napi::Value& value) {
  if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != napi_int32_array) {
    throw to_js_error(value.Env(), invalid_argument("token ids must be an Int32Array"));
  }
  const Napi::Int32Array array = value.As<Napi::Int32Array>();
  return std::vector<int32_t>(array.Data(), array.Data() + array.ElementLength());
}

std::vector<uint8_t> to_bytes(const Napi::Value& value) {
  if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != napi_uint8_array) {
    throw to_js_error(value.Env(), invalid_argument("bytes must be a Uint8Array"));
  }
  const Napi::Uint8Array array = value.As<Napi::Uint8Array>();
  return std::vector<uint8_t>(array.Data(), array.Data() + array.ElementLength());
}

EngineOptions to_engine_options(const Napi::Object& object) {
  return {.directory = to_text(object, "directory"),
          .device = to_text(object, "device"),
          .threads = to_int32(object, "threads"),
          .kv_bytes = static_cast<int64_t>(to_number(object, "kvBytes")),
          .max_batch = static_cast<int64_t>(to_number(object, "maxBatch"))};
}

MemoryPolicy to_memory_policy(const Napi::Object& object) {
  return {.kind = to_enum<PolicyKind>(object, "policy", kPolicyNames),
          .level = to_enum<SelectLevel>(object, "level", kLevelNames),
          .budgets = to_tokens(object.Get("budgets")),
          .block = to_int32(object, "block"),
          .tail = to_int32(object, "tail"),
          .sinks = to_int32(object, "sinks"),
          .window = to_int32(object, "window"),
          .pool_kernel = to_int32(object, "kernel"),
          .prompt = to_tokens(object.Get("prompt")),
          .prompt_rows = to_int32(object, "promptRows"),
          .own = to_tokens(object.Get("own")),
          .prompt_at_last_position = to_flag(object, "promptAtLastPosition"),
          .positions = to_enum<PositionKind>(object, "positions", kPositionNames)};
}

SequenceImage to_sequence_image(const Napi::Object& object) {
  const int32_t pending = to_int32(object, "pending");
  return {
      .geometry = {.layers = to_int32(object, "layers"),
                   .kv_heads = to_int32(object, "kvHeads"),
                   .head_dim = to_int32(object, "headDim"),
                   .dtype = to_enum<DType>(object, "dtype", kCacheDtypeNames)},
      .policy = to_memory_policy(object.Get("policy").As<Napi::Object>()),
      .tokens_seen = static_cast<int64_t>(to_number(object, "tokensSeen")),
      .next_position = static_cast<int64_t>(to_number(object, "nextPosition")),
      .packing = to_packing(object.Get("packing").As<Napi::Object>()),
      .tail_rows = static_cast<int64_t>(to_number(object, "tailRows")),
      .pending = pending < 0 ? std::nullopt : std::optional(pending),
      .recent = to_tokens(object.Get("recent")),
      .peak_pages = static_cast<int64_t>(to_number(object, "peakPages")),
      .rows = {.lengths = to_tokens(object.Get("lengths")), .positions = to_tokens(object.Get("positions"))}};
}

GenerateOptions to_generate_options(const Napi::Object& object) {
  return {.max_tokens = to_int32(object, "maxTokens"),
          .params = {.temperature = static_cast<float>(to_number(object, "temperature")),
                     .top_k = to_int32(object, "topK"),
                     .top_p = static_cast<float>(to_number(object, "topP")),
                     .min_p = static_cast<float>(to_number(object, "minP")),
                     .repetition_penalty = static_cast<float>(to_number(object, "repetitionPenalty")),
                     .seed = static_cast<uint64_t>(to_number(object, "seed"))},
          .stop_tokens = to_tokens(object.Get("stopTokens")),
          .may_evict = to_flag(object, "mayEvict"),
          .confirm = to_flag(object, "confirm")};
}

Pooling to_pooling(const Napi::Value& value) {
  return value.As<Napi::String>().Utf8Value() == "last" ? Pooling::kLast : Pooling::kMean;
}

ProfileOptions to_profile_options(const Napi::Object& object) {
  return {.sinks = to_int32(object, "sinks"),
          .window = to_int32(object, "window"),
          .block = to_int32(object, "block")};
}

Napi::Float32Array to_js(Napi::Env env, const std::vector<float>& values) {
  return to_typed_array<Napi::Float32Array>(env, values);
}

Napi::Int32Array to_js(Napi::Env env, const std::vector<int32_t>& values) {
  return to_typed_array<Napi::Int32Array>(env, values);
}

Napi::Uint8Array to_js(Napi::Env env, const std::vector<uint8_t>& values) {
  return to_typed_array<Napi::Uint8Array>(env, values);
}

Napi::Object to_js(Napi::Env env, const Event& event) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("task", number(env, static_cast<int64_t>(event.task)));
  object.Set("kind", kKindNames[static_cast<size_t>(event.kind)]);
  object.Set("done", number(env, event.done));
  object.Set("total", number(env, event.total));
  if (!event.tokens.empty()) object.Set("tokens", to_js(env, event.tokens));
  if (!event.values.empty()) object.Set("values", to_js(env, event.values));
  object.Set("finish", kFinishNames[static_cast<size_t>(event.finish)]);
  object.Set("sequence", number(env, static_cast<int64_t>(event.sequence)));
  object.Set("adapter", number(env, static_cast<int64_t>(event.adapter)));
  if (event.image != nullptr) object.Set("image", to_js(env, *event.image));
  if (!event.bytes.empty()) object.Set("bytes", to_js(env, event.bytes));
  object.Set("reserved", number(env, event.reserved_bytes));
  object.Set("peak", number(env, event.peak_bytes));
  if (event.kind == EventKind::kFailed) {
    object.Set("code", error_code(event.status.code()));
    object.Set("message", event.status.message());
  }
  return object;
}

Napi::Object to_js(Napi::Env env, const EngineMemory& memory) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("weights", number(env, memory.weights_bytes));
  object.Set("workspace", number(env, memory.workspace_bytes));
  object.Set("tables", number(env, memory.table_bytes));
  object.Set("pool", number(env, memory.pool_bytes));
  object.Set("reserved", number(env, memory.reserved_bytes));
  object.Set("used", number(env, memory.used_bytes));
  object.Set("peak", number(env, memory.peak_bytes));
  return object;
}

Napi::Object to_js(Napi::Env env, const SequenceMemory& memory) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("tokensSeen", number(env, memory.tokens_seen));
  object.Set("nextPosition", number(env, memory.next_position));
  object.Set("packing", to_js(env, memory.packing));
  object.Set("tailRows", number(env, memory.tail_rows));
  object.Set("reserved", number(env, memory.reserved_bytes));
  object.Set("used", number(env, memory.used_bytes));
  object.Set("peak", number(env, memory.peak_bytes));
  object.Set("tables", number(env, memory.table_bytes));
  object.Set("rows", to_js(env, memory.rows));
  return object;
}

Napi::Object to_js(Napi::Env env, const ModelConfig& config) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("architecture", name_of(config.architecture));
  object.Set("vocabularySize", number(env, config.vocab_size));
  object.Set("hiddenSize", number(env, config.hidden_size));
  object.Set("layers", number(env, config.layers));
  object.Set("heads", number(env, config.heads));
  object.Set("kvHeads", number(env, config.kv_heads));
  object.Set("headDim", number(env, config.head_dim));
  object.Set("maxPositions", number(env, config.max_positions));
  return object;
}

Napi::Object to_js(Napi::Env env, const MemoryPolicy& policy) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("policy", kPolicyNames[static_cast<size_t>(policy.kind)]);
  object.Set("level", kLevelNames[static_cast<size_t>(policy.level)]);
  object.Set("budgets", to_js(env, policy.budgets));
  object.Set("block", number(env, policy.block));
  object.Set("tail", number(env, policy.tail));
  object.Set("sinks", number(env, policy.sinks));
  object.Set("window", number(env, policy.window));
  object.Set("kernel", number(env, policy.pool_kernel));
  object.Set("prompt", to_js(env, policy.prompt));
  object.Set("promptRows", number(env, policy.prompt_rows));
  object.Set("own", to_js(env, policy.own));
  object.Set("promptAtLastPosition", policy.prompt_at_last_position);
  object.Set("positions", kPositionNames[static_cast<size_t>(policy.positions)]);
  return object;
}

Napi::Object to_js(Napi::Env env, const SequenceImage& image) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("layers", number(env, image.geometry.layers));
  object.Set("kvHeads", number(env, image.geometry.kv_heads));
  object.Set("headDim", number(env, image.geometry.head_dim));
  object.Set("dtype", name_of(image.geometry.dtype));
  object.Set("policy", to_js(env, image.policy));
  object.Set("tokensSeen", number(env, image.tokens_seen));
  object.Set("nextPosition", number(env, image.next_position));
  object.Set("packing", to_js(env, image.packing));
  object.Set("tailRows", number(env, image.tail_rows));
  object.Set("pending", number(env, image.pending.value_or(-1)));
  object.Set("recent", to_js(env, image.recent));
  object.Set("peakPages", number(env, image.peak_pages));
  object.Set("lengths", to_js(env, image.rows.lengths));
  object.Set("positions", to_js(env, image.rows.positions));
  return object;
}

}  // namespace longhaul
