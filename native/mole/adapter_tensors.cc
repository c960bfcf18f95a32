#include "mole/adapter_tensors.h"

#include <bit>
#include <utility>

#include "files/bytes.h"
#include "files/json.h"
#include "files/safetensors.h"

namespace longhaul {
namespace {

constexpr uint32_t kZipSignature = 0x04034b50;

Result<std::vector<StridedEntry>> parse_dense(std::span<const std::byte> file, std::string_view path) {
  LONGHAUL_ASSIGN(std::vector<TensorEntry> dense, parse_safetensors(file, path));
  std::vector<StridedEntry> entries;
  for (TensorEntry& entry : dense) {
    if (!entry.dtype ||
        (*entry.dtype != DType::kF32 && *entry.dtype != DType::kBf16 && *entry.dtype != DType::kF16)) {
      return unsupported(std::string(path) + ": tensor " + quote_for_message(entry.name) + " is " +
                         std::string(entry.format_dtype) + "; adapters must be F32, BF16 or F16");
    }
    StridedEntry strided{std::move(entry.name), *entry.dtype, std::move(entry.shape), {}, entry.offset};
    strided.stride.resize(strided.shape.size());
    int64_t stride = 1;
    for (size_t i = strided.shape.size(); i-- > 0;) {
      strided.stride[i] = stride;
      stride *= strided.shape[i];
    }
    entries.push_back(std::move(strided));
  }
  return entries;
}

// Walks the elements row-major and gives each one's place in the file.
template <class Visit>
void for_each_place(const StridedEntry& entry, Visit visit) {
  int64_t elements = 1;
  for (const int64_t extent : entry.shape) elements *= extent;
  const size_t rank = entry.shape.size(), size = size_of(entry.dtype);
  std::vector<int64_t> index(rank, 0);
  int64_t place = 0;
  for (int64_t i = 0; i < elements; ++i) {
    visit(i, entry.offset + static_cast<size_t>(place) * size);
    for (size_t d = rank; d-- > 0;) {
      place += entry.stride[d];
      if (++index[d] < entry.shape[d]) break;
      place -= entry.shape[d] * entry.stride[d];
      index[d] = 0;
    }
  }
}

}  // namespace

Result<AdapterTensors> AdapterTensors::parse(std::span<const std::byte> file, std::string_view path) {
  AdapterTensors tensors;
  tensors.file_ = file;
  tensors.path_ = path;
  const bool zip = file.size() >= 4 && read_little_endian<uint32_t>(file, 0) == kZipSignature;
  LONGHAUL_ASSIGN(tensors.entries_, zip ? parse_torch_archive(file, path) : parse_dense(file, path));
  for (size_t i = 0; i < tensors.entries_.size(); ++i) tensors.by_name_.emplace(tensors.entries_[i].name, i);
  return tensors;
}

const StridedEntry* AdapterTensors::find(std::string_view name) const {
  const auto place = by_name_.find(name);
  return place == by_name_.end() ? nullptr : &entries_[place->second];
}

Status AdapterTensors::copy(const StridedEntry& entry, const Tensor& out) const {
  LONGHAUL_ASSERT(out.is_dense() && (out.dtype == entry.dtype || out.dtype == DType::kF32));
  bool finite = true;
  if (entry.dtype == DType::kF32) {
    float* values = out.as<float>();
    for_each_place(entry, [&](int64_t i, size_t place) {
      const auto bits = read_little_endian<uint32_t>(file_, place);
      finite &= (bits & 0x7f800000u) != 0x7f800000u;
      values[i] = std::bit_cast<float>(bits);
    });
  } else {
    const bool bf16 = entry.dtype == DType::kBf16;
    const uint32_t exponent = bf16 ? 0x7f80u : 0x7c00u;
    for_each_place(entry, [&](int64_t i, size_t place) {
      const auto bits = read_little_endian<uint16_t>(file_, place);
      finite &= (bits & exponent) != exponent;
      if (out.dtype == DType::kBf16) {
        out.as<Bf16>()[i] = {bits};
      } else if (out.dtype == DType::kF16) {
        out.as<F16>()[i] = {bits};
      } else {
        out.as<float>()[i] = bf16 ? to_f32(Bf16{bits}) : to_f32(F16{bits});
      }
    });
  }
  if (finite) return {};
  return corrupt_file(path_ + ": tensor " + quote_for_message(entry.name) +
                      " holds NaN or infinity; fetch the adapter again or train it anew");
}

}  // namespace longhaul
