// runKernel(op, device, inputs): one op on typed arrays, on a thread of libuv's.
#pragma once

#include <napi.h>

namespace longhaul {

Napi::Value run_kernel(const Napi::CallbackInfo& info);

}  // namespace longhaul
