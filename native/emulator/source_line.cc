#include "emulator/source_line.h"

#include <dlfcn.h>
#include <link.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstring>

namespace longhaul::emulator {

void source_line(const void* code, char* out, size_t bytes) {
  Dl_info info{};
  link_map* map = nullptr;
  if (dladdr1(code, &info, reinterpret_cast<void**>(&map), RTLD_DL_LINKMAP) == 0 || info.dli_fname == nullptr) {
    std::snprintf(out, bytes, "%p", code);
    return;
  }
  const auto offset = static_cast<size_t>(reinterpret_cast<uintptr_t>(code) - map->l_addr);
  std::snprintf(out, bytes, "%s+0x%zx", info.dli_fname, offset);
  // The main program has no name in the link map; addr2line would take /proc/self for itself.
  char program[256];
  if (map->l_name[0] != '\0') {
    std::snprintf(program, sizeof program, "%s", map->l_name);
  } else {
    std::snprintf(program, sizeof program, "/proc/%d/exe", static_cast<int>(::getpid()));
  }
  char command[512], line[256] = {};
  // The address a call returns to belongs to the next line: one byte back is the call itself.
  std::snprintf(command, sizeof command, "addr2line -e '%s' 0x%zx 2>/dev/null", program, offset - 1);
  FILE* pipe = ::popen(command, "r");
  if (pipe == nullptr) return;
  const bool found = std::fgets(line, sizeof line, pipe) != nullptr && line[0] != '?';
  ::pclose(pipe);
  if (!found) return;
  line[std::strcspn(line, " \n")] = '\0';
  const char* name = std::strrchr(line, '/');
  std::snprintf(out, bytes, "%s", name != nullptr ? name + 1 : line);
}

}  // namespace longhaul::emulator
