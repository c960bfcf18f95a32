// A random model on a device, with a KV pool: what sequences are made on.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "devices_under_test.h"
#include "engine/sequence.h"
#include "random_model.h"

namespace longhaul::testing {

struct Machine {
  std::unique_ptr<Backend> backend;
  std::unique_ptr<Transformer> model;
  std::unique_ptr<PagePool> pool;

  std::unique_ptr<Sequence> sequence(const MemoryPolicy& policy) {
    return std::move(Sequence::create(*model, *pool, policy).value());
  }
};

inline Machine make_machine(const std::string& device, const RandomModel& shape, int64_t pool_bytes,
                            const std::vector<NamedTensor>& tensors) {
  TemporaryDirectory directory;
  write_model(shape, tensors, directory.path());
  Machine machine;
  machine.backend = std::move(make_backend_under_test(device, 2).value());
  machine.model = std::move(Transformer::load(*machine.backend, directory.path(), nullptr).value());
  machine.pool =
      std::move(PagePool::create(*machine.backend, machine.model->kv_geometry(), pool_bytes).value());
  return machine;
}

inline Machine make_machine(const std::string& device, const RandomModel& shape, int64_t pool_bytes) {
  return make_machine(device, shape, pool_bytes, random_tensors(shape));
}

}  // namespace longhaul::testing
