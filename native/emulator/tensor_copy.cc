#include "emulator/tensor_copy.h"

#include <cstring>
#include <unordered_map>
#include <vector>

#include "emulator/block.h"

namespace longhaul::emulator {
namespace {

struct Box {
  TensorMap map;
  int coordinates[kMaxTensorRank];
  uint32_t shared_offset;
  Mbarrier* barrier;  // null for stores
  int bytes;
};

std::vector<Box> loads;
std::vector<Box> open_stores;
std::vector<std::vector<Box>> store_groups;
std::unordered_map<const void*, MbarrierClocks> clocks;

int box_elements(const TensorMap& map) {
  int elements = 1;
  for (int d = 0; d < map.rank; ++d) elements *= map.box[d];
  return elements;
}

// Where element `i` of the box lies in global memory; null outside the tensor.
char* global_element(const Box& box, int i) {
  int64_t at = 0;
  for (int d = 0; d < box.map.rank; ++d) {
    const int64_t coordinate = box.coordinates[d] + i % box.map.box[d];
    i /= box.map.box[d];
    if (coordinate < 0 || coordinate >= box.map.size[d]) return nullptr;
    at += coordinate * box.map.stride_bytes[d];
  }
  return const_cast<char*>(static_cast<const char*>(box.map.base)) + at;
}

unsigned char* shared_element(const Box& box, int i) {
  const uint32_t linear = box.shared_offset + static_cast<uint32_t>(i * box.map.element_bytes);
  return current_block->shared + swizzled(linear, box.map.swizzle_bytes);
}

Box make_box(const char* op, const TensorMap& map, const void* shared, Mbarrier* barrier,
             const int* coordinates) {
  const int bytes = box_elements(map) * map.element_bytes;
  const uint32_t offset = shared_offset(shared);
  const uint32_t alignment = map.swizzle_bytes > 0 ? static_cast<uint32_t>(map.swizzle_bytes) * 8 : 128;
  if (offset % alignment != 0)
    fail("%s: the box in shared memory is not a multiple of %u bytes", op, alignment);
  if (map.swizzle_bytes > 0 && map.box[0] * map.element_bytes > map.swizzle_bytes)
    fail("%s: a box %d bytes wide with a swizzle of %d", op, map.box[0] * map.element_bytes, map.swizzle_bytes);
  if (offset + static_cast<size_t>(bytes) > current_block->shared_bytes)
    fail("%s: past the end of shared memory", op);
  Box box{map, {}, offset, barrier, bytes};
  std::memcpy(box.coordinates, coordinates, sizeof(int) * static_cast<size_t>(map.rank));
  return box;
}

void land_load(const Box& box) {
  const auto size = static_cast<size_t>(box.map.element_bytes);
  for (int i = 0; i < box_elements(box.map); ++i) {
    const char* source = global_element(box, i);
    unsigned char* target = shared_element(box, i);
    if (source != nullptr) {
      std::memcpy(target, source, size);
    } else {
      std::memset(target, 0, size);
    }
  }
  mbarrier_complete_bytes(box.barrier, box.bytes);
}

void land_store(const Box& box) {
  note_read(current_block->shared + box.shared_offset, static_cast<size_t>(box.bytes));
  for (int i = 0; i < box_elements(box.map); ++i)
    if (char* target = global_element(box, i))
      std::memcpy(target, shared_element(box, i), static_cast<size_t>(box.map.element_bytes));
}

}  // namespace

uint32_t shared_offset(const void* data) {
  return static_cast<uint32_t>(static_cast<const unsigned char*>(data) - current_block->shared);
}

uint32_t swizzled(uint32_t offset, int swizzle_bytes) {
  const uint32_t chunks =
      static_cast<uint32_t>(swizzle_bytes) / 16;  // 16-byte chunks that are permuted in each row
  return chunks == 0 ? offset : offset ^ (offset >> 7 & (chunks - 1)) << 4;
}

MbarrierClocks& mbarrier_clocks(const void* barrier) {
  return clocks[barrier];
}

void bulk_copy_to_shared(void* target, const TensorMap& map, Mbarrier* barrier, const int* coordinates) {
  const Box box = make_box("bulk tensor load", map, target, barrier, coordinates);
  note_write(target, static_cast<size_t>(box.bytes));
  std::memset(target, 0xff, static_cast<size_t>(box.bytes));
  race_release(mbarrier_clocks(barrier).arriving);
  loads.push_back(box);
  // Somebody may be waiting already, for the arrival that announced these bytes.
  current_block->wake_all(0, current_block->threads, [barrier](const Fiber& fiber) {
    return fiber.state == State::kMbarrier && fiber.mbarrier == barrier;
  });
}

void land_bulk_copies(Mbarrier* barrier) {
  for (size_t i = 0; i < loads.size();) {
    if (loads[i].barrier != barrier) {
      ++i;
      continue;
    }
    const Box box = loads[i];
    loads.erase(loads.begin() + static_cast<ptrdiff_t>(i));
    land_load(box);
  }
}

void bulk_copy_to_global(const TensorMap& map, const void* source, const int* coordinates) {
  open_stores.push_back(make_box("bulk tensor store", map, source, nullptr, coordinates));
}

void bulk_commit() {
  store_groups.push_back(std::move(open_stores));
  open_stores.clear();
}

void bulk_wait(int groups) {
  while (static_cast<int>(store_groups.size()) > groups) {
    for (const Box& box : store_groups.front()) land_store(box);
    store_groups.erase(store_groups.begin());
  }
}

void drop_bulk_copies() {
  loads.clear();
  open_stores.clear();
  store_groups.clear();
  clocks.clear();
}

}  // namespace longhaul::emulator
