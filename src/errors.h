// The one place where a Status becomes an error of JavaScript: an Error with a `code`, which lib/ turns into a
// LonghaulError.
#pragma once

#include <napi.h>

#include "core/status.h"

namespace longhaul {

inline const char* error_code(Code code) {
  switch (code) {
    case Code::kInvalidArgument:
      return "ERR_INVALID_ARGUMENT";
    case Code::kOutOfMemory:
      return "ERR_OUT_OF_MEMORY";
    case Code::kOverloaded:
      return "ERR_OVERLOADED";
    case Code::kUnsupported:
      return "ERR_UNSUPPORTED";
    case Code::kCorruptFile:
      return "ERR_CORRUPT_FILE";
    case Code::kCommunication:
      return "ERR_COMMUNICATION";
    case Code::kDeviceLost:
      return "ERR_DEVICE_LOST";
    // Work is cancelled by a signal, whose reason JavaScript reports instead, or because its owner goes away.
    case Code::kCancelled:
    case Code::kDisposed:
      return "ERR_DISPOSED";
    case Code::kOk:
    case Code::kInternal:
      break;
  }
  return "ERR_INTERNAL";
}

inline Napi::Error to_js_error(Napi::Env env, const Status& status) {
  Napi::Error error = Napi::Error::New(env, status.message());
  error.Set("code", Napi::String::New(env, error_code(status.code())));
  return error;
}

// Unwraps a Result in a function that JavaScript called.
template <class T>
T value_or_throw(Napi::Env env, Result<T> result) {
  if (!result.ok()) throw to_js_error(env, result.status());
  return std::move(result.value());
}

}  // namespace longhaul
