// The addon's exports: NativeEngine, runKernel, readConfig and devices.
#include <napi.h>

#include "addon_data.h"
#include "convert.h"
#include "engine_wrap.h"
#include "errors.h"
#include "kernel_worker.h"

namespace longhaul {
namespace {

// Devices of this machine, with why one cannot be used.
Napi::Value devices(const Napi::CallbackInfo& call) {
  const Napi::Env env = call.Env();
  Napi::Array list = Napi::Array::New(env);
  for (const DeviceReport& report : list_devices()) {
    Napi::Object device = Napi::Object::New(env);
    device.Set("name", report.name);
    device.Set("available", report.available);
    device.Set("description", report.description);
    list.Set(list.Length(), device);
  }
  return list;
}

// readConfig(directory): the shape of the model there, without its weights.
Napi::Value read_config(const Napi::CallbackInfo& call) {
  const Napi::Env env = call.Env();
  const ModelConfig config = value_or_throw(env, load_config(call[0].As<Napi::String>().Utf8Value()));
  return to_js(env, config);
}

Napi::Object init(Napi::Env env, Napi::Object exports) {
  env.SetInstanceData(new AddonData());
  exports.Set("NativeEngine", EngineWrap::define(env));
  exports.Set("runKernel", Napi::Function::New(env, run_kernel, "runKernel"));
  exports.Set("readConfig", Napi::Function::New(env, read_config, "readConfig"));
  exports.Set("devices", Napi::Function::New(env, devices, "devices"));
  return exports;
}

}  // namespace
}  // namespace longhaul

Napi::Object init_longhaul(Napi::Env env, Napi::Object exports) {
  return longhaul::init(env, exports);
}

NODE_API_MODULE(longhaul, init_longhaul)
