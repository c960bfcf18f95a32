#include "ops/device.h"

#include <cstdlib>
#include <cstring>

#if defined(LONGHAUL_EMULATOR)
#include "emulated/emulated_devices.h"
#elif defined(LONGHAUL_HARDWARE)
#include "engine/devices.h"
#else
#include "cpu/cpu_features.h"
#endif

namespace longhaul::testing {
namespace {

constexpr size_t kGuard = 64;
constexpr char kSentinel = static_cast<char>(0xa5);

#if defined(LONGHAUL_EMULATOR)

// One name for each family of kernels.
const std::string kSm80 = "cuda_emulated_sm80";
const std::string kSm90 = "cuda_emulated_sm90";

Result<std::unique_ptr<Backend>> make_tested_backend(const std::string& name, int) {
  return make_cuda_emulated_backend(name == kSm90 ? 90 : 80);
}

std::vector<std::string> tested_names() {
  return {kSm80, kSm90};
}

#elif defined(LONGHAUL_HARDWARE)

Result<std::unique_ptr<Backend>> make_tested_backend(const std::string& name, int threads) {
  return open_device(name, threads);
}

std::vector<std::string> tested_names() {
  return {"cuda"};
}

#else

const std::string kCpuPrefix = "cpu_";

Result<std::unique_ptr<Backend>> make_tested_backend(const std::string& name, int threads) {
  if (name.starts_with(kCpuPrefix)) ::setenv("LONGHAUL_ISA", name.substr(kCpuPrefix.size()).c_str(), 1);
  auto backend = make_cpu_backend(threads);
  ::unsetenv("LONGHAUL_ISA");
  return backend;
}

std::vector<std::string> tested_names() {
  std::vector<std::string> names;
  for (const cpu::InstructionSet& isa : cpu::supported_instruction_sets())
    names.push_back(kCpuPrefix + isa.name);
  return names;
}

#endif

}  // namespace

std::unique_ptr<Device> Device::open(const std::string& name, int threads) {
  auto backend = name == "reference" ? make_reference_backend() : make_tested_backend(name, threads);
  if (!backend.ok()) {
    ADD_FAILURE() << name << ": " << backend.status().message();
    return nullptr;
  }
  auto device = std::make_unique<Device>();
  device->backend_ = std::move(backend.value());
  auto stream = device->backend_->make_stream();
  if (!stream.ok()) {
    ADD_FAILURE() << name << ": " << stream.status().message();
    return nullptr;
  }
  device->stream_ = std::move(stream.value());
  return device;
}

std::vector<std::string> Device::tested() {
  return tested_names();
}

std::vector<std::string> Device::all() {
  std::vector<std::string> names = tested();
#if !defined(LONGHAUL_EMULATOR) && !defined(LONGHAUL_HARDWARE)
  names.insert(names.begin(), "reference");  // tested once is enough
#endif
  return names;
}

Weight Device::pack(std::vector<Array> parts) {
  std::vector<Tensor> views;
  for (Array& part : parts) views.push_back(part.view(part.bytes.data()));
  auto weight = backend_->pack(views);
  EXPECT_TRUE(weight.ok()) << weight.status().message();
  return weight.ok() ? std::move(weight.value()) : Weight{};
}

void* Placement::place(const std::vector<char>& bytes, Array* target) {
  std::vector<char> staged(kGuard + bytes.size() + kGuard, kSentinel);
  if (!bytes.empty()) std::memcpy(staged.data() + kGuard, bytes.data(), bytes.size());
  auto buffer = device_.backend().allocate(staged.size(), MemoryUse::kWorkspace);
  EXPECT_TRUE(buffer.ok()) << buffer.status().message();
  if (!buffer.ok()) return nullptr;
  void* data = buffer.value().data();
  EXPECT_OK(device_.backend().upload(device_.stream(), data, staged.data(), staged.size()));
  pieces_.push_back({target, bytes, kGuard + bytes.size(), std::move(buffer.value())});
  return static_cast<char*>(data) + kGuard;
}

Tensor Placement::in(const Array& array) {
  return array ? array.view(place(array.bytes, nullptr)) : Tensor();
}

Tensor Placement::out(Array& array) {
  return array ? array.view(place(array.bytes, &array)) : Tensor();
}

void* Placement::in_bytes(const void* data, size_t bytes) {
  const char* from = static_cast<const char*>(data);
  return place(std::vector<char>(from, from + bytes), nullptr);
}

Workspace Placement::workspace(size_t bytes) {
  if (bytes == 0) return {};
  // Garbage on purpose: no op may count on what a workspace holds.
  Array garbage(DType::kU8, {static_cast<int64_t>(bytes)});
  std::fill(garbage.bytes.begin(), garbage.bytes.end(), static_cast<char>(0xff));
  void* data = place(garbage.bytes, nullptr);
  pieces_.back().before.clear();  // its contents are nobody's business afterwards
  return {data, bytes};
}

void Placement::finish() {
  for (Piece& piece : pieces_) {
    std::vector<char> now(piece.buffer.bytes());
    EXPECT_OK(device_.backend().download(device_.stream(), now.data(), piece.buffer.data(), now.size()));
    EXPECT_OK(device_.stream().synchronize());
    for (size_t i = 0; i < kGuard; ++i) {
      ASSERT_EQ(now[i], kSentinel) << "written " << kGuard - i << " bytes in front of a tensor";
      ASSERT_EQ(now[piece.guard_begin + i], kSentinel) << "written " << i << " bytes behind a tensor";
    }
    const char* payload = now.data() + kGuard;
    if (piece.target == nullptr) {
      ASSERT_TRUE(std::equal(piece.before.begin(), piece.before.end(), payload)) << "an input was written";
      continue;
    }
    Array& target = *piece.target;
    std::vector<char> gaps = piece.before;
    std::vector<char> after(payload, payload + gaps.size());
    target.bytes = after;
    for (int64_t i = 0; i < target.size(); ++i) {
      std::memset(gaps.data() + target.offset(i), 0, size_of(target.dtype));
      std::memset(after.data() + target.offset(i), 0, size_of(target.dtype));
    }
    ASSERT_EQ(gaps, after) << "written between the rows of a tensor";
  }
}

}  // namespace longhaul::testing
