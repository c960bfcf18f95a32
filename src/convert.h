// Plain JavaScript values to the engine's structs and back. lib/ has validated what people give; here only the
// kinds of values are checked, by Napi's own conversions, which throw.
#pragma once

#include <napi.h>

#include <string>
#include <vector>

#include "engine/engine.h"

namespace longhaul {

std::string to_text(const Napi::Object& object, const char* name);
double to_number(const Napi::Object& object, const char* name);
int32_t to_int32(const Napi::Object& object, const char* name);
bool to_flag(const Napi::Object& object, const char* name);

// An Int32Array of token ids.
std::vector<int32_t> to_tokens(const Napi::Value& value);
// A Uint8Array.
std::vector<uint8_t> to_bytes(const Napi::Value& value);

EngineOptions to_engine_options(const Napi::Object& object);
MemoryPolicy to_memory_policy(const Napi::Object& object);
SequenceImage to_sequence_image(const Napi::Object& object);
GenerateOptions to_generate_options(const Napi::Object& object);
Pooling to_pooling(const Napi::Value& value);
ProfileOptions to_profile_options(const Napi::Object& object);

Napi::Object to_js(Napi::Env env, const Event& event);
Napi::Object to_js(Napi::Env env, const EngineMemory& memory);
Napi::Object to_js(Napi::Env env, const SequenceMemory& memory);
Napi::Object to_js(Napi::Env env, const ModelConfig& config);
Napi::Object to_js(Napi::Env env, const MemoryPolicy& policy);
Napi::Object to_js(Napi::Env env, const SequenceImage& image);

Napi::Float32Array to_js(Napi::Env env, const std::vector<float>& values);
Napi::Int32Array to_js(Napi::Env env, const std::vector<int32_t>& values);
Napi::Uint8Array to_js(Napi::Env env, const std::vector<uint8_t>& values);

}  // namespace longhaul
