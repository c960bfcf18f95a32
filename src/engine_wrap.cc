#include "engine_wrap.h"

#include <exception>
#include <utility>
#include <vector>

#include "convert.h"
#include "errors.h"

namespace longhaul {
namespace {

constexpr napi_type_tag kEngineTag = {0x6c6f6e676861756cULL, 0x4e6174697665456eULL};

uint64_t to_id(const Napi::Value& value) {
  return static_cast<uint64_t>(value.As<Napi::Number>().Int64Value());
}

// An array of numbers.
std::vector<uint64_t> to_ids(const Napi::Value& value) {
  const Napi::Array array = value.As<Napi::Array>();
  std::vector<uint64_t> ids;
  for (uint32_t i = 0; i < array.Length(); ++i) ids.push_back(to_id(array.Get(i)));
  return ids;
}

// Joins the engine's thread away from the event loop: the step under way may take a while.
class DisposeWorker : public Napi::AsyncWorker {
 public:
  DisposeWorker(EngineWrap& wrap, std::unique_ptr<Engine> engine)
      : Napi::AsyncWorker(wrap.Env()), wrap_(wrap), engine_(std::move(engine)), deferred_(wrap.Env()) {}

  Napi::Promise promise() const { return deferred_.Promise(); }

 protected:
  void Execute() override { engine_.reset(); }
  void OnOK() override {
    wrap_.finish();
    deferred_.Resolve(Env().Undefined());
  }

