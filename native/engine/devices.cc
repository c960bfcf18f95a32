#include "engine/devices.h"

#include <charconv>
#include <map>
#include <mutex>

#include "engine/cuda_library.h"

namespace longhaul {
namespace {

constexpr const char* kCuda = "cuda";

struct Registry {
  std::mutex mutex;
  std::map<std::string, const DeviceFamily*> families;
};

Registry& registry() {
  static Registry registry;
  return registry;
}

Status no_such_device() {
  return unsupported("this build knows no such device");
}

Result<const DeviceFamily*> find_family(const std::string& name) {
  {
    const std::lock_guard lock(registry().mutex);
    const auto found = registry().families.find(name);
    if (found != registry().families.end()) return found->second;
  }
  if (name == kCuda) return open_cuda_library();
  return no_such_device();
}

// The number behind the colon; 0 without one, -1 when it is none.
int index_of(const std::string& name, size_t colon) {
  if (colon == std::string::npos) return 0;
  int index = -1;
  const char* end = name.data() + name.size();
  const auto [stopped, error] = std::from_chars(name.data() + colon + 1, end, index);
  return error == std::errc() && stopped == end ? index : -1;
}

Result<std::unique_ptr<Backend>> open_member(const std::string& name) {
  const size_t colon = name.find(':');
  const int index = index_of(name, colon);
  if (index < 0) return no_such_device();
  LONGHAUL_ASSIGN(const DeviceFamily* family, find_family(name.substr(0, colon)));
  return family->open(index);
}

}  // namespace

Result<std::unique_ptr<Backend>> open_device(const std::string& name, int threads) {
  if (name == "cpu") return make_cpu_backend(threads);
  if (name == "reference") return make_reference_backend();
  Result<std::unique_ptr<Backend>> backend = open_member(name);
  if (backend.ok()) return backend;
  return Status(backend.status().code(), "device '" + name + "': " + backend.status().message());
}

Result<ChosenDevice> choose_device(const std::string& name, int threads) {
  ChosenDevice chosen;
  std::string wanted = name;
  if (name == "auto") {
    Result<std::unique_ptr<Backend>> gpu = open_member(kCuda);
    if (gpu.ok()) {
      chosen.backend = std::move(gpu.value());
      return chosen;
    }
    chosen.note = gpu.status().message();
    wanted = "cpu";
  }
  LONGHAUL_ASSIGN(chosen.backend, open_device(wanted, threads));
  return chosen;
}

std::vector<DeviceReport> list_devices() {
  std::vector<DeviceReport> reports;
  for (const char* name : {"cpu", "reference"}) {
    const Result<std::unique_ptr<Backend>> backend = open_device(name, 0);
    reports.push_back(
        {name, backend.ok(), backend.ok() ? backend.value()->description() : backend.status().message()});
  }
  const Result<const DeviceFamily*> family = find_family(kCuda);
  for (int index = 0;; ++index) {
    const Result<std::string> description =
        family.ok() ? family.value()->describe(index) : Result<std::string>(family.status());
    if (description.ok()) {
      reports.push_back({kCuda + (":" + std::to_string(index)), true, description.value()});
      continue;
    }
    if (index == 0) reports.push_back({kCuda, false, description.status().message()});
    return reports;
  }
}

void register_devices(const std::string& name, const DeviceFamily& family) {
  const std::lock_guard lock(registry().mutex);
  registry().families[name] = &family;
}

}  // namespace longhaul
