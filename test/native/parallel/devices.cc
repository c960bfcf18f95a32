#include "devices.h"

#include <cstdlib>
#include <cstring>

#include "core/ops.h"

namespace longhaul::testing {
namespace {

class Apart final : public Backend {
 public:
  explicit Apart(std::unique_ptr<Backend> inner) : inner_(std::move(inner)) {}
  std::string name() const override { return "apart"; }
  std::string description() const override { return inner_->description(); }
  const Ops& ops() const override { return inner_->ops(); }
  DType activation_dtype(DType weights) const override { return inner_->activation_dtype(weights); }
  bool is_host_memory() const override { return false; }
  Result<std::unique_ptr<Stream>> make_stream() override { return inner_->make_stream(); }
  Status upload(Stream& stream, void* device, const void* host, size_t bytes) override {
    return inner_->upload(stream, device, host, bytes);
  }
  Status download(Stream& stream, void* host, const void* device, size_t bytes) override {
    return inner_->download(stream, host, device, bytes);
  }
  Result<Weight> pack(std::span<const Tensor> parts) override { return inner_->pack(parts); }

 protected:
  Result<void*> allocate_bytes(size_t bytes) override { return std::calloc(bytes, 1); }
  void free_bytes(void* data, size_t) override { std::free(data); }

 private:
  std::unique_ptr<Backend> inner_;
};

}  // namespace

Result<std::unique_ptr<Backend>> make_rank_device(const std::string& name) {
  if (name == "cpu") return make_cpu_backend(1);
  LONGHAUL_ASSIGN(std::unique_ptr<Backend> reference, make_reference_backend());
  if (name == "reference") return reference;
  return std::unique_ptr<Backend>(std::make_unique<Apart>(std::move(reference)));
}

}  // namespace longhaul::testing