 private:
  EngineWrap& wrap_;
  std::unique_ptr<Engine> engine_;
  Napi::Promise::Deferred deferred_;
};

}  // namespace

Napi::Function EngineWrap::define(Napi::Env env) {
  return DefineClass(env, "NativeEngine",
                     {InstanceMethod<&EngineWrap::create_sequence>("createSequence"),
                      InstanceMethod<&EngineWrap::release_sequence>("releaseSequence"),
                      InstanceMethod<&EngineWrap::load_adapter>("loadAdapter"),
                      InstanceMethod<&EngineWrap::release_adapter>("releaseAdapter"),
                      InstanceMethod<&EngineWrap::unite>("uniteSequences"),
                      InstanceMethod<&EngineWrap::ingest>("ingest"),
                      InstanceMethod<&EngineWrap::ingest_together>("ingestTogether"),
                      InstanceMethod<&EngineWrap::ingest_shared>("ingestShared"),
                      InstanceMethod<&EngineWrap::generate>("generate"),
                      InstanceMethod<&EngineWrap::truncate>("truncate"),
                      InstanceMethod<&EngineWrap::export_sequence>("exportSequence"),
                      InstanceMethod<&EngineWrap::export_rows>("exportRows"),
                      InstanceMethod<&EngineWrap::import_sequence>("importSequence"),
                      InstanceMethod<&EngineWrap::import_rows>("importRows"),
                      InstanceMethod<&EngineWrap::score>("score"),
                      InstanceMethod<&EngineWrap::embed>("embed"),
                      InstanceMethod<&EngineWrap::profile>("profile"),
                      InstanceMethod<&EngineWrap::cancel>("cancel"),
                      InstanceMethod<&EngineWrap::confirm>("confirm"),
                      InstanceMethod<&EngineWrap::memory>("memory"),
                      InstanceMethod<&EngineWrap::sequence_memory>("sequenceMemory"),
                      InstanceMethod<&EngineWrap::model>("model"),
                      InstanceMethod<&EngineWrap::dispose>("dispose")});
}

EngineWrap* EngineWrap::Unwrap(Napi::Object object) {
  if (!object.IsObject() || !object.CheckTypeTag(&kEngineTag)) {
    throw Napi::TypeError::New(object.Env(), "this is not a NativeEngine");
  }
  return Napi::ObjectWrap<EngineWrap>::Unwrap(object);
}

EngineWrap::EngineWrap(const Napi::CallbackInfo& info) : Napi::ObjectWrap<EngineWrap>(info) {
  const Napi::Env env = info.Env();
  EngineOptions options = to_engine_options(info[0].As<Napi::Object>());
  const Napi::Function on_events = info[1].As<Napi::Function>();
  const napi_status created =
      napi_create_threadsafe_function(env, on_events, nullptr, Napi::String::New(env, "longhaul engine"), 0, 1,
                                      nullptr, nullptr, this, &EngineWrap::call_js, &events_);
  if (created != napi_ok) throw Napi::Error::New(env);
  try {
    engine_ = std::make_unique<Engine>(std::move(options), [events = events_] {
      napi_call_threadsafe_function(events, nullptr, napi_tsfn_nonblocking);
    });
  } catch (const std::exception& error) {
    napi_release_threadsafe_function(events_, napi_tsfn_abort);
    throw to_js_error(env, out_of_memory(std::string("cannot start the engine: ") + error.what()));
  }
  info.This().As<Napi::Object>().TypeTag(&kEngineTag);
  live_tasks_ = 1;
  // Cleanup hooks run newest first: this one stops the thread before the ThreadSafeFunction's own closes it.
  napi_add_env_cleanup_hook(env, &EngineWrap::at_environment_exit, this);
  // JavaScript may forget an engine that works: it stays until disposed of.
  Ref();
}

void EngineWrap::finish() {
  if (events_ == nullptr) return;  // the environment was faster
  napi_remove_env_cleanup_hook(Env(), &EngineWrap::at_environment_exit, this);
  napi_release_threadsafe_function(std::exchange(events_, nullptr), napi_tsfn_abort);
  Unref();
}

void EngineWrap::at_environment_exit(void* self) {
  auto* wrap = static_cast<EngineWrap*>(self);
  wrap->engine_.reset();
  napi_release_threadsafe_function(std::exchange(wrap->events_, nullptr), napi_tsfn_abort);
}

Engine& EngineWrap::engine(Napi::Env env) const {
  if (engine_ == nullptr) throw to_js_error(env, Status(Code::kDisposed, "the engine was disposed of"));
  return *engine_;
}

Napi::Value EngineWrap::started(Napi::Env env, uint64_t task) {
  if (live_tasks_++ == 0) napi_ref_threadsafe_function(env, events_);
  return Napi::Number::New(env, static_cast<double>(task));
}

Napi::Value EngineWrap::create_sequence(const Napi::CallbackInfo& info) {
  MemoryPolicy policy = to_memory_policy(info[0].As<Napi::Object>());
  return started(info.Env(), engine(info.Env()).create_sequence(std::move(policy), to_id(info[1])));
}

Napi::Value EngineWrap::release_sequence(const Napi::CallbackInfo& info) {
  return started(info.Env(), engine(info.Env()).release_sequence(to_id(info[0])));
}

Napi::Value EngineWrap::load_adapter(const Napi::CallbackInfo& info) {
  return started(info.Env(), engine(info.Env()).load_adapter(info[0].As<Napi::String>().Utf8Value()));
}

Napi::Value EngineWrap::release_adapter(const Napi::CallbackInfo& info) {
  return started(info.Env(), engine(info.Env()).release_adapter(to_id(info[0])));
}

Napi::Value EngineWrap::unite(const Napi::CallbackInfo& info) {
  const int64_t shared_tokens = info[2].As<Napi::Number>().Int64Value();
  return started(info.Env(), engine(info.Env()).unite(to_id(info[0]), to_id(info[1]), shared_tokens));
}

Napi::Value EngineWrap::ingest(const Napi::CallbackInfo& info) {
  return started(info.Env(),
                 engine(info.Env()).ingest(to_id(info[0]), to_tokens(info[1]), info[2].ToBoolean()));
}

Napi::Value EngineWrap::ingest_together(const Napi::CallbackInfo& info) {
  return started(info.Env(), engine(info.Env()).ingest_together(to_ids(info[0]), to_tokens(info[1])));
}

Napi::Value EngineWrap::ingest_shared(const Napi::CallbackInfo& info) {
  return started(info.Env(),
                 engine(info.Env()).ingest_shared(to_ids(info[0]), to_tokens(info[1]), to_tokens(info[2])));
}

Napi::Value EngineWrap::generate(const Napi::CallbackInfo& info) {
  GenerateOptions options = to_generate_options(info[2].As<Napi::Object>());
  return started(info.Env(),
                 engine(info.Env()).generate(to_id(info[0]), to_tokens(info[1]), std::move(options)));
}

Napi::Value EngineWrap::truncate(const Napi::CallbackInfo& info) {
  const int64_t tokens = info[1].As<Napi::Number>().Int64Value();
  return started(info.Env(), engine(info.Env()).truncate(to_id(info[0]), tokens));
}

Napi::Value EngineWrap::export_sequence(const Napi::CallbackInfo& info) {
  return started(info.Env(), engine(info.Env()).export_sequence(to_id(info[0])));
}

Napi::Value EngineWrap::export_rows(const Napi::CallbackInfo& info) {
  const int32_t layer = info[1].As<Napi::Number>().Int32Value();
  const int32_t head = info[2].As<Napi::Number>().Int32Value();
  return started(info.Env(), engine(info.Env()).export_rows(to_id(info[0]), layer, head));
}

Napi::Value EngineWrap::import_sequence(const Napi::CallbackInfo& info) {
  SequenceImage image = to_sequence_image(info[0].As<Napi::Object>());
  return started(info.Env(), engine(info.Env()).import_sequence(std::move(image)));
}

Napi::Value EngineWrap::import_rows(const Napi::CallbackInfo& info) {
  const int32_t layer = info[1].As<Napi::Number>().Int32Value();
  const int32_t head = info[2].As<Napi::Number>().Int32Value();
  return started(info.Env(), engine(info.Env()).import_rows(to_id(info[0]), layer, head, to_bytes(info[3])));
}

Napi::Value EngineWrap::score(const Napi::CallbackInfo& info) {
  const ScoreOptions options{.logits = info[1].As<Napi::Boolean>().Value()};
  return started(info.Env(), engine(info.Env()).score(to_tokens(info[0]), options));
}

Napi::Value EngineWrap::embed(const Napi::CallbackInfo& info) {
  return started(info.Env(), engine(info.Env()).embed(to_tokens(info[0]), to_pooling(info[1])));
}

Napi::Value EngineWrap::profile(const Napi::CallbackInfo& info) {
  const ProfileOptions options = to_profile_options(info[1].As<Napi::Object>());
  return started(info.Env(), engine(info.Env()).profile(to_tokens(info[0]), options));
}

void EngineWrap::cancel(const Napi::CallbackInfo& info) {
  engine(info.Env()).cancel(to_id(info[0]));
}

void EngineWrap::confirm(const Napi::CallbackInfo& info) {
  engine(info.Env()).confirm(to_id(info[0]), info[1].As<Napi::Number>().Int64Value());
}

Napi::Value EngineWrap::memory(const Napi::CallbackInfo& info) {
  return to_js(info.Env(), engine(info.Env()).memory());
}

Napi::Value EngineWrap::sequence_memory(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return to_js(env, value_or_throw(env, engine(env).sequence_memory(to_id(info[0]))));
}

Napi::Value EngineWrap::model(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  engine(env);
  if (!loaded_) throw to_js_error(env, invalid_argument("the model is not loaded yet"));
  Napi::Object object = to_js(env, engine(env).config());
  object.Set("dtype", name_of(engine(env).weights_dtype()));
  object.Set("device", engine(env).device_name());
  object.Set("deviceDescription", engine(env).device_description());
  object.Set("deviceNote", engine(env).device_note());
  return object;
}

Napi::Value EngineWrap::dispose(const Napi::CallbackInfo& info) {
  engine(info.Env());
  auto* worker = new DisposeWorker(*this, std::move(engine_));
  worker->Queue();
  return worker->promise();
}

void EngineWrap::call_js(napi_env raw_env, napi_value callback, void* context, void*) {
  if (raw_env == nullptr) return;  // the environment is going away
  const Napi::Env env(raw_env);
  const Napi::HandleScope scope(env);
  try {
    static_cast<EngineWrap*>(context)->deliver(env, Napi::Function(env, callback));
  } catch (const Napi::Error& error) {
    error.ThrowAsJavaScriptException();
  } catch (const std::exception& error) {
    Napi::Error::New(env, error.what()).ThrowAsJavaScriptException();
  }
}

void EngineWrap::deliver(Napi::Env env, const Napi::Function& on_events) {
  if (engine_ == nullptr) return;  // lib/ has failed all tasks when it disposed of the engine
  const std::vector<Event> events = engine_->take_events();
  if (events.empty()) return;
  Napi::Array array = Napi::Array::New(env, events.size());
  for (size_t i = 0; i < events.size(); ++i) {
    array.Set(static_cast<uint32_t>(i), to_js(env, events[i]));
    if (events[i].task == 0 && events[i].kind == EventKind::kDone) loaded_ = true;
    const bool last = events[i].kind == EventKind::kDone || events[i].kind == EventKind::kFailed;
    if (last && --live_tasks_ == 0) napi_unref_threadsafe_function(env, events_);
  }
  on_events.Call({array});
}

}  // namespace longhaul
