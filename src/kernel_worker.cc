#include "kernel_worker.h"

#include <cstring>
#include <new>
#include <optional>

#include "addon_data.h"
#include "errors.h"
#include "kernel_call.h"

namespace longhaul {
namespace {

std::optional<HostArray::Kind> kind_of(napi_typedarray_type type) {
  switch (type) {
    case napi_float32_array:
      return HostArray::Kind::kF32;
    case napi_float64_array:
      return HostArray::Kind::kF64;
    case napi_int32_array:
      return HostArray::Kind::kI32;
    case napi_uint8_array:
      return HostArray::Kind::kU8;
    case napi_uint16_array:
      return HostArray::Kind::kU16;
    default:
      return std::nullopt;
  }
}

// A copy, so that the caller may change or transfer its array while the kernel runs.
HostArray to_host(const Napi::TypedArray& array, const std::string& name) {
  const std::optional<HostArray::Kind> kind = kind_of(array.TypedArrayType());
  if (!kind) throw to_js_error(array.Env(), invalid_argument(name + " has an unsupported element type"));
  HostArray host{*kind, static_cast<int64_t>(array.ElementLength()), std::vector<char>(array.ByteLength())};
  if (!host.bytes.empty()) {
    const char* data = static_cast<const char*>(array.ArrayBuffer().Data()) + array.ByteOffset();
    std::memcpy(host.bytes.data(), data, host.bytes.size());
  }
  return host;
}

KernelInputs to_inputs(const Napi::Object& object) {
  KernelInputs inputs;
  const Napi::Array names = object.GetPropertyNames();
  for (uint32_t i = 0; i < names.Length(); ++i) {
    const std::string name = names.Get(i).As<Napi::String>().Utf8Value();
    const Napi::Value value = object.Get(name);
    if (value.IsTypedArray()) {
      inputs.arrays[name] = to_host(value.As<Napi::TypedArray>(), name);
    } else if (value.IsNumber()) {
      inputs.numbers[name] = value.As<Napi::Number>().DoubleValue();
    } else if (value.IsBoolean()) {
      inputs.numbers[name] = value.As<Napi::Boolean>().Value() ? 1 : 0;
    } else if (value.IsString()) {
      inputs.texts[name] = value.As<Napi::String>().Utf8Value();
    }
  }
  return inputs;
}

Napi::Value to_js(Napi::Env env, const HostArray& array) {
  if (array.kind == HostArray::Kind::kI32) {
    Napi::Int32Array out = Napi::Int32Array::New(env, static_cast<size_t>(array.elements));
    if (!array.bytes.empty()) std::memcpy(out.Data(), array.bytes.data(), array.bytes.size());
    return out;
  }
  Napi::Float32Array out = Napi::Float32Array::New(env, static_cast<size_t>(array.elements));
  if (!array.bytes.empty()) std::memcpy(out.Data(), array.bytes.data(), array.bytes.size());
  return out;
}

class KernelWorker : public Napi::AsyncWorker {
 public:
  KernelWorker(Napi::Env env, Kernel kernel, std::shared_ptr<Backend> backend, KernelInputs inputs)
      : Napi::AsyncWorker(env),
        kernel_(kernel),
        backend_(std::move(backend)),
        inputs_(std::move(inputs)),
        deferred_(env) {}

  Napi::Promise promise() const { return deferred_.Promise(); }

 protected:
  void Execute() override {
    try {
      KernelCall call(std::move(backend_), std::move(inputs_));
      if (call.ok()) kernel_(call);
      status_ = call.status();
      if (status_.ok()) outputs_ = call.take_outputs();
    } catch (const std::bad_alloc&) {
      status_ = out_of_memory("the process has no memory left for this kernel's arrays");
    }
  }

  void OnOK() override {
    const Napi::Env env = Env();
    if (!status_.ok()) {
      deferred_.Reject(to_js_error(env, status_).Value());
      return;
    }
    Napi::Object result = Napi::Object::New(env);
    for (const auto& [name, array] : outputs_) result.Set(name, to_js(env, array));
    deferred_.Resolve(result);
  }

 private:
  Kernel kernel_;
  std::shared_ptr<Backend> backend_;
  KernelInputs inputs_;
  KernelOutputs outputs_;
  Status status_;
  Napi::Promise::Deferred deferred_;
};

}  // namespace

Napi::Value run_kernel(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const std::string name = info[0].As<Napi::String>().Utf8Value();
  const std::string device = info[1].As<Napi::String>().Utf8Value();
  const Kernel kernel = find_kernel(name);
  if (kernel == nullptr) throw to_js_error(env, unsupported("there is no kernel '" + name + "'"));
  std::shared_ptr<Backend> backend = value_or_throw(env, env.GetInstanceData<AddonData>()->backend(device));
  auto* worker = new KernelWorker(env, kernel, std::move(backend), to_inputs(info[2].As<Napi::Object>()));
  worker->Queue();
  return worker->promise();
}

}  // namespace longhaul
